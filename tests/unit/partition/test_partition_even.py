"""Blocks made even: within each bound where that can be reached, and left alone where nothing is to mend."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from partition_graphs import SMALL, write_graph

from partition.assign import Bound, assign, combined_weights, even_bounds
from partition.build import BuildOptions, find_or_build
from partition.csr import DiskGraph, build
from partition.even import AIM, evened
from partition.manifest import PartitionManifest
from partition.methods import METHODS


def skewed(folder: Path, nodes: int = 3000) -> tuple[DiskGraph, list[np.ndarray]]:
    """(graph, its nodes, edges, tokens and targets): few nodes have most edges, others have the targets."""
    rng = np.random.default_rng(5)
    ends = (nodes * rng.random((2, 8 * nodes)) ** 2).astype(np.int64)
    graph = build(folder, nodes, lambda: [(ends[0], ends[1])])
    degrees = np.diff(graph.indptr).astype(np.float64)
    targets = (np.arange(nodes) % 7 == 0) * (np.arange(nodes) > nodes // 2)
    return graph, [np.ones(nodes), degrees, np.zeros(nodes), targets.astype(np.float64)]


def over_mean(block: np.ndarray, values: np.ndarray, blocks: int) -> float:
    loads = np.bincount(block, values, minlength=blocks)
    return float(loads.max() / loads.mean())


@pytest.mark.parametrize("name", list(METHODS))
def test_hosts_and_trainers_get_within_every_bound(name: str, tmp_path: Path) -> None:
    graph, counted = skewed(tmp_path / "graph")
    levels = {"hosts": 3, "trainers": 2, "cluster_size": 500, "seed": 0, "memory": 1, "method": name}
    weights = combined_weights(counted)
    as_cut = assign(graph, weights, **levels)  # type: ignore[arg-type]
    even = assign(graph, weights, **levels, bounds=even_bounds(counted))  # type: ignore[arg-type]
    for block, blocks in ((even.part, 6), (even.part // 2, 3)):
        assert over_mean(block, counted[0], blocks) <= 1.05
        assert over_mean(block, counted[1], blocks) <= 1.10
        assert over_mean(block, counted[3], blocks) <= 1.10
    if name != "random":
        assert over_mean(as_cut.part, counted[1], 6) > 1.2


def test_blocks_within_their_bounds_are_left_alone(tmp_path: Path) -> None:
    graph, counted = skewed(tmp_path / "graph")
    block = np.random.default_rng(0).integers(0, 3, graph.nodes)
    measures = np.stack(counted).astype(np.int64)
    assert evened(graph, block, 3, measures, [3.0] * 4).tolist() == block.tolist()


def test_what_loses_no_edges_is_moved_first(tmp_path: Path) -> None:
    """Two cliques in a block and a few loose nodes: the loose ones go."""
    clique = [(a, b) for a in range(10) for b in range(a)]
    ends = np.array([*clique, *((a + 10, b + 10) for a, b in clique)])
    graph = build(tmp_path / "graph", 24, lambda: [(ends[:, 0], ends[:, 1])])
    block = np.repeat([0, 1, 0], [10, 10, 4])
    found = evened(graph, block, 2, np.ones((1, 24), dtype=np.int64), [1.0])
    assert np.bincount(found).tolist() == [12, 12]
    assert found[:20].tolist() == block[:20].tolist()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    measures=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30),
    edges=st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=90),
    blocks=st.integers(2, 4),
    most=st.floats(1.0, 1.5),
)
def test_surplus_never_grows(
    measures: list[tuple[int, int]], edges: list[tuple[int, int]], blocks: int, most: float
) -> None:
    nodes = len(measures)
    values = np.array(measures, dtype=np.int64).T.copy()
    ends = np.array([(a % nodes, b % nodes) for a, b in edges], dtype=np.int64).reshape(-1, 2)
    block = np.arange(nodes) ** 2 % blocks

    def surplus(of: np.ndarray) -> float:
        total = 0.0
        for row in values:
            limit = max(int(row.sum() * (1 + (most - 1) * AIM) / blocks), -(-int(row.sum()) // blocks))
            loads = np.bincount(of, row, minlength=blocks)
            total += float(np.maximum(loads - limit, 0).sum()) / max(int(row.sum()), 1)
        return total

    with TemporaryDirectory() as folder:
        graph = build(Path(folder) / "graph", nodes, lambda: [(ends[:, 0], ends[:, 1])])
        found = evened(graph, block, blocks, values, [most] * 2)
    assert 0 <= found.min() <= found.max() < blocks
    assert surplus(found) <= surplus(block) + 1e-9


def test_a_piece_with_more_than_its_share_gets_a_tighter_bound() -> None:
    bound = Bound(np.array([3, 3, 2, 2]), 1.2).within(np.array([0, 1]), 2)
    assert bound.values.tolist() == [3, 3]
    assert bound.most == pytest.approx(1.0)


def test_even_is_part_of_the_id(tmp_path: Path) -> None:
    folder, store = str(write_graph(tmp_path / "graph", SMALL)), str(tmp_path / "store")
    found = [
        find_or_build(folder, BuildOptions(hosts=2, even=even), store=store, say=lambda line: None)
        for even in (False, True)
    ]
    assert found[0].id != found[1].id
    assert PartitionManifest.load(found[1].path).options["even"] is True
