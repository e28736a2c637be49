"""Another number of hosts or trainers out of clusters that are there: they are cut, not the nodes.

Never reads a partition; the graph of clusters lies in the graph's folder meanwhile.
Shape letters: N nodes over all types, in the order of types and rows; C clusters.
"""

from __future__ import annotations

import shutil

import numpy as np

from partition.assign import Assignment, assign_parts, combined_weights, within_parts
from partition.csr import DiskGraph, contracted, cut_share

CLUSTERS_OF_A_PART = 4
"""With fewer of them on average, parts of equal weight cannot be put together."""
ATTEMPTS = 16
"""Seeds to choose from. One alone leaves parts of few clusters uneven: 1.10 on Debian's packages with 24 a
part, where the best of 16 has 1.04; the graph of clusters is small, so they cost milliseconds."""
FINE_BALANCE = 1.03
"""Weight of the heaviest part over the mean, as METIS aims at."""


def regroup(
    graph: DiskGraph,
    weights: np.ndarray,
    cluster: np.ndarray,
    *,
    hosts: int,
    trainers: int,
    method: str,
    seed: int,
    memory: int,
) -> Assignment:
    """Where each node lives; clusters stay whole.

    `cluster` is integers N, counted through all parts; `memory` as in `assign`.
    """
    names, member = np.unique(cluster, return_inverse=True)
    heavy = combined_weights([np.bincount(member, weights=weights)])
    parts = hosts * trainers
    folder = graph.folder / "clusters.scratch"
    try:
        small = contracted(graph, folder, member, len(names))
        found = (
            assign_parts(
                small,
                heavy,
                hosts=hosts,
                trainers=trainers,
                method=method,
                seed=seed + attempt,
                memory=memory,
            )
            for attempt in range(ATTEMPTS)
        )
        best, choices = min(found, key=lambda made: _cost(small, heavy, made[0], parts))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    part = best[member]
    return Assignment(part, within_parts(part, member, parts), choices)


def _cost(small: DiskGraph, heavy: np.ndarray, part: np.ndarray, parts: int) -> tuple[float, float]:
    """Balance beyond what is fine comes before the edges cut."""
    balance = np.bincount(part, weights=heavy, minlength=parts).max() * parts / heavy.sum()
    return max(float(balance), FINE_BALANCE), cut_share(small, part)
