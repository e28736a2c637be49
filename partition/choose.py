"""Which method cuts a graph of a size within a limit of memory, and why.

Owns the measured needs of the methods. Never cuts.
"""

from __future__ import annotations

from dataclasses import dataclass

from partition.memory import size_words
from partition.methods import AUTO, check_method

METIS_EDGE_BYTES = 190
KAMINPAR_EDGE_BYTES = 48
NODE_BYTES = 64


@dataclass(frozen=True)
class Choice:
    """A method by its name in METHODS, and the sentence that says why."""

    method: str
    why: str


def choose(asked: str, *, nodes: int, edges: int, memory: int) -> Choice:
    """The method asked for; for "auto", the first that fits: METIS, KaMinPar, semi-external.

    UsageError for an unknown name.
    """
    check_method(asked)
    if asked != AUTO:
        return Choice(asked, "asked for")
    size = f"{edges:,} edges and {nodes:,} nodes"
    needs = {
        name: edges * edge_bytes + nodes * NODE_BYTES
        for name, edge_bytes in (("metis", METIS_EDGE_BYTES), ("kaminpar", KAMINPAR_EDGE_BYTES))
    }
    for name, need in needs.items():
        if need <= memory:
            return Choice(name, f"{size} need about {size_words(need)} of {size_words(memory)}")
    least = size_words(needs["kaminpar"])
    return Choice(
        "semi-external",
        f"{size} would need {least} in memory, there are {size_words(memory)}: edges stay on disk",
    )
