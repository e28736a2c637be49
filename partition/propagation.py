"""Scans over the rows of a graph that move nodes to where most of their edges are; compiled by numba.

Owns the inner loops of clustering and refinement. Knows nothing of files; rows are read in their order, so
that mapped ones come from the disk in one sweep. A draw is a hash of seed and node: the same every time.
Shape letters: N nodes, E undirected edges, K blocks. An empty array of edge weights means 1 each.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from partition.arrays import pieces
from partition.csr import DiskGraph

_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def edge_weights(graph: DiskGraph) -> np.ndarray:
    """int32 2E, or empty."""
    if graph.weights is not None:
        return graph.weights
    none: np.ndarray = np.zeros(0, dtype=np.int32)
    none.flags.writeable = False  # the type of a mapped array, or numba would compile twice
    return none


def most_neighbours(graph: DiskGraph) -> int:
    """Of any node."""
    spans = (graph.indptr[mine.start : mine.stop + 1] for mine in pieces(0, graph.nodes))
    return max((int(np.diff(span).max()) for span in spans), default=0)


@njit(nogil=True)
def _hash(seed, node):  # type: ignore[no-untyped-def]
    """64 bits of splitmix64."""
    value = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(node)
    value = (value ^ (value >> np.uint64(30))) * _MIX_1
    value = (value ^ (value >> np.uint64(27))) * _MIX_2
    return value ^ (value >> np.uint64(31))


@njit(nogil=True)
def gather(indptr, indices, weights, labels, node, score, touched):  # type: ignore[no-untyped-def]
    """Adds a node's edges up by the label of the other end; number of labels, listed in `touched`."""
    count = 0
    for entry in range(indptr[node], indptr[node + 1]):
        label = labels[indices[entry]]
        if score[label] == 0:
            touched[count] = label
            count += 1
        score[label] += weights[entry] if len(weights) else 1
    return count


@njit(nogil=True)
def best_cluster(  # type: ignore[no-untyped-def]
    indptr, indices, weights, node_weights, labels, heft, score, touched, limit, seed, node
):
    """The neighbouring cluster with most of a node's edges and room for it, or its own. Ties are drawn."""
    count = gather(indptr, indices, weights, labels, node, score, touched)
    own = labels[node]
    weight = node_weights[node]
    best, most, draw = own, score[own], _hash(seed, node)
    for place in range(count):
        label = touched[place]
        found = score[label]
        score[label] = 0
        if label == own or found < most or heft[label] + weight > limit:
            continue
        if found == most and (best == own or _hash(draw, label) < _hash(draw, best)):
            continue
        best, most = label, found
    return best


@njit(nogil=True)
def cluster_scan(  # type: ignore[no-untyped-def]
    indptr, indices, weights, node_weights, labels, heft, score, touched, limit, seed
):
    """Each node goes to the neighbouring cluster with most of its edges and room for it; moves made.

    Changes `labels`, int32 N, and `heft`, int64 N, what each cluster weighs. `score`, int64 N, is 0 before
    and after, `touched` has room for the highest degree.
    """
    moved = 0
    for node in range(len(indptr) - 1):
        best = best_cluster(
            indptr, indices, weights, node_weights, labels, heft, score, touched, limit, seed, node
        )
        own = labels[node]
        if best != own:
            heft[own] -= node_weights[node]
            heft[best] += node_weights[node]
            labels[node] = best
            moved += 1
    return moved


@njit(nogil=True)
def look_scan(  # type: ignore[no-untyped-def]
    indptr, indices, weights, node_weights, labels, heft, score, touched, limit, seed, first, last, wanted
):
    """Where nodes from `first` to before `last` would go, into `wanted`, int32; nothing is moved."""
    for node in range(first, last):
        wanted[node - first] = best_cluster(
            indptr, indices, weights, node_weights, labels, heft, score, touched, limit, seed, node
        )


@njit(nogil=True)
def move_scan(node_weights, labels, heft, limit, first, last, wanted):  # type: ignore[no-untyped-def]
    """Moves these nodes one after the other, where there is room still and the cluster is not left by all."""
    for node in range(first, last):
        own, best, weight = labels[node], wanted[node - first], node_weights[node]
        if best != own and heft[best] > 0 and heft[best] + weight <= limit:
            heft[own] -= weight
            heft[best] += weight
            labels[node] = best


@njit(nogil=True)
def gather_lone(indptr, node_weights, labels, heft, limit):  # type: ignore[no-untyped-def]
    """Nodes without edges share clusters of up to `limit`: nothing else would ever merge them."""
    open_label = -1
    for node in range(len(indptr) - 1):
        if indptr[node + 1] > indptr[node]:
            continue
        weight = node_weights[node]
        if open_label >= 0 and heft[open_label] + weight <= limit:
            heft[node] -= weight
            heft[open_label] += weight
            labels[node] = open_label
        else:
            open_label = node


@njit(nogil=True)
def refine_scan(  # type: ignore[no-untyped-def]
    indptr, indices, weights, node_weights, block, load, score, touched, limit
):
    """Each node goes to the neighbouring block with most of its edges, where `limit` allows; moves made.

    A node of a block over the limit goes to the best neighbouring block with room, even if edges are lost.
    Changes `block`, int32 N, and `load`, int64 K. `score`, int64 K, is 0 before and after.
    """
    moved = 0
    for node in range(len(indptr) - 1):
        count = gather(indptr, indices, weights, block, node, score, touched)
        own = block[node]
        weight = node_weights[node]
        best, most = own, score[own]
        over = load[own] > limit
        if over:
            most = -1
        for place in range(count):
            label = touched[place]
            found = score[label]
            score[label] = 0
            if label == own or load[label] + weight > limit:
                continue
            lighter = load[label] + weight < load[best] + (0 if best == own else weight)
            if found > most or (found == most and lighter):
                best, most = label, found
        if best != own:
            load[own] -= weight
            load[best] += weight
            block[node] = best
            moved += 1
    return moved


@njit(nogil=True)
def unload(node_weights, block, load, limit):  # type: ignore[no-untyped-def]
    """Takes nodes out of blocks that are over the limit still, into the lightest block; nodes moved."""
    moved = 0
    for node in range(len(block)):
        own = block[node]
        weight = node_weights[node]
        if load[own] <= limit:
            continue
        lightest = np.argmin(load)
        if load[lightest] + weight <= limit:
            load[own] -= weight
            load[lightest] += weight
            block[node] = lightest
            moved += 1
    return moved
