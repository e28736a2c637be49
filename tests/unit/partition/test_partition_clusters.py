"""Clusters by label propagation, beside METIS's: sizes, edges within, the same by any number of workers."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
from partition_graphs import planted

from partition.choose import choose_clusters
from partition.clusters import MOST, cluster_parts, clusters
from partition.csr import DiskGraph, build, cut_share, induced, open_graph
from partition.methods import METHODS
from partition.split import split

COUNTS = [8, 4, 1]
SIZE = {"nodes": 100, "edges": 1000, "weighted": False, "memory": 1 << 30}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> DiskGraph:
    return planted(tmp_path_factory.mktemp("clusters") / "graph", groups=32, size=100)[0]


def parts_of(graph: DiskGraph) -> np.ndarray:
    return np.random.default_rng(1).integers(0, len(COUNTS), graph.nodes)


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("at_once", [2, 200])
def test_pieces_are_the_graphs_of_their_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repeats: int, at_once: int
) -> None:
    monkeypatch.setattr("partition.split.AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 50, (2, 300))
    ends = np.repeat(left[:9], repeats), np.repeat(right[:9], repeats)
    whole = build(tmp_path / "whole", 50, lambda: [(left, right), ends])
    piece = rng.integers(0, 3, 50)
    folders, members, starts = split(whole, tmp_path / "split", piece, 3)
    for index, found in enumerate(map(open_graph, folders)):
        mine = members[starts[index] : starts[index + 1]]
        assert mine.tolist() == np.flatnonzero(piece == index).tolist()
        wanted = induced(whole, tmp_path / f"induced{index}", mine)
        assert found.indptr.tolist() == wanted.indptr.tolist()
        assert found.indices.tolist() == wanted.indices.tolist()
        assert (found.weights is None) == (wanted.weights is None)
        if found.weights is not None and wanted.weights is not None:
            assert found.weights.tolist() == wanted.weights.tolist()


def test_many_parts_need_few_open_files(graph: DiskGraph) -> None:
    weights = np.full(graph.nodes, 100)
    parts = np.arange(graph.nodes) % 400
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (700, hard))
    try:
        found = cluster_parts(graph, weights, parts, [2] * 400, 0, 1 << 30)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found.max() >= 1


def test_one_cluster_is_all_nodes(tmp_path: Path) -> None:
    ring = np.arange(10)
    islands = build(
        tmp_path / "islands",
        20,
        lambda: [(np.r_[ring, ring + 10], np.r_[(ring + 1) % 10, 10 + (ring + 1) % 10])],
    )
    assert clusters(islands, np.full(20, 100), 1, 0).tolist() == [0] * 20


def test_clusters_have_about_the_size_asked_for(graph: DiskGraph) -> None:
    weights = np.full(graph.nodes, 100)
    sizes = np.bincount(clusters(graph, weights, 16, 0))
    assert sizes.max() <= MOST * graph.nodes / 16
    assert sizes.min() > 0
    assert 14 <= len(sizes) <= 19


def test_as_many_edges_are_within_clusters_as_by_metis(graph: DiskGraph) -> None:
    weights = np.full(graph.nodes, 100)
    by_metis = cut_share(graph, METHODS["metis"](graph, weights, 32, 0, 1 << 30))
    assert cut_share(graph, clusters(graph, weights, 32, 0)) <= by_metis + 0.02


def test_the_number_of_workers_makes_no_difference(graph: DiskGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, part = np.full(graph.nodes, 100), parts_of(graph)
    alone = cluster_parts(graph, weights, part, COUNTS, 7, 0)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(3)))
    together = cluster_parts(graph, weights, part, COUNTS, 7, 1 << 40)
    assert alone.tolist() == together.tolist()
    for p in range(len(COUNTS)):
        found = np.unique(alone[part == p])
        assert found.tolist() == list(range(len(found)))
    assert not (graph.folder / "parts.scratch").exists()


def test_nodes_without_edges_and_heavy_ones_have_clusters(tmp_path: Path) -> None:
    none = np.zeros(0, dtype=np.int64)
    alone = build(tmp_path / "graph", 100, lambda: [(none, none)])
    weights = np.ones(100, dtype=np.int64)
    assert np.bincount(clusters(alone, weights, 10, 0)).tolist() == [10] * 10
    weights[3] = 1000
    assert len(np.unique(clusters(alone, weights, 10, 0))) == 2
    assert clusters(alone, weights, 100, 0).tolist() == list(range(100))


@pytest.mark.parametrize(
    ("asked", "memory", "edges", "chosen"),
    [
        ("auto", 1 << 30, 1000, "metis"),
        ("auto", 1, 1000, "label-propagation"),
        ("auto", 1 << 30, 3_000_000, "label-propagation"),
        ("semi-external", 1 << 30, 3_000_000, "label-propagation"),
        ("metis", 1 << 30, 3_000_000, "metis"),
        ("random", 1 << 30, 3_000_000, "random"),
    ],
)
def test_large_graphs_get_clusters_by_label_propagation(
    asked: str, memory: int, edges: int, chosen: str
) -> None:
    size = {**SIZE, "memory": memory}
    assert choose_clusters(asked, **size, all_edges=edges).method == chosen
