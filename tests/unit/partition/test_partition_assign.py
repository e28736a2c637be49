"""Cutting and numbering, against networkx and counting by hand."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partition.assign import assign, combined_weights, number
from partition.csr import DiskGraph, build, cut_share
from partition.methods import METHODS


def graph_of(folder: Path, ends: np.ndarray, count: int) -> DiskGraph:
    """A graph given by its edges, int64 E x 2."""
    return build(folder / "graph", count, lambda: [(ends[:, 0], ends[:, 1])])


def cut_ends(ends: np.ndarray, count: int, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """(part, cluster) of each node of a graph given by its edges, int64 E x 2."""
    defaults = {"hosts": 1, "trainers": 1, "cluster_size": 500, "method": "metis", "seed": 0}
    defaults |= {"memory": 2**30, "weights": np.ones(count, dtype=np.int64)}
    with TemporaryDirectory() as folder:
        graph = graph_of(Path(folder), ends, count)
        found = assign(graph, **{**defaults, **options})
    return found.part, found.cluster


def cut(graph: nx.Graph, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    ends = np.array(list(graph.edges()), dtype=np.int64).reshape(-1, 2)
    return cut_ends(ends, graph.number_of_nodes(), **options)


def test_two_cliques_on_a_bridge_are_cut_at_the_bridge() -> None:
    graph = nx.barbell_graph(20, 0)
    part, _ = cut(graph, hosts=2)
    assert len(set(part[:20])) == len(set(part[20:])) == 1
    assert part[0] != part[20]


@pytest.mark.parametrize("name", list(METHODS))
def test_the_cut_is_what_networkx_counts(name: str, tmp_path: Path) -> None:
    graph = nx.gnm_random_graph(200, 800, seed=1)
    part, _ = cut(graph, hosts=2, method=name)
    ends = np.array(list(graph.edges()))
    expected = nx.cut_size(graph, set(np.flatnonzero(part == 0))) / 800
    assert cut_share(graph_of(tmp_path, ends, 200), part) == expected


def test_metis_cuts_less_than_chance() -> None:
    graph = nx.connected_caveman_graph(20, 20)
    ends = np.array(list(graph.edges()))
    shares = {}
    for name in METHODS:
        part, _ = cut(graph, hosts=2, trainers=2, method=name)
        shares[name] = (part[ends[:, 0]] != part[ends[:, 1]]).mean()
    assert shares["metis"] < shares["random"] / 4


def test_parts_lie_inside_hosts_and_clusters_inside_parts() -> None:
    graph = nx.connected_caveman_graph(30, 10)
    host, _ = cut(graph, hosts=2)
    part, cluster = cut(graph, hosts=2, trainers=3, cluster_size=10)
    assert (part // 3 == host).all()
    for p in range(6):
        sizes = np.bincount(cluster[part == p])
        assert len(sizes) == round((part == p).sum() / 10)
        assert sizes.min() >= 1


@pytest.mark.parametrize("name", ["metis", "kaminpar"])
def test_nothing_is_printed_where_few_nodes_outweigh_all_others(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    weights = np.full(30_004, 80, dtype=np.int64)
    weights[:4] = 2_000_000
    ends = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [0, 2]])
    part, cluster = cut_ends(ends, len(weights), weights=weights, method=name)
    assert capfd.readouterr().out == ""
    assert (part == 0).all()
    assert 0 < cluster.max() < 60


def test_parallel_edges_count_as_often_as_they_occur(tmp_path: Path) -> None:
    left, right = np.array([0, 0, 1, 1]), np.array([1, 1, 0, 1])
    graph: DiskGraph = build(tmp_path / "graph", 2, lambda: [(left, right)])
    assert graph.indices.tolist() == [1, 0]
    assert graph.weights is not None
    assert graph.weights.tolist() == [3, 3]


def test_each_weight_counts_the_same_whatever_its_unit() -> None:
    few, many = np.array([1.0, 3.0]), np.array([3000.0, 1000.0])
    assert combined_weights([few, many]).tolist() == [200, 200]


def test_heavy_nodes_are_spread_over_hosts() -> None:
    graph = nx.cycle_graph(100)
    weights = np.ones(100, dtype=np.int64)
    weights[:10] = 10
    part, _ = cut(graph, weights=weights, hosts=2)
    loads = np.bincount(part, weights)
    assert loads.max() / loads.mean() < 1.1


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    nodes=st.integers(1, 40),
    edges=st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=60),
    hosts=st.integers(1, 5),
    trainers=st.integers(1, 4),
    method=st.sampled_from(sorted(METHODS)),
)
def test_every_node_gets_one_id_whatever_the_graph(
    nodes: int, edges: list[tuple[int, int]], hosts: int, trainers: int, method: str
) -> None:
    counts = [nodes // 2, 0, nodes - nodes // 2]
    inside = np.array([(a % nodes, b % nodes) for a, b in edges], dtype=np.int64).reshape(-1, 2)
    part, cluster = cut_ends(inside, nodes, hosts=hosts, trainers=trainers, cluster_size=2, method=method)
    assert 0 <= part.min() <= part.max() < hosts * trainers
    numbering = number(["a", "b", "c"], counts, part, cluster, hosts=hosts, trainers=trainers)
    first = 0
    for name, count in zip("abc", counts, strict=True):
        rows, ids, offsets = numbering.rows[name], numbering.ids[name], numbering.offsets[name]
        places = [(part[first + row], cluster[first + row], row) for row in rows]
        assert places == sorted(places)
        assert rows[ids].tolist() == list(range(count))
        assert len(offsets) == sum(numbering.clusters) + 1
        assert (offsets[0], offsets[-1]) == (0, count)
        assert numbering.part_of(name, np.arange(count)).tolist() == [p for p, _, _ in places]
        first += count
