"""New nodes join the parts and clusters of their neighbours; the others stay where they were.

Owns who goes where. Never reads a partition and never cuts anything.
Shape letters: N nodes over all types, in the order of types and rows; P parts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from partition.arrays import pieces
from partition.assign import within_parts
from partition.csr import DiskGraph

BALANCE_LIMIT = 1.05
"""Weight of a part as a multiple of the mean, beyond which nobody joins; METIS itself goes to 1.03."""


def place_new(
    graph: DiskGraph, weights: np.ndarray, part: np.ndarray, cluster: np.ndarray, parts: int
) -> tuple[np.ndarray, np.ndarray]:
    """(part, cluster within the part) of each node, both int32 N; clusters of a part leave no gaps.

    -1 in `part` and `cluster` (integers N, clusters counted through all parts or within each) marks a new
    node; `weights` (N) are what parts shall have equal shares of.
    It joins the part of most of its neighbours that has room, there the cluster of most of them, and without
    either the lightest. Nodes that only know new nodes come after those.
    """
    part, cluster = part.copy(), cluster.copy()
    placed = part >= 0
    total = np.zeros(parts)
    for mine in pieces(0, len(part)):
        known = placed[mine]
        total += np.bincount(part[mine][known], weights=weights[mine][known], minlength=parts)
    within = [_cluster_sizes(cluster[part == p]) for p in range(parts)]
    limit = BALANCE_LIMIT * weights.sum() / parts
    for node in _outwards(graph, np.flatnonzero(~placed), placed):
        others, edges = _row(graph, node)
        known = part[others] >= 0
        others, edges = others[known], edges[known]
        part[node] = chosen = _part(part[others], edges, total, limit - weights[node])
        near = part[others] == chosen
        cluster[node] = _cluster(cluster[others[near]], edges[near], within[chosen])
        total[chosen] += weights[node]
        within[chosen][int(cluster[node])] = within[chosen].get(int(cluster[node]), 0) + 1
    return part, within_parts(part, cluster, parts)


def _outwards(graph: DiskGraph, new: np.ndarray, placed: np.ndarray) -> Iterator[int]:
    """The new nodes: first those beside placed ones, then their neighbours; islands by row, whole."""
    seen = placed.copy()
    queue = deque(node for node in new.tolist() if placed[_row(graph, node)[0]].any())
    seen[list(queue)] = True
    for start in [None, *new.tolist()]:
        if start is not None and not seen[start]:
            seen[start] = True
            queue.append(start)
        while queue:
            node = queue.popleft()
            yield node
            others = _row(graph, node)[0]
            others = others[~seen[others]]
            seen[others] = True
            queue.extend(others.tolist())


def _row(graph: DiskGraph, node: int) -> tuple[np.ndarray, np.ndarray]:
    """(neighbours, edges to each) of a node."""
    first, last = graph.indptr[node], graph.indptr[node + 1]
    others = graph.indices[first:last]
    return others, np.ones(len(others), np.int32) if graph.weights is None else graph.weights[first:last]


def _part(known: np.ndarray, edges: np.ndarray, total: np.ndarray, limit: float) -> int:
    votes = np.bincount(known, weights=edges, minlength=len(total))
    open_to = (votes > 0) & (total <= limit)
    if not open_to.any():
        return int(total.argmin())
    return int(np.where(open_to, votes, -1).argmax())


def _cluster(known: np.ndarray, edges: np.ndarray, sizes: dict[int, int]) -> int:
    if len(known):
        names, place = np.unique(known, return_inverse=True)
        return int(names[np.bincount(place, weights=edges).argmax()])
    return min(sizes, key=lambda name: (sizes[name], name), default=0)


def _cluster_sizes(clusters: np.ndarray) -> dict[int, int]:
    names, counts = np.unique(clusters, return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))
