"""All pieces of a graph as graphs of their own, in one sweep over its rows for many of them.

Owns the files of the pieces until they are graphs. csr.induced makes one of them, reading all rows for it.
Shape letters: N nodes, K pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numba import njit

from partition.csr import DiskGraph, RowWriter
from partition.propagation import edge_weights

AT_ONCE = 200
"""Pieces of one sweep: each has two or three files open, of the 1,024 that processes often may have."""


def split(
    graph: DiskGraph, folder: Path, piece: np.ndarray, pieces: int
) -> tuple[Sequence[Path], np.ndarray, np.ndarray]:
    """(folder of each piece; int32 N, nodes piece by piece, ascending; int64 K + 1, where each begins there).

    `piece` is int N, from 0 to below K. Edges between pieces are left out. A node's number in its piece is
    its place among the piece's. `folder` is made.
    """
    folder.mkdir()
    members = np.argsort(piece, kind="stable").astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(np.bincount(piece, minlength=pieces))])
    place = np.empty(len(piece), dtype=np.int32)
    place[members] = np.arange(len(piece), dtype=np.int32)
    weights = edge_weights(graph)
    folders = [folder / str(index) for index in range(pieces)]
    for group in (range(first, min(first + AT_ONCE, pieces)) for first in range(0, pieces, AT_ONCE)):
        with ExitStack() as open_files:
            writers = {index: open_files.enter_context(RowWriter(folders[index])) for index in group}
            for first, last in graph.row_ranges():
                mine = slice(int(graph.indptr[first]), int(graph.indptr[last]))
                here = piece[first:last]
                rows = np.diff(graph.indptr[first : last + 1])
                fill = np.concatenate([[0], np.cumsum(np.bincount(here, rows, pieces))]).astype(np.int64)
                ends = fill[:-1].copy()
                columns = np.empty(fill[-1], dtype=np.int32)
                kept = np.empty(fill[-1] if len(weights) else 0, dtype=np.int32)
                degrees = _sweep(
                    graph.indptr[first : last + 1], graph.indices[mine], weights[mine], place, starts, here,
                    ends, columns, kept,
                )  # fmt: skip
                for index in group:
                    part = slice(int(fill[index]), int(ends[index]))
                    heft = kept[part] if len(weights) else None
                    writers[index].append(degrees[here == index], columns[part], heft)
    return folders, members, starts


@njit(nogil=True)
def _sweep(  # type: ignore[no-untyped-def]
    indptr, indices, weights, place, starts, piece, ends, columns, kept
):
    """int64, entries of each row within its piece.

    `columns` and `kept`, their weights, are written piece by piece: `ends`, int64 K, is where each begins,
    and afterwards where it ends.
    """
    degrees = np.zeros(len(piece), dtype=np.int64)
    for row in range(len(piece)):
        mine = piece[row]
        low, high = starts[mine], starts[mine + 1]
        end = ends[mine]
        for entry in range(indptr[row] - indptr[0], indptr[row + 1] - indptr[0]):
            column = place[indices[entry]]
            if low <= column < high:
                columns[end] = column - low
                if len(weights):
                    kept[end] = weights[entry]
                end += 1
        degrees[row] = end - ends[mine]
        ends[mine] = end
    return degrees
