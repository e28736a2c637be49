"""Another number of hosts or trainers out of clusters that are there: they are cut, not the nodes.

Never reads a partition; the graph of clusters lies in the graph's folder meanwhile.
Shape letters: N nodes over all types, in the order of types and rows; C clusters.
"""

from __future__ import annotations

import shutil

import numpy as np

from partition.assign import Assignment, assign_parts, combined_weights, within_parts
from partition.csr import DiskGraph, contracted

CLUSTERS_OF_A_PART = 4
"""With fewer of them on average, parts of equal weight cannot be put together."""


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

    `cluster` is int64 N, counted through all parts; `memory` as in `assign`.
    """
    names, member = np.unique(cluster, return_inverse=True)
    heavy = combined_weights([np.bincount(member, weights=weights)])
    folder = graph.folder / "clusters.scratch"
    try:
        small = contracted(graph, folder, member, len(names))
        levels = {"hosts": hosts, "trainers": trainers}
        part, choices = assign_parts(small, heavy, **levels, method=method, seed=seed, memory=memory)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Assignment(part[member], within_parts(part[member], member, hosts * trainers), choices)
