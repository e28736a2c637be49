"""Graphs on disk, against scipy's matrices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from partition.csr import DiskGraph, build, contracted, induced
from partition.errors import DataError

Edges = list[tuple[int, int]]
MULTIGRAPHS = st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=120)


def oracle(nodes: int, edges: Edges) -> sparse.csr_array:
    """Edges counted at both of their ends, without loops."""
    ends = np.array([(a % nodes, b % nodes) for a, b in edges], dtype=np.int64).reshape(-1, 2)
    ends = ends[ends[:, 0] != ends[:, 1]]
    ones = np.ones(len(ends), dtype=np.int64)
    half = sparse.coo_array((ones, (ends[:, 0], ends[:, 1])), shape=(nodes, nodes))
    return (half + half.T).tocsr()


def made(folder: Path, nodes: int, edges: Edges, **options: int) -> DiskGraph:
    """The same, on disk, out of chunks of seven edges."""
    ends = np.array([(a % nodes, b % nodes) for a, b in edges], dtype=np.int64).reshape(-1, 2)

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(ends), 7):
            yield ends[start : start + 7, 0], ends[start : start + 7, 1]

    return build(folder, nodes, chunks, **options)


def matrix(graph: DiskGraph) -> sparse.csr_array:
    weights = np.ones(len(graph.indices)) if graph.weights is None else graph.weights
    shape = (graph.nodes, graph.nodes)
    return sparse.csr_array((weights.astype(np.int64), graph.indices, graph.indptr), shape=shape)


def same(graph: DiskGraph, expected: sparse.csr_array) -> None:
    expected.sort_indices()
    assert graph.indptr.tolist() == expected.indptr.tolist()
    assert graph.indices.tolist() == expected.indices.tolist()
    assert matrix(graph).data.tolist() == expected.data.tolist()
    assert (graph.weights is None) == bool((expected.data == 1).all())


@settings(max_examples=150, deadline=None, derandomize=True)
@given(nodes=st.integers(1, 30), edges=MULTIGRAPHS, range_records=st.sampled_from([1, 5, 40, 1 << 20]))
def test_a_graph_on_disk_is_the_matrix_that_scipy_makes(nodes: int, edges: Edges, range_records: int) -> None:
    with TemporaryDirectory() as folder:
        graph = made(Path(folder) / "graph", nodes, edges, range_records=range_records)
        same(graph, oracle(nodes, edges))
        assert graph.edges == oracle(nodes, edges).nnz // 2


@settings(max_examples=100, deadline=None, derandomize=True)
@given(nodes=st.integers(1, 30), edges=MULTIGRAPHS, chosen=st.sets(st.integers(0, 29)))
def test_some_nodes_have_the_edges_between_them(nodes: int, edges: Edges, chosen: set[int]) -> None:
    members = np.array(sorted(node for node in chosen if node < nodes), dtype=np.int64)
    with TemporaryDirectory() as folder:
        graph = made(Path(folder) / "graph", nodes, edges)
        inner = induced(graph, Path(folder) / "inner", members)
        same(inner, oracle(nodes, edges)[members][:, members])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    nodes=st.integers(1, 30),
    edges=MULTIGRAPHS,
    clusters=st.lists(st.integers(0, 6), min_size=30, max_size=30),
    range_records=st.sampled_from([1, 5, 1 << 20]),
)
def test_contraction_is_the_dense_product(
    nodes: int, edges: Edges, clusters: list[int], range_records: int
) -> None:
    of = np.array(clusters[:nodes], dtype=np.int32)
    member = np.zeros((nodes, 7), dtype=np.int64)
    member[np.arange(nodes), of] = 1
    dense = member.T @ oracle(nodes, edges).toarray() @ member
    np.fill_diagonal(dense, 0)
    with TemporaryDirectory() as folder:
        graph = made(Path(folder) / "graph", nodes, edges)
        coarse = contracted(graph, Path(folder) / "coarse", of, 7, range_records=range_records)
        assert matrix(coarse).toarray().tolist() == dense.tolist()


def test_many_ranges_of_many_nodes_are_put_together_in_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ends = rng.integers(0, 200_000, (100_000, 2))
    edges = [(int(a), int(b)) for a, b in ends]
    graph = made(tmp_path / "graph", 200_000, edges, range_records=1000)
    same(graph, oracle(200_000, edges))


def test_row_ranges_cover_all_rows_and_hold_no_more_than_asked(tmp_path: Path) -> None:
    star = [(0, node) for node in range(1, 30)] + [(1, 2), (3, 4)]
    graph = made(tmp_path / "graph", 31, star)
    ranges = list(graph.row_ranges(10))
    assert [first for first, _ in ranges] == [0, *(last for _, last in ranges[:-1])]
    assert ranges[0] == (0, 1)
    assert ranges[-1][1] == 31
    assert all(graph.indptr[last] - graph.indptr[first] <= 10 for first, last in ranges[1:])


def test_scratch_files_are_gone_afterwards(tmp_path: Path) -> None:
    made(tmp_path / "graph", 3, [(0, 1), (1, 0), (1, 2)])
    assert sorted(path.name for path in (tmp_path / "graph").iterdir()) == ["indices", "indptr", "weights"]


def test_more_nodes_than_an_index_can_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2,147,483,648 nodes"):
        build(tmp_path / "graph", 2**31, lambda: [])
