"""Scans for clusters by threads: the same clusters by any number of them, room kept to, groups found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from partition_graphs import planted

from partition import scans
from partition.csr import DiskGraph, cut_share
from partition.scans import cluster_scans

LIMIT = 110


@pytest.fixture
def graph(tmp_path: Path) -> DiskGraph:
    return planted(tmp_path / "graph", groups=32, size=100)[0]


def scanned(
    graph: DiskGraph, monkeypatch: pytest.MonkeyPatch, *, workers: int, many: int
) -> tuple[np.ndarray, np.ndarray]:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(workers)))
    return cluster_scans(graph, np.ones(graph.nodes, dtype=np.int64), LIMIT, 3, 4, many=many)


def test_the_number_of_threads_makes_no_difference(graph: DiskGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scans, "WORKERS", 3)
    alone, heft = scanned(graph, monkeypatch, workers=1, many=0)
    for workers in (2, 3):
        labels, others = scanned(graph, monkeypatch, workers=workers, many=0)
        assert labels.tolist() == alone.tolist()
        assert others.tolist() == heft.tolist()


@pytest.mark.parametrize("many", [0, 1 << 40])
def test_clusters_keep_to_the_limit_and_follow_the_groups(
    graph: DiskGraph, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    labels, heft = scanned(graph, monkeypatch, workers=2, many=many)
    assert heft.tolist() == np.bincount(labels, minlength=graph.nodes).tolist()
    assert heft.max() <= LIMIT
    assert cut_share(graph, labels) < 0.25
