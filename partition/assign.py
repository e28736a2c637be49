"""Which node lives where: hosts, trainers within a host, clusters within a trainer; and the new ids.

Owns the levels, the weights that are balanced and the figures on cut and balance. Its only files are
the graph to cut, and scratch.
A level with one block changes nothing, so two hosts of one trainer and one host of two get the same ids.
Shape letters: N nodes over all types, in the order of types and rows; E edges; K blocks.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from partition.arrays import pieces
from partition.choose import PROPAGATION, choose, choose_clusters, room_to_cut
from partition.csr import DiskGraph, induced
from partition.methods import METHODS, Method
from partition.room import IN_MEMORY, Room

_WEIGHT_SCALE = 100
"""METIS counts in whole numbers; one per cent of an average node is fine enough."""


@dataclass(frozen=True)
class Bound:
    """Something that no host and no trainer shall have too much of."""

    values: np.ndarray
    """int64 N, from 0 on."""
    most: float
    """Of the mean over all of them."""

    def within(self, members: np.ndarray, pieces: int) -> Bound:
        """The same for the blocks of one piece: less of its own mean where it has more than its share."""
        values = self.values[members]
        share = values.sum() * pieces / max(self.values.sum(), 1)
        return Bound(values, self.most / max(share, 1e-9))


@dataclass(frozen=True)
class LevelChoice:
    """Which method cut a level of the hierarchy, and why that one."""

    level: str
    method: str
    why: str


@dataclass(frozen=True)
class Assignment:
    """Where each node lives."""

    part: np.ndarray
    """int32 N."""
    cluster: np.ndarray
    """int32 N, cluster within the part; those of a part leave no gaps."""
    choices: tuple[LevelChoice, ...]
    """Of the levels that were cut at all."""


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
    """Type -> int32, row in the tables of each id."""
    ids: Mapping[str, np.ndarray]
    """Type -> int32, id of each row."""

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


def combined_weights(counted: Sequence[np.ndarray], room: Room = IN_MEMORY) -> np.ndarray:
    """One int64 weight per node out of several (nodes, edges, tokens, targets), each worth the same.

    pymetis looks at one weight only, so each is brought to mean 1 and they are added up. Mapped from a room
    with a folder.
    """
    means = [values.mean() for values in counted]

    def parts() -> Iterator[np.ndarray]:
        for mine in pieces(0, len(counted[0])):
            total = np.zeros(mine.stop - mine.start)
            for values, mean in zip(counted, means, strict=True):
                if mean > 0:
                    total += values[mine] / mean
            yield np.maximum(np.rint(total * _WEIGHT_SCALE), 1)

    return room.numbers(np.int64, parts())


def even_bounds(counted: Sequence[np.ndarray]) -> list[Bound]:
    """Of (nodes, edges, tokens, targets); tokens may be uneven: nodes with text go with nodes."""
    nodes, edges, _, targets = (values.astype(np.int64) for values in counted)
    return [Bound(nodes, 1.05), Bound(edges, 1.10), Bound(targets, 1.10)]


def assign(
    graph: DiskGraph,
    weights: np.ndarray,
    *,
    hosts: int,
    trainers: int,
    cluster_size: int,
    method: str,
    seed: int,
    memory: int,
    bounds: Sequence[Bound] = (),
) -> Assignment:
    """Cut into hosts, each host into trainers, each trainer's part into clusters.

    Balances `weights`, int64 N. `memory`, in bytes, is that of the whole build: by what is left of it "auto"
    chooses, level by level, by the largest piece to cut. `bounds` hold for hosts and trainers, where they can
    be reached. Scratch files go into the graph's folder.
    """
    cutter = _Cutter(graph, weights, method, seed, memory)
    part = cutter.parts(hosts, trainers, bounds)
    sizes = np.bincount(part, minlength=hosts * trainers).tolist()
    cluster = cutter.clusters(part, [max(1, round(size / cluster_size)) for size in sizes])
    return Assignment(part, within_parts(part, cluster, hosts * trainers), tuple(cutter.choices))


def assign_parts(
    graph: DiskGraph,
    weights: np.ndarray,
    *,
    hosts: int,
    trainers: int,
    method: str,
    seed: int,
    memory: int,
) -> tuple[np.ndarray, tuple[LevelChoice, ...]]:
    """(int32 N, part of each node; which methods cut it): the two upper levels of `assign`."""
    cutter = _Cutter(graph, weights, method, seed, memory)
    part = cutter.parts(hosts, trainers, ())
    return part, tuple(cutter.choices)


def within_parts(part: np.ndarray, cluster: np.ndarray, parts: int) -> np.ndarray:
    """int32 N, clusters counted anew within each part, in their order and without gaps."""
    found = np.zeros(len(part), dtype=np.int32)
    for p in range(parts):
        members = np.flatnonzero(part == p)
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
    room: Room = IN_MEMORY,
) -> Numbering:
    """Ids per type out of each node's part and cluster; mapped from a room with a folder."""
    clusters = [int(cluster[part == p].max(initial=-1)) + 1 for p in range(hosts * trainers)]
    first_cluster = np.array([0, *accumulate(clusters)], dtype=np.int32)
    offsets, rows, ids = {}, {}, {}
    for name, start, count in zip(names, accumulate([0, *counts]), counts, strict=False):
        place = first_cluster[part[start : start + count]]
        place += cluster[start : start + count]
        order = np.argsort(place, kind="stable")
        sizes = np.bincount(place, minlength=int(first_cluster[-1]))
        offsets[name] = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        new = place  # its room is taken over
        new[order] = np.arange(count, dtype=np.int32)
        rows[name], ids[name] = (room.numbers(np.int32, [values]) for values in (order, new))
    return Numbering(hosts, trainers, tuple(clusters), offsets, rows, ids)


