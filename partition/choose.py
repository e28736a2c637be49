"""Which method cuts a graph of a size within a limit of memory, and why.

Owns the measured needs of the methods. Never cuts.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from partition.memory import size_words
from partition.methods import AUTO, check_method


@dataclass(frozen=True)
class Need:
    """Bytes that a method takes at most, measured by benchmarks/partitioners.py."""

    edge: int
    weighted_edge: int
    """Where edges differ in weight: parallel ones in the tables, or both directions of a relation."""
    node: int
    fixed: int = 0
    """Of any graph."""

    def bytes(self, *, nodes: int, edges: int, weighted: bool) -> int:
        edge = self.weighted_edge if weighted else self.edge
        return self.fixed + edges * edge + nodes * self.node


NEEDS = {"metis": Need(210, 210, 130), "kaminpar": Need(48, 80, 40, fixed=60_000_000)}
"""In the order of preference; where none fits, edges stay on disk."""
PROPAGATION = "label-propagation"
"""How clusters of large graphs are made (clusters.py); for hosts and trainers there is no asking for it."""
_MANY_EDGES = 2_000_000
"""Fewer of them METIS cuts into clusters in three seconds; numba compiles for two."""
_OTHERS = {
    "semi-external": Need(0, 0, 36),
    PROPAGATION: Need(0, 0, 40, fixed=60_000_000),
    "random": Need(0, 0, 8),
}
_COARSE_EDGES, _LEAST_COARSE_EDGES = 4_000_000, 250_000
"""Edges of semi-external's graph of clusters, which METIS gets: as many, or in steps of halves as memory has
room for. From 0.95 GB and 24 bytes a node on it is the first, and the same graph is cut alike."""
_COARSE_BYTES, COARSE_NODE_BYTES = 230, 8
"""Of METIS for one of them, its nodes included; and of a node of the graph itself meanwhile."""
_EVEN = 60
"""Bytes a node of --even."""


_HELD_BYTES, _HELD_NODE_BYTES = 30_000_000, 16
"""What a build holds beside the cut, and of that for each node."""


def room_to_cut(memory: int, nodes: int) -> int:
    """Bytes that a method may take of all that a build may, in a graph of so many nodes."""
    return max(memory - held_bytes(nodes), 1)


def held_bytes(nodes: int) -> int:
    """What a build holds beside the cut of a graph of so many nodes."""
    return _HELD_BYTES + _HELD_NODE_BYTES * nodes


@dataclass(frozen=True)
class Choice:
    """A method by its name in METHODS, and the sentence that says why."""

    method: str
    why: str


def coarse_edges(memory: int, *, nodes: int) -> int:
    """How many the graph of clusters may have, by the memory of the cut and the nodes of the graph."""
    most = _COARSE_EDGES
    while most > _LEAST_COARSE_EDGES and most * _COARSE_BYTES > memory - COARSE_NODE_BYTES * nodes:
        most //= 2
    return most


def need_of(method: str, *, nodes: int, edges: int, weighted: bool, memory: int, even: bool = False) -> int:
    """Bytes that a method of METHODS takes at most of `memory`; one that is not ours counts as METIS."""
    need = {**NEEDS, **_OTHERS}.get(method, NEEDS["metis"]).bytes(nodes=nodes, edges=edges, weighted=weighted)
    if method == "semi-external":
        coarse = min(coarse_edges(memory, nodes=nodes), edges)
        need = max(need, _COARSE_BYTES * coarse + COARSE_NODE_BYTES * nodes)
    if method == PROPAGATION:
        need *= side_by_side(nodes=nodes, memory=memory)
    return max(need, _EVEN * nodes if even else 0)


def side_by_side(*, nodes: int, memory: int) -> int:
    """Parts of so many nodes that are cut into clusters at a time, by memory and processors."""
    need = _OTHERS[PROPAGATION].bytes(nodes=nodes, edges=0, weighted=False)
    return max(1, min(len(os.sched_getaffinity(0)), memory // need))


def choose(asked: str, *, nodes: int, edges: int, weighted: bool, memory: int) -> Choice:
    """The method asked for; for "auto", the first that fits: METIS, KaMinPar, semi-external.

    `memory` is in bytes. UsageError for an unknown name.
    """
    check_method(asked)
    if asked != AUTO:
        return Choice(asked, "asked for")
    size = f"{edges:,} edges and {nodes:,} nodes"
    need = 0
    for name, of in NEEDS.items():
        need = of.bytes(nodes=nodes, edges=edges, weighted=weighted)
        if need <= memory:
            return Choice(name, f"{size} need about {size_words(need)} of {size_words(memory)}")
    why = f"{size} need about {size_words(need)} of memory, more than {size_words(memory)}: they stay on disk"
    return Choice("semi-external", why)


def choose_clusters(
    asked: str, *, nodes: int, edges: int, weighted: bool, memory: int, all_edges: int
) -> Choice:
    """The same for clusters, where edges stay on disk or METIS would take long: label propagation.

    `nodes` and `edges` are those of the largest part, `all_edges` those of all.
    """
    choice = choose(asked, nodes=nodes, edges=edges, weighted=weighted, memory=memory)
    if asked not in (AUTO, "semi-external"):
        return choice
    if all_edges > _MANY_EDGES:
        why = f"of {all_edges:,} edges METIS would make no better ones in six times the time"
        return Choice(PROPAGATION, why)
    if choice.method == "metis":
        return choice
    if asked == AUTO:
        need = NEEDS["metis"].bytes(nodes=nodes, edges=edges, weighted=weighted)
        why = f"{edges:,} edges and {nodes:,} nodes: METIS needs about {size_words(need)}"
        return Choice(PROPAGATION, f"{why}, more than {size_words(memory)}")
    return Choice(PROPAGATION, choice.why)
