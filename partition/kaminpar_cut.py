"""KaMinPar's cut of a graph on disk: handed over as a ParHIP file, the only way in that its binding has.

Owns that file. KaMinPar reads it row by row into a compressed graph, so the rows are in memory only once.
"""

from __future__ import annotations

from pathlib import Path

import kaminpar
import numpy as np

from partition.csr import CHUNK_EDGES, DiskGraph
from partition.methods import most_weight, silent_stdout

_SMALL_IDS = 8
"""Bits of ParHIP's first word: 32-bit neighbours ..."""
_SMALL_EDGE_WEIGHTS = 32
"""... and edge weights; offsets and node weights keep their 64 bits."""
_NO_EDGE_WEIGHTS = 1


def cut(graph: DiskGraph, weights: np.ndarray, blocks: int, seed: int) -> np.ndarray:
    """int32 N, block of each node.

    On one thread, since with more no two cuts are alike; on one, few differ (docs/partitioning.md).
    """
    path = graph.folder / "parhip.scratch"
    try:
        _write(path, graph, weights)
        with silent_stdout():
            kaminpar.reseed(seed & 0x7FFFFFFF)
            loaded = kaminpar.load_graph(str(path), kaminpar.GraphFileFormat.PARHIP, compress=True)
            solver = kaminpar.KaMinPar(1, kaminpar.terapart_context())
            block = solver.compute_partition(loaded, [most_weight(weights, blocks)] * blocks)
    finally:
        path.unlink(missing_ok=True)
    return np.fromiter(block, dtype=np.int32, count=len(weights))


def _write(path: Path, graph: DiskGraph, weights: np.ndarray) -> None:
    kind = _SMALL_IDS + (_NO_EDGE_WEIGHTS if graph.weights is None else _SMALL_EDGE_WEIGHTS)
    first_row = 3 * 8 + (graph.nodes + 1) * 8
    with path.open("wb") as file:

        def put(values: np.ndarray, dtype: type, *, times: int = 1, plus: int = 0) -> None:
            for start in range(0, len(values), CHUNK_EDGES):
                chunk: np.ndarray = values[start : start + CHUNK_EDGES].astype(dtype)
                file.write((chunk * dtype(times) + dtype(plus)).data.cast("B"))

        put(np.array([kind, graph.nodes, len(graph.indices)]), np.uint64)
        put(graph.indptr, np.uint64, times=graph.indices.itemsize, plus=first_row)  # places in the file
        put(graph.indices, np.int32)
        put(weights, np.int64)
        if graph.weights is not None:
            put(graph.weights, np.int32)
