"""A cut of a graph whose edges do not fit in memory: clusters, the graph of clusters, its cut, refinement.

Owns the levels and their limits. In memory: about 36 bytes a node, the size-bounded graph of clusters, and
METIS on that. Edges are scanned in their files.
Shape letters: N nodes, K blocks.
"""

from __future__ import annotations

import shutil

import numpy as np

from partition import propagation
from partition.choose import COARSE_NODE_BYTES, coarse_edges
from partition.csr import DiskGraph, contracted
from partition.methods import metis, most_weight
from partition.room import Room
from partition.scans import cluster_scans

CLUSTER_SCANS = 3
REFINE_SCANS = 3
CLUSTERS_OF_A_BLOCK = 32
"""A cluster weighs at most so small a share of a block, or blocks of clusters could not be balanced."""
_SHRINKS = 0.9
"""Clustering again is worth it while it leaves less than that of the nodes."""


def cut(graph: DiskGraph, weights: np.ndarray, blocks: int, seed: int, memory: int) -> np.ndarray:
    """int32 N, block of each node."""
    clusters, count = _clusters(graph, weights, blocks, seed)
    coarse_weights = np.zeros(count, dtype=np.int64)
    np.add.at(coarse_weights, clusters, weights)
    folder = graph.folder / "coarse.scratch"
    try:
        spilled = Room(memory=memory).spilled
        coarse = contracted(graph, folder, clusters, count, range_records=spilled)
        again = coarse.edges > coarse_edges(memory, nodes=graph.nodes) and count < _SHRINKS * graph.nodes
        if count <= blocks:
            block: np.ndarray = np.arange(count, dtype=np.int64)
        else:
            left = max(memory - COARSE_NODE_BYTES * graph.nodes, 1)  # of what is held meanwhile
            block = (cut if again else metis)(coarse, coarse_weights, blocks, seed, left)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = block.astype(np.int32)[clusters]
    del clusters
    return _refined(graph, weights, found, blocks)


def _clusters(graph: DiskGraph, weights: np.ndarray, blocks: int, seed: int) -> tuple[np.ndarray, int]:
    """(int32 N, cluster of each node; number of clusters)."""
    limit = max(int(weights.sum()) // (blocks * CLUSTERS_OF_A_BLOCK), 1)
    labels, heft = cluster_scans(graph, weights, limit, seed, CLUSTER_SCANS)
    propagation.gather_lone(graph.indptr, weights, labels, heft, limit)
    del heft
    number = np.zeros(graph.nodes, dtype=np.int32)
    number[labels] = 1
    count = int(number.sum())
    np.cumsum(number, dtype=np.int32, out=number)
    number -= 1
    return number[labels], count


def _refined(graph: DiskGraph, weights: np.ndarray, block: np.ndarray, blocks: int) -> np.ndarray:
    """int32 N: fewer edges cut, and no block over the limit where nodes can be moved at all."""
    limit = most_weight(weights, blocks)
    load = np.zeros(blocks, dtype=np.int64)
    np.add.at(load, block, weights)
    score = np.zeros(blocks, dtype=np.int64)
    touched = np.empty(propagation.most_neighbours(graph), dtype=np.int32)
    rows = (graph.indptr, graph.indices, propagation.edge_weights(graph))
    for _ in range(REFINE_SCANS):
        propagation.refine_scan(*rows, weights, block, load, score, touched, limit)
    if propagation.unload(weights, block, load, limit):
        propagation.refine_scan(*rows, weights, block, load, score, touched, limit)
    return block
