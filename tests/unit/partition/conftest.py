"""Fixtures shared by the partition's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from partition_graphs import SMALL, write_graph, write_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny tokenizer."""
    return str(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture
def small_graph(tmp_path: Path) -> Path:
    """Folder of a graph with every kind of column."""
    return write_graph(tmp_path / "graph", SMALL)
