"""Which node lives where: hosts, trainers within a host, clusters within a trainer; and the new ids.

Owns the methods, the weights that they balance and the figures on cut and balance. Never writes files.
A level with one block changes nothing, so two hosts of one trainer and one host of two get the same ids.
Shape letters: N nodes over all types, in the order of types and rows; E edges; K blocks.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import pymetis
from scipy import sparse

from partition.errors import UsageError
from partition.schema import nearest

Adjacency = Any
"""scipy CSR, N x N, symmetric, empty diagonal; int64 number of edges between two nodes."""
Method = Callable[[Adjacency, np.ndarray, int, int], np.ndarray]
"""(adjacency, int64 N weights of nodes, K >= 2, seed) -> int64 N, block of each node."""

METHODS: dict[str, Method] = {}
_WEIGHT_SCALE = 100
"""METIS counts in whole numbers; one per cent of an average node is fine enough."""


@dataclass(frozen=True)
class Numbering:
    """The id space: per type, ids follow (host, trainer, cluster, original row)."""

    hosts: int
    trainers: int
    clusters: tuple[int, ...]
    """Clusters of each part."""
    offsets: Mapping[str, np.ndarray]
    """Type -> int64, first id of every cluster, then the count."""
    rows: Mapping[str, np.ndarray]
    """Type -> int64, row in the tables of each id."""
    ids: Mapping[str, np.ndarray]
    """Type -> int64, id of each row."""

    @property
    def parts(self) -> int:
        return self.hosts * self.trainers

    def part_bounds(self, node_type: str) -> np.ndarray:
        """int64 parts + 1: first id of every part, then the count."""
        clusters: np.ndarray = np.array([0, *accumulate(self.clusters)], dtype=np.int64)
        return np.asarray(self.offsets[node_type][clusters])

    def host_bounds(self, node_type: str) -> np.ndarray:
        """int64 hosts + 1: first id of every host, then the count."""
        return self.part_bounds(node_type)[:: self.trainers]

    def part_of(self, node_type: str, ids: np.ndarray) -> np.ndarray:
        """int64, part of each id."""
        return np.searchsorted(self.part_bounds(node_type), ids, side="right") - 1


def method(name: str) -> Callable[[Method], Method]:
    """`@method("name")` registers a way to cut a graph."""

    def register(function: Method) -> Method:
        METHODS[name] = function
        return function

    return register


def find_method(name: str) -> Method:
    """UsageError for an unknown name."""
    if name not in METHODS:
        raise UsageError(
            f"unknown partition method {name!r}{nearest(name, METHODS)}", hint=f"known: {', '.join(METHODS)}"
        )
    return METHODS[name]


@method("metis")
def metis(adjacency: Adjacency, weights: np.ndarray, blocks: int, seed: int) -> np.ndarray:
    """Few edges between blocks of about equal weight (METIS, by way of pymetis)."""
    graph = pymetis.CSRAdjacency(adjacency.indptr.astype(np.int64), adjacency.indices.astype(np.int64))
    with _silent_stdout():
        _, block = pymetis.part_graph(
            blocks,
            adjacency=graph,
            vweights=weights,
            eweights=adjacency.data.astype(np.int64),
            options=pymetis.Options(seed=seed & 0x7FFFFFFF),
        )
    return np.asarray(block, dtype=np.int64)


@method("random")
def random(adjacency: Adjacency, weights: np.ndarray, blocks: int, seed: int) -> np.ndarray:
    """Blocks of equal size, at random: the yardstick for the others."""
    count = len(weights)
    return np.random.default_rng(seed).permutation(count) * blocks // count


def adjacency_of(
    counts: Sequence[int], edges: Iterable[tuple[int, np.ndarray, int, np.ndarray]]
) -> Adjacency:
    """All types in one undirected graph; an edge list is (source type, rows, destination type, rows)."""
    first = [0, *accumulate(counts)]
    total = first[-1]
    ends = [(first[s] + source, first[d] + destination) for s, source, d, destination in edges]
    none = np.zeros(0, dtype=np.int64)
    left = np.concatenate([none, *(source for source, _ in ends)])
    right = np.concatenate([none, *(destination for _, destination in ends)])
    keep = left != right
    left, right = left[keep], right[keep]
    half = sparse.coo_array((np.ones(len(left), dtype=np.int64), (left, right)), shape=(total, total))
    return (half + half.T).tocsr()


def combined_weights(counted: Sequence[np.ndarray]) -> np.ndarray:
    """One int64 weight per node out of several (nodes, edges, tokens, targets), each worth the same.

    pymetis looks at one weight only, so each is brought to mean 1 and they are added up.
    """
    total = np.zeros(len(counted[0]))
    for values in counted:
        if values.sum() > 0:
            total += values / values.mean()
    return np.maximum(np.rint(total * _WEIGHT_SCALE), 1).astype(np.int64)


def assign(
    adjacency: Adjacency,
    weights: np.ndarray,
    *,
    hosts: int,
    trainers: int,
    cluster_size: int,
    method: str,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """(part, cluster within the part) of each node, both int64 N; clusters of a part leave no gaps."""
    cut = find_method(method)
    everything = np.arange(len(weights))
    part = assign_parts(adjacency, weights, hosts=hosts, trainers=trainers, method=method, seed=seed)
    cluster = np.zeros(len(weights), dtype=np.int64)
    for p in range(hosts * trainers):
        members = everything[part == p]
        blocks = max(1, round(len(members) / cluster_size))
        found = _split(cut, adjacency, weights, members, blocks, seed)
        cluster[members] = np.unique(found, return_inverse=True)[1]
    return part, cluster


def assign_parts(
    adjacency: Adjacency, weights: np.ndarray, *, hosts: int, trainers: int, method: str, seed: int
) -> np.ndarray:
    """int64 N, part of each node: the two upper levels of `assign`."""
    cut = find_method(method)
    everything = np.arange(len(weights))
    part = np.zeros(len(weights), dtype=np.int64)
    host = _split(cut, adjacency, weights, everything, hosts, seed)
    for h in range(hosts):
        members = everything[host == h]
        part[members] = h * trainers + _split(cut, adjacency, weights, members, trainers, seed)
    return part


def within_parts(part: np.ndarray, cluster: np.ndarray, parts: int) -> np.ndarray:
    """int64 N, clusters counted anew within each part, in their order and without gaps."""
    found = np.zeros(len(part), dtype=np.int64)
    for p in range(parts):
        members = part == p
        found[members] = np.unique(cluster[members], return_inverse=True)[1]
    return found


def number(
    names: Sequence[str],
    counts: Sequence[int],
    part: np.ndarray,
    cluster: np.ndarray,
    *,
    hosts: int,
    trainers: int,
) -> Numbering:
    """Ids per type out of each node's part and cluster."""
    clusters = [int(cluster[part == p].max(initial=-1)) + 1 for p in range(hosts * trainers)]
    first_cluster = np.array([0, *accumulate(clusters)], dtype=np.int64)
    place = first_cluster[part] + cluster
    offsets, rows, ids = {}, {}, {}
    for name, start, count in zip(names, accumulate([0, *counts]), counts, strict=False):
        mine = place[start : start + count]
        order = np.argsort(mine, kind="stable")
        new = np.empty(count, dtype=np.int64)
        new[order] = np.arange(count)
        sizes = np.bincount(mine, minlength=int(first_cluster[-1]))
        offsets[name] = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        rows[name], ids[name] = order, new
    return Numbering(hosts, trainers, tuple(clusters), offsets, rows, ids)


