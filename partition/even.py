"""Blocks made even in several respects at once: nodes, edges, training targets.

Methods balance one weight, the sum of these; a block may then have much of one for little of another. Owns
the moves that mend this, those that lose few edges first. Moves nothing where nothing is over its bound.
Shape letters: N nodes, E undirected edges, K blocks, C bounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

from partition.csr import DiskGraph
from partition.propagation import edge_weights, gather, most_neighbours

PATIENCE = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, np.inf, 0.0)
"""What each scan may lose for a move: edges of average nodes, per average node's worth of surplus that goes.
The last scan looks for edges to win back."""


AIM = 0.95
"""Of the room above the mean. Moves get stuck where only an exchange would help, a little above their aim."""


def evened(
    graph: DiskGraph, block: np.ndarray, blocks: int, measures: np.ndarray, most: Sequence[float]
) -> np.ndarray:
    """int32 N, blocks within all bounds, or as near to that as single moves get.

    `measures` is int64 C x N; no block shall have more than `most` times the mean of each.
    """
    load = np.stack([np.bincount(block, row, minlength=blocks) for row in measures]).astype(np.int64)
    totals = measures.sum(axis=1)
    if (load <= _limits(totals, most, blocks)[:, None]).all():
        return block
    limits = _limits(totals, [1 + (m - 1) * AIM for m in most], blocks)
    units = np.maximum(totals, 1) / graph.nodes
    found = block.astype(np.int32)
    rows = (graph.indptr, graph.indices, edge_weights(graph))
    score = np.zeros(blocks, dtype=np.int64)
    touched = np.empty(most_neighbours(graph), dtype=np.int32)
    for patience in PATIENCE:
        _even_scan(*rows, measures, found, load, limits, units, score, touched, patience)
    return found


def _limits(totals: np.ndarray, most: Sequence[float], blocks: int) -> np.ndarray:
    """int64 C, what a block may have at most; never less than its share in whole numbers."""
    rounded_down: np.ndarray = (totals * np.array(most) / blocks).astype(np.int64)
    limits: np.ndarray = np.maximum(rounded_down, -(-totals // blocks))
    return limits


@njit
def _surplus(measures, load, limits, units, node, block, sign):  # type: ignore[no-untyped-def]
    """How much surplus a node takes along from its block (sign -1) or brings to another (1)."""
    total = 0.0
    for bound in range(len(limits)):
        before = load[bound, block] - limits[bound]
        after = before + sign * measures[bound, node]
        total += (max(after, 0) - max(before, 0)) / units[bound]
    return total * sign


@njit
def _even_scan(  # type: ignore[no-untyped-def]
    indptr, indices, weights, measures, block, load, limits, units, score, touched, patience
):
    """Nodes of blocks over a bound go where most of their edges are and less surplus comes of it.

    Others go to where more of their edges are, within the bounds. Changes `block`, int32 N, and `load`,
    int64 C x K. `score`, int64 K, is 0 before and after.
    """
    mean_degree = max(len(indices) / len(block), 1.0)
    for node in range(len(block)):
        own = block[node]
        relief = _surplus(measures, load, limits, units, node, own, -1)
        count = gather(indptr, indices, weights, block, node, score, touched)
        best, most = own, score[own] if relief == 0 else -1
        for place in range(len(score) if relief > 0 else count):
            label = place if relief > 0 else touched[place]
            if label == own or score[label] < most:
                continue
            if score[label] == most and (best == own or load[0, label] >= load[0, best]):
                continue
            gone = relief - _surplus(measures, load, limits, units, node, label, 1)
            lost = (score[own] - score[label]) / mean_degree
            if gone < 0 or (relief > 0 and (gone < 1e-9 or lost > patience * gone)):
                continue
            best, most = label, score[label]
        for place in range(count):
            score[touched[place]] = 0
        if best != own:
            for bound in range(len(limits)):
                load[bound, own] -= measures[bound, node]
                load[bound, best] += measures[bound, node]
            block[node] = best
