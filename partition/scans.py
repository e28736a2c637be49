"""Scans for clusters by several threads, with the same clusters whatever their number.

Owns stretches of rows: all nodes of one look at the clusters as they were before it, and are then moved one
after the other. Small graphs are scanned node by node, or most of a graph would look at one state.
Shape letters: N nodes.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise

import numpy as np

from partition import propagation
from partition.csr import DiskGraph

STRETCHES = 256
"""Of all entries, at least; a node seldom has an edge within its own."""
MANY_ENTRIES = 1 << 23
"""Fewer are scanned in half a second."""
WORKERS = 2
"""At most: each has 8 bytes a node for itself."""


def cluster_scans(
    graph: DiskGraph, weights: np.ndarray, limit: int, seed: int, scans: int, *, many: int = MANY_ENTRIES
) -> tuple[np.ndarray, np.ndarray]:
    """(int32 N, cluster of each node, named by one; int64 N, what the clusters weigh, `limit` at most).

    `weights` are int64 N. A node that weighs more is alone. Graphs of `many` entries have several threads.
    """
    labels = np.arange(graph.nodes, dtype=np.int32)
    heft = weights.copy()
    rows = (graph.indptr, graph.indices, propagation.edge_weights(graph), weights, labels, heft)
    draws = [(seed & 0x7FFFFFFF) * scans + scan for scan in range(scans)]
    if len(graph.indices) < many:
        score, touched = _room(graph)
        for draw in draws:
            if not propagation.cluster_scan(*rows, score, touched, limit, draw):
                break
        return labels, heft
    workers = min(WORKERS, len(os.sched_getaffinity(0)))
    rooms = [_room(graph) for _ in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        for draw in draws:
            for first, last in graph.row_ranges(max(len(graph.indices) // STRETCHES, 1)):
                wanted = np.empty(last - first, dtype=np.int32)
                bounds = [(last - first) * part // workers for part in range(workers + 1)]
                looks = [
                    partial(
                        propagation.look_scan,
                        *(*rows, *room, limit, draw, first + low, first + high, wanted[low:high]),
                    )
                    for room, (low, high) in zip(rooms, pairwise(bounds), strict=True)
                ]
                for look in [pool.submit(look) for look in looks]:
                    look.result()
                propagation.move_scan(weights, labels, heft, limit, first, last, wanted)
    return labels, heft


def _room(graph: DiskGraph) -> tuple[np.ndarray, np.ndarray]:
    """(int64 N of zeros, int32 for the neighbours of a node): what a scan writes into."""
    most = propagation.most_neighbours(graph)
    return np.zeros(graph.nodes, dtype=np.int64), np.empty(most, dtype=np.int32)
