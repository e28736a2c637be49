"""The most that a build takes of the disk and of memory, beside what is told of it before."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from partition_foreseen import foreseen, made, told
from partition_graphs import communities, write_graph

from benchmarks.stream_graph import write_graph as draw_graph
from benchmarks.watched import size_of, watched
from benchmarks.whole_tables import write_tables
from partition.refusals import DISK_FACTOR, MEMORY_FACTOR

JOB = Path(__file__).parents[3] / "benchmarks" / "partition_job.py"


@contextmanager
def watched_disk(folder: Path) -> Iterator[list[int]]:
    """The most bytes that files in a folder had, once the block is over; what is unlinked does not count."""
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], size_of(folder))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ids and texts of strings, features of nodes and edges, held-out edges, reverses."""
    return write_graph(tmp_path_factory.mktemp("rich") / "graph", communities(groups=200))


@pytest.mark.parametrize("hosts", [1, 2, 8])
@pytest.mark.parametrize("texts", [True, False])
def test_the_peak_of_the_disk_is_like_the_forecast(
    hosts: int, texts: bool, graph: Path, tmp_path: Path, tokenizer: str
) -> None:
    options = {"hosts": hosts, "tokenizer": tokenizer if texts else ""}
    found = told(foreseen(graph, tmp_path, **options))
    with watched_disk(tmp_path) as peak:
        made(graph, tmp_path, **options)
    assert peak[0] / DISK_FACTOR < found.peak_disk < peak[0] * DISK_FACTOR


@pytest.mark.parametrize("hosts", [1, 8])
def test_the_peaks_of_a_large_build_are_like_the_forecast(
    hosts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Integer ids, edges in one direction; with few hosts writing takes most memory."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    memory = 150_000_000
    nodes, _ = draw_graph(tmp_path, "community", 1_000_000, seed=0, repeats=False)
    write_tables(tmp_path, nodes)
    options = {"hosts": hosts, "reverse": False, "memory": str(memory)}
    found = told(foreseen(tmp_path / "tables", tmp_path / "out", **options))
    numbers = map(str, (nodes, hosts, 1, memory))
    command = [sys.executable, "-P", str(JOB), "whole", "auto", str(tmp_path), *numbers]
    done = watched(command, tmp_path / "out", disk_sample_s=0.05)
    most = max(found.memory.values())
    assert done.peak_anonymous / MEMORY_FACTOR < most < done.peak_anonymous * MEMORY_FACTOR
    assert done.peak_disk / DISK_FACTOR < found.peak_disk < done.peak_disk * DISK_FACTOR
