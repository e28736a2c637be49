"""Fixtures shared by the partition's tests."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from partition_graphs import SMALL, write_graph, write_tokenizer
from s3_server import FaultyS3, faulty_s3

from partition.build import BuildOptions, build

_numbers = itertools.count()


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny tokenizer."""
    return str(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture
def small_graph(tmp_path: Path) -> Path:
    """Folder of a graph with every kind of column."""
    return write_graph(tmp_path / "graph", SMALL)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[FaultyS3]:
    with faulty_s3() as server:
        yield server


@pytest.fixture
def s3(s3_server: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """A server without faults whose clients' environment is this process's."""
    s3_server.reset()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    yield s3_server
    s3_server.reset()


@pytest.fixture
def bucket(s3: FaultyS3) -> str:
    """The name of an empty bucket."""
    name = f"bucket-{next(_numbers)}"
    s3.direct.create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="session")
def two_parts(tmp_path_factory: pytest.TempPathFactory, tokenizer: str) -> Path:
    """Folder of a finished partition for two hosts; for reading only."""
    folder = tmp_path_factory.mktemp("two")
    graph = write_graph(folder / "graph", SMALL)
    options = BuildOptions(hosts=2, tokenizer=tokenizer)
    return build(str(graph), options, store=str(folder / "store"), say=lambda line: None)
