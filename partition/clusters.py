"""Clusters of the parts of a graph by label propagation: nodes near each other, of about equal weight.

Owns the levels, what becomes of clusters that stay small, and how many parts are worked on at a time. A part
has hundreds of clusters: METIS takes ten times as long for them, and has as many edges between them.
Shape letters: N nodes, P parts, C clusters.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit

from partition import propagation
from partition.choose import side_by_side
from partition.csr import DiskGraph, contracted, open_graph
from partition.scans import cluster_scans
from partition.split import split

SCANS = 3
"""Of the nodes, and then of each graph of clusters."""
LEVELS = 2
"""Graphs of clusters; on the second there is little to move."""
MOST = 1.1
"""What a cluster weighs at most, of the mean asked for: some stay smaller."""
SMALL = 0.5
"""Of the mean. What is lighter, and has no neighbour with room, is put together with others."""


def cluster_parts(
    graph: DiskGraph, weights: np.ndarray, part: np.ndarray, counts: Sequence[int], seed: int, memory: int
) -> np.ndarray:
    """int32 N, cluster of each node within its part, without gaps; about as many as `counts`, P, says.

    `weights` are int64 N, `part` int32 N. Parts are worked on side by side as far as processors and `memory`,
    in bytes, go; the clusters do not depend on that. Scratch files go into the graph's folder.
    """
    folder = graph.folder / "parts.scratch"
    found: np.ndarray = np.zeros(graph.nodes, dtype=np.int32)
    try:
        folders, members, starts = split(graph, folder, part, len(counts))

        def work(index: int) -> None:
            mine = members[starts[index] : starts[index + 1]]
            found[mine] = clusters(open_graph(folders[index]), weights[mine], counts[index], seed)

        workers = side_by_side(nodes=int(np.diff(starts).max()), memory=memory)
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, range(len(counts))))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return found


def clusters(graph: DiskGraph, weights: np.ndarray, count: int, seed: int) -> np.ndarray:
    """int32 N, cluster of each node, from 0 on without gaps; about `count` of them.

    `weights` are int64 N. Scratch files go into the graph's folder and are gone afterwards.
    """
    if count == 1:
        return np.zeros(graph.nodes, dtype=np.int32)
    if count >= graph.nodes:
        return np.arange(graph.nodes, dtype=np.int32)
    mean = int(weights.sum()) / count
    limit = max(int(mean * MOST), 1)
    labels, heft = _scanned(graph, weights, limit, seed)
    found, level = labels, graph
    folders = [graph.folder / f"level{depth}.scratch" for depth in range(LEVELS)]
    try:
        for folder in folders:
            level = contracted(level, folder, labels, len(heft))
            labels, heft = _scanned(level, heft, limit, seed)
            found = labels[found]
        level = contracted(level, graph.folder / "last.scratch", labels, len(heft))
        found = _packed(level, heft, mean)[found]
    finally:
        for folder in (*folders, graph.folder / "last.scratch"):
            shutil.rmtree(folder, ignore_errors=True)
    return _refined(graph, weights, found, limit)


def _scanned(graph: DiskGraph, weights: np.ndarray, limit: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(int32 N, cluster of each node; int64 C, their weights)."""
    labels, heft = cluster_scans(graph, weights, limit, seed, SCANS)
    return _without_gaps(labels), heft[np.bincount(labels, minlength=len(labels)) > 0]


def _without_gaps(labels: np.ndarray) -> np.ndarray:
    """int32, the same clusters by number, in the order of their labels."""
    used = np.bincount(labels) > 0
    number = np.cumsum(used, dtype=np.int32) - 1
    return np.asarray(number[labels])


def _packed(graph: DiskGraph, heft: np.ndarray, mean: float) -> np.ndarray:
    """int32 C, a label for each cluster: small ones share it with those that lie at the same other one."""
    beside = _heaviest_neighbours(graph.indptr, graph.indices, propagation.edge_weights(graph))
    small = np.flatnonzero(heft < SMALL * mean)
    labels = np.arange(len(heft), dtype=np.int32)
    _fill(small[np.argsort(beside[small], kind="stable")], heft, max(int(mean), 1), labels)
    return labels


def _refined(graph: DiskGraph, weights: np.ndarray, labels: np.ndarray, limit: int) -> np.ndarray:
    """int32 N: nodes go to the neighbouring cluster with most of their edges once more."""
    found = _without_gaps(labels)
    heft = np.zeros(int(found.max()) + 1, dtype=np.int64)
    np.add.at(heft, found, weights)
    score = np.zeros(len(heft), dtype=np.int64)
    touched = np.empty(propagation.most_neighbours(graph), dtype=np.int32)
    rows = (graph.indptr, graph.indices, propagation.edge_weights(graph))
    propagation.refine_scan(*rows, weights, found, heft, score, touched, limit)
    return _without_gaps(found)


@njit(nogil=True)
def _heaviest_neighbours(indptr, indices, weights):  # type: ignore[no-untyped-def]
    """int32 N, the neighbour at the heaviest edge, the first of several; -1 without edges."""
    found = np.full(len(indptr) - 1, -1, dtype=np.int32)
    for node in range(len(found)):
        most = 0
        for entry in range(indptr[node], indptr[node + 1]):
            weight = weights[entry] if len(weights) else 1
            if weight > most:
                found[node], most = indices[entry], weight
    return found


@njit(nogil=True)
def _fill(order, heft, limit, labels):  # type: ignore[no-untyped-def]
    """Clusters in this order share a label until they weigh `limit` together. Changes `labels`."""
    label, load = -1, 0
    for cluster in order:
        if label >= 0 and load + heft[cluster] <= limit:
            load += heft[cluster]
        else:
            label, load = cluster, heft[cluster]
        labels[cluster] = label
