"""Ways to cut a graph into blocks: a registry of functions, METIS and chance.

Owns how blocks are asked for and the names to choose from. Never writes files of its own.
Shape letters: N nodes, K blocks.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pymetis

from partition.csr import DiskGraph
from partition.errors import UsageError
from partition.schema import nearest

Method = Callable[[DiskGraph, np.ndarray, int, int, int], np.ndarray]
"""(graph, int64 N weights of nodes, K >= 2, seed, bytes of memory) -> integers N, block of each node.

Only methods that can do with less look at the memory. Scratch files go into the graph's folder and are gone
afterwards. The same arguments give the same blocks, but from "kaminpar".
"""
AUTO = "auto"
"""The name under which a method is chosen by size."""
BALANCE = 1.03
"""What a block may weigh beside the average one, in methods that let us say so; METIS's own default."""
_TRIALS = 4
"""Cuts that METIS makes of a small graph into few blocks, to keep the best: of Debian's packages between four
hosts 16.8 % are cut, mean of five seeds; after one 17.4; by bisection, pymetis's default, 18.3."""
_FEW_EDGES, _FEW_BLOCKS = 4_000_000, 16
"""A cut takes some .7 seconds per million edges; into clusters, for which a few per cent more do not matter,
there are as many pieces as trainers."""

METHODS: dict[str, Method] = {}


def method(name: str) -> Callable[[Method], Method]:
    """`@method("name")` registers a way to cut a graph."""

    def register(function: Method) -> Method:
        METHODS[name] = function
        return function

    return register


def check_method(name: str) -> None:
    """UsageError for an unknown name; "auto" is known."""
    names = (AUTO, *METHODS)
    if name not in names:
        raise UsageError(
            f"unknown partition method {name!r}{nearest(name, names)}", hint=f"known: {', '.join(names)}"
        )


def most_weight(weights: np.ndarray, blocks: int) -> int:
    """What the heaviest block may weigh: BALANCE times the average, rounded up."""
    return -int(-weights.sum() * BALANCE // blocks)


@method("metis")
def metis(graph: DiskGraph, weights: np.ndarray, blocks: int, seed: int, memory: int) -> np.ndarray:
    """Few edges between blocks of about equal weight (METIS, by way of pymetis)."""
    few = graph.edges <= _FEW_EDGES and 2 < blocks <= _FEW_BLOCKS
    adjacency = pymetis.CSRAdjacency(graph.indptr, graph.indices.astype(np.int64))
    with silent_stdout():
        _, block = pymetis.part_graph(
            blocks,
            adjacency=adjacency,
            vweights=weights,
            eweights=None if graph.weights is None else graph.weights.astype(np.int64),
            recursive=blocks == 2,  # one bisection is all there is to two blocks
            options=pymetis.Options(seed=seed & 0x7FFFFFFF, ncuts=_TRIALS if few else 1),
        )
    return np.asarray(block, dtype=np.int64)


@method("kaminpar")
def kaminpar(graph: DiskGraph, weights: np.ndarray, blocks: int, seed: int, memory: int) -> np.ndarray:
    """Like METIS, in a fraction of its memory (KaMinPar on a compressed graph)."""
    # Imported here: most graphs are small, and their cut shall not wait for it.
    from partition.kaminpar_cut import cut

    return cut(graph, weights, blocks, seed)


@method("semi-external")
def semi_external(graph: DiskGraph, weights: np.ndarray, blocks: int, seed: int, memory: int) -> np.ndarray:
    """Scans of the files with some bytes per node in memory: at any number of edges."""
    # Imported here: numba takes a second, and compiles for some more.
    from partition.semi_external import cut

    return cut(graph, weights, blocks, seed, memory)


@method("random")
def random(graph: DiskGraph, weights: np.ndarray, blocks: int, seed: int, memory: int) -> np.ndarray:
    """Blocks of equal size, at random: the yardstick for the others."""
    count = len(weights)
    return np.random.default_rng(seed).permutation(count) * blocks // count


@contextlib.contextmanager
def silent_stdout() -> Iterator[None]:
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
