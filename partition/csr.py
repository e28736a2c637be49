"""An undirected graph in files that are mapped into memory, so that it may be larger than memory.

Owns the files: built from chunks of edges, cut down to some of its nodes, contracted. Never cuts a graph.
Shape letters: N nodes, E undirected edges, each stored at both of its ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np

from partition.errors import DataError
from partition.spill import RANGE_RECORDS, Records, in_order

CHUNK_EDGES = 1 << 18
"""Edges handled at a time."""
MAX_NODES = 2**31 - 1
_MAX_WEIGHT = 2**31 - 1

Chunks = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]
"""Edges as (int C, int C) arrays of nodes; called twice."""


@dataclass(frozen=True)
class DiskGraph:
    """Symmetric rows of neighbours, ascending, without loops; read only."""

    folder: Path
    indptr: np.ndarray
    """int64 N + 1, mapped."""
    indices: np.ndarray
    """int32 2E, mapped."""
    weights: np.ndarray | None
    """int32 2E, mapped: parallel edges, or what was contracted into one; None: all 1."""

    @property
    def nodes(self) -> int:
        return len(self.indptr) - 1

    @property
    def edges(self) -> int:
        return len(self.indices) // 2

    def row_ranges(self, entries: int = 2 * CHUNK_EDGES) -> Iterator[tuple[int, int]]:
        """[first, last) rows that together have so many entries at most, or one row that has more."""
        first = 0
        while first < self.nodes:
            upto = np.searchsorted(self.indptr, self.indptr[first] + entries, side="right") - 1
            last = min(max(int(upto), first + 1), self.nodes)
            yield first, last
            first = last

    def entries(self, first: int, last: int) -> Records:
        """Rows from `first` to before `last` as (row, neighbour, weight)."""
        start, stop = int(self.indptr[first]), int(self.indptr[last])
        degrees = np.diff(self.indptr[first : last + 1])
        rows = np.repeat(np.arange(first, last, dtype=np.int32), degrees)
        weights = None if self.weights is None else self.weights[start:stop]
        return Records(rows, self.indices[start:stop], weights)


def build(folder: Path, nodes: int, chunks: Chunks, *, range_records: int = RANGE_RECORDS) -> DiskGraph:
    """The graph of some directed edges: loops dropped, directions dropped, repeated edges counted.

    `folder` is made. DataError for more than MAX_NODES nodes.
    """
    if nodes > MAX_NODES:
        raise DataError(f"{nodes:,} nodes: at most {MAX_NODES:,} can be cut")

    def both_ways() -> Iterator[Records]:
        for left, right in chunks():
            keep = left != right
            left, right = left[keep], right[keep]
            yield Records(np.concatenate([left, right]), np.concatenate([right, left]))

    return _from_records(folder, nodes, both_ways, range_records)


def open_graph(folder: Path) -> DiskGraph:
    """A graph that was made in this folder."""
    weighted = (folder / "weights").exists()
    return DiskGraph(
        folder,
        _mapped(folder / "indptr", np.int64),
        _mapped(folder / "indices", np.int32),
        _mapped(folder / "weights", np.int32) if weighted else None,
    )


def contracted(
    graph: DiskGraph, folder: Path, clusters: np.ndarray, count: int, *, range_records: int = RANGE_RECORDS
) -> DiskGraph:
    """One node per cluster; an edge weighs what the edges between two clusters weigh together.

    `clusters` is int N, from 0 to below `count`. `folder` is made.
    """

    def between() -> Iterator[Records]:
        for first, last in graph.row_ranges():
            entries = graph.entries(first, last)
            # Row by row, not entry by entry: those are looked up all over memory.
            rows = np.repeat(clusters[first:last], np.diff(graph.indptr[first : last + 1]))
            columns = clusters[entries.columns]
            keep = rows != columns
            weights = None if entries.weights is None else entries.weights[keep]
            yield Records(rows[keep], columns[keep], weights)

    return _from_records(folder, count, between, range_records)


def cut_share(graph: DiskGraph, block: np.ndarray) -> float:
    """Share of the edges, by weight, between nodes of two blocks; `block` is int N."""
    cut = total = 0
    for first, last in graph.row_ranges():
        entries = graph.entries(first, last)
        apart = block[entries.rows] != block[entries.columns]
        weights = np.ones(len(apart), np.int64) if entries.weights is None else entries.weights
        cut += int(weights[apart].sum())
        total += int(weights.sum())
    return cut / total if total else 0.0


def induced(graph: DiskGraph, folder: Path, members: np.ndarray) -> DiskGraph:
    """Some nodes, int ascending, and the edges between them; a node's number is its place in `members`.

    `folder` is made.
    """
    place = np.full(graph.nodes, -1, dtype=np.int32)
    place[members] = np.arange(len(members), dtype=np.int32)
    with RowWriter(folder) as writer:
        for first, last in graph.row_ranges():
            low, high = np.searchsorted(members, (first, last))
            if low == high:
                continue
            entries = graph.entries(first, last)
            columns = place[entries.columns]
            rows = place[entries.rows]
            keep = (rows >= 0) & (columns >= 0)
            degrees = np.bincount(rows[keep] - low, minlength=int(high - low))
            weights = None if entries.weights is None else entries.weights[keep]
            writer.append(degrees, columns[keep], weights)
    return writer.graph()


def _from_records(
    folder: Path, nodes: int, source: Callable[[], Iterable[Records]], range_records: int
) -> DiskGraph:
    with RowWriter(folder) as writer:
        for first, last, keys, weights in in_order(folder, nodes, source, range_records=range_records):
            degrees = np.bincount((keys >> 32) - first, minlength=last - first)
            writer.append(degrees, (keys & 0xFFFFFFFF).astype(np.int32), weights)
    return writer.graph()


class RowWriter:
    """The files of a graph, row after row; weights are kept only where one is not 1. `folder` is made."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._indptr, self._indices = ((folder / name).open("wb") for name in ("indptr", "indices"))
        self._weights: IO[bytes] | None = None
        self._entries = 0
        _put(self._indptr, np.zeros(1, dtype=np.int64))

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._indptr, self._indices, self._weights):
            if file is not None:
                file.close()

    def append(self, degrees: np.ndarray, indices: np.ndarray, weights: np.ndarray | None) -> None:
        """The next rows: entries of each, and all their neighbours."""
        _put(self._indptr, self._entries + np.cumsum(degrees, dtype=np.int64))
        _put(self._indices, indices)
        if self._weights is None and weights is not None and (weights != 1).any():
            self._weights = (self._folder / "weights").open("wb")
            for first in range(0, self._entries, CHUNK_EDGES):
                _put(self._weights, np.ones(min(CHUNK_EDGES, self._entries - first), dtype=np.int32))
        if self._weights is not None:
            given = np.ones(len(indices), np.int32) if weights is None else np.minimum(weights, _MAX_WEIGHT)
            _put(self._weights, given.astype(np.int32, copy=False))
        self._entries += len(indices)

    def graph(self) -> DiskGraph:
        """What was written; the files are closed by then."""
        return open_graph(self._folder)


def _put(file: IO[bytes], values: np.ndarray) -> None:
    file.write(np.ascontiguousarray(values).data.cast("B"))


def _mapped(path: Path, dtype: type) -> np.ndarray:
    """A file's numbers, not to be changed; nothing can be mapped of an empty file."""
    if path.stat().st_size:
        return np.asarray(np.memmap(path, dtype, mode="r"))
    empty: np.ndarray = np.zeros(0, dtype=dtype)
    empty.flags.writeable = False
    return empty
