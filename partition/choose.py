"""Which method cuts a graph of a size within a limit of memory, and why.

Owns the measured needs of the methods. Never cuts.
"""

from __future__ import annotations

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

    def bytes(self, *, nodes: int, edges: int, weighted: bool) -> int:
        return edges * (self.weighted_edge if weighted else self.edge) + nodes * self.node


NEEDS = {"metis": Need(210, 210, 130), "kaminpar": Need(48, 80, 40)}
"""In the order of preference; where none fits, edges stay on disk."""
_CLUSTERS_BYTES = 800_000_000
"""Of semi-external's graph of clusters, which is made small enough; where edges are few it is all of them."""
_OTHERS = {"semi-external": Need(0, 0, 40), "random": Need(0, 0, 8)}
_EVEN = 60
"""Bytes a node of --even."""


_HELD_BYTES, _HELD_NODE_BYTES = 30_000_000, 16
"""What a build holds beside the cut, and of each node of the whole graph."""


def room_to_cut(memory: int, nodes: int) -> int:
    """Bytes that a method may take of all that a build may, in a graph of so many nodes."""
    return max(memory - _HELD_BYTES - _HELD_NODE_BYTES * nodes, 1)


@dataclass(frozen=True)
class Choice:
    """A method by its name in METHODS, and the sentence that says why."""

    method: str
    why: str


def need_of(method: str, *, nodes: int, edges: int, weighted: bool, even: bool = False) -> int:
    """Bytes that a method of METHODS takes at most; one that somebody else registered counts as METIS."""
    need = {**NEEDS, **_OTHERS}.get(method, NEEDS["metis"]).bytes(nodes=nodes, edges=edges, weighted=weighted)
    if method == "semi-external":
        need += min(_CLUSTERS_BYTES, NEEDS["metis"].edge * edges)
    return max(need, _EVEN * nodes if even else 0)


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