def cut_fraction(ends: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """Share of edges whose two ends lie in different blocks; (source blocks, destination blocks) each."""
    cut = total = 0
    for source, destination in ends:
        cut += int((source != destination).sum())
        total += len(source)
    return cut / total if total else 0.0


@contextlib.contextmanager
def _silent_stdout() -> Iterator[None]:
    """Send what C code prints to nowhere.

    METIS writes "***Cannot bisect a graph with 0 vertices!" where a few nodes outweigh all others; the blocks
    are right all the same, but a command's standard output is read by machines.
    """
    libc = ctypes.CDLL(None)
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        libc.fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _split(
    cut: Method, adjacency: Adjacency, weights: np.ndarray, members: np.ndarray, blocks: int, seed: int
) -> np.ndarray:
    """int64, block of each member; contiguous chunks where there is no structure to follow."""
    if blocks == 1:
        return np.zeros(len(members), dtype=np.int64)
    whole = len(members) == adjacency.shape[0]
    inner = adjacency if whole else adjacency[members][:, members]
    if blocks >= len(members):
        return np.arange(len(members), dtype=np.int64)
    mine = weights[members]
    if inner.nnz == 0:
        middle = np.cumsum(mine) - mine / 2
        return np.asarray(middle * blocks / mine.sum(), dtype=np.int64)
    return cut(inner, mine, blocks, seed)