class _Cutter:
    """Cuts pieces of one graph, and keeps which method cut which level."""

    def __init__(self, graph: DiskGraph, weights: np.ndarray, method: str, seed: int, memory: int) -> None:
        self._graph = graph
        self._weights = weights
        self._method = method
        self._seed = seed
        self._room = room_to_cut(memory, graph.nodes)
        self.choices: list[LevelChoice] = []

    def parts(self, hosts: int, trainers: int, bounds: Sequence[Bound]) -> np.ndarray:
        """int32 N, part of each node."""
        # Hosts may use up only half of the room, or trainers of the fullest host would have none.
        half = [Bound(bound.values, bound.most**0.5) for bound in bounds] if trainers > 1 else bounds
        host = self.level("hosts", np.zeros(len(self._weights), dtype=np.int32), [hosts], half)
        inner = self.level("trainers", host, [trainers] * hosts, bounds)
        inner += host * np.int32(trainers)
        return inner

    def level(
        self, name: str, piece: np.ndarray, blocks: Sequence[int], bounds: Sequence[Bound] = ()
    ) -> np.ndarray:
        """int32 N, block of each node within its piece; `piece` is int32 N, `blocks` how many for each."""
        found = np.zeros(len(piece), dtype=np.int32)
        if max(blocks) == 1:
            return found
        choice = choose(self._method, **self._size(piece))
        self.choices.append(LevelChoice(name, choice.method, choice.why))
        for index, count in enumerate(blocks):
            members = np.flatnonzero(piece == index)
            mine = [bound.within(members, len(blocks)) for bound in bounds]
            found[members] = self._split(METHODS[choice.method], members, count, mine)
        return found

    def clusters(self, part: np.ndarray, counts: Sequence[int]) -> np.ndarray:
        """int32 N, cluster of each node within its part, about as many as `counts` says for each."""
        choice = choose_clusters(self._method, **self._size(part), all_edges=self._graph.edges)
        if choice.method != PROPAGATION or max(counts) == 1:
            return self.level("clusters", part, counts)
        # Imported here: numba takes a second, and compiles for some more.
        from partition.clusters import cluster_parts

        self.choices.append(LevelChoice("clusters", PROPAGATION, choice.why))
        return cluster_parts(self._graph, self._weights, part, counts, self._seed, self._room)

    def _size(self, piece: np.ndarray) -> dict[str, Any]:
        """Of the piece with most edges; those that leave it are counted half, to save a scan."""
        degrees = np.zeros(int(piece.max(initial=0)) + 1, dtype=np.int64)
        for mine in pieces(0, len(piece)):
            np.add.at(degrees, piece[mine], np.diff(self._graph.indptr[mine.start : mine.stop + 1]))
        largest = int(degrees.argmax())
        return {
            "nodes": int((piece == largest).sum()),
            "edges": -int(-degrees[largest] // 2),
            "weighted": self._graph.weights is not None,
            "memory": self._room,
        }

    def _split(self, cut: Method, members: np.ndarray, blocks: int, bounds: Sequence[Bound]) -> np.ndarray:
        """Integers, block of each member; contiguous chunks where there is no structure to follow."""
        if blocks == 1:
            return np.zeros(len(members), dtype=np.int64)
        if blocks >= len(members):
            return np.arange(len(members), dtype=np.int64)
        if len(members) == self._graph.nodes:
            return self._blocks(cut, self._graph, members, blocks, bounds)
        folder = self._graph.folder / "piece.scratch"
        try:
            return self._blocks(cut, induced(self._graph, folder, members), members, blocks, bounds)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _blocks(
        self, cut: Method, graph: DiskGraph, members: np.ndarray, blocks: int, bounds: Sequence[Bound]
    ) -> np.ndarray:
        """Of a graph that holds just the members."""
        weights = self._weights if len(members) == len(self._weights) else self._weights[members]
        if not graph.edges:
            middle = np.cumsum(weights) - weights / 2
            return np.asarray(middle * blocks / weights.sum(), dtype=np.int64)
        found = cut(graph, weights, blocks, self._seed, self._room)
        if not bounds:
            return found
        # Imported here: numba takes a second, and compiles for some more.
        from partition.even import evened

        measures = np.stack([bound.values for bound in bounds])
        return evened(graph, found, blocks, measures, [bound.most for bound in bounds])
