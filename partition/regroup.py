"""Another number of hosts or trainers out of clusters that are there: they are cut, not the nodes.

Owns the graph of clusters. Never reads a partition.
Shape letters: N nodes over all types, in the order of types and rows; C clusters.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from partition.assign import Adjacency, assign_parts, combined_weights, within_parts

CLUSTERS_OF_A_PART = 4
"""With fewer of them on average, parts of equal weight cannot be put together."""
ATTEMPTS = 16
"""Seeds to choose from. One alone leaves parts of few clusters uneven: 1.10 on Debian's packages with 24 a
part, where the best of 16 has 1.04; the graph of clusters is small, so they cost milliseconds."""
FINE_BALANCE = 1.03
"""Weight of the heaviest part over the mean, as METIS aims at."""


def regroup(
    adjacency: Adjacency,
    weights: np.ndarray,
    cluster: np.ndarray,
    *,
    hosts: int,
    trainers: int,
    method: str,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """(part, cluster within the part) of each node, both int64 N; clusters of a part leave no gaps.

    `cluster` is int64 N, counted through all parts. Clusters stay whole.
    """
    names, member = np.unique(cluster, return_inverse=True)
    heavy = combined_weights([np.bincount(member, weights=weights)])
    small = between(adjacency, member, len(names))
    levels = {"hosts": hosts, "trainers": trainers}
    found = (
        assign_parts(small, heavy, **levels, method=method, seed=seed + attempt)
        for attempt in range(ATTEMPTS)
    )
    best = min(found, key=lambda part: _cost(small, heavy, part, hosts * trainers))
    part = best[member]
    return part, within_parts(part, member, hosts * trainers)


def _cost(small: Adjacency, heavy: np.ndarray, part: np.ndarray, parts: int) -> tuple[float, int]:
    """Balance beyond what is fine comes before the edges cut."""
    balance = np.bincount(part, weights=heavy, minlength=parts).max() * parts / heavy.sum()
    pairs = small.tocoo()
    cut = pairs.data[part[pairs.row] != part[pairs.col]].sum()
    return max(float(balance), FINE_BALANCE), int(cut)


def between(adjacency: Adjacency, member: np.ndarray, count: int) -> Adjacency:
    """scipy CSR, C x C: edges between nodes of two clusters; the diagonal is empty."""
    pairs = adjacency.tocoo()
    left, right = member[pairs.row], member[pairs.col]
    keep = left != right
    ends = (left[keep], right[keep])
    return sparse.coo_array((pairs.data[keep], ends), shape=(count, count)).tocsr()
