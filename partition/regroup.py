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
    part = assign_parts(small, heavy, **levels, method=method, seed=seed)[member]
    return part, within_parts(part, member, hosts * trainers)


def between(adjacency: Adjacency, member: np.ndarray, count: int) -> Adjacency:
    """scipy CSR, C x C: edges between nodes of two clusters; the diagonal is empty."""
    pairs = adjacency.tocoo()
    left, right = member[pairs.row], member[pairs.col]
    keep = left != right
    ends = (left[keep], right[keep])
    return sparse.coo_array((pairs.data[keep], ends), shape=(count, count)).tocsr()
