"""Random graphs of any size, written to a file of edges chunk by chunk: communities in communities, or RMAT.

Owns how edges are drawn. In memory: 20 bytes a node and a chunk of edges. The same seed gives the same file.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from partition.csr import build

CHUNK_EDGES = 1 << 19
EDGES_A_NODE = 10
SMALLEST_COMMUNITY = 40
INSIDE, NEAR = 0.6, 0.25
"""Edges that stay in their community, and in the group of communities; the rest goes anywhere."""
RMAT = (0.57, 0.19, 0.19)
"""Of the four quarters of the matrix, all but the last."""

Draw = Callable[[int, np.random.Generator], tuple[np.ndarray, np.ndarray]]
"""(how many, generator) -> both ends, as places in an order that tells of communities or hubs."""


def write_graph(folder: Path, kind: str, edges: int, *, seed: int, repeats: bool) -> tuple[int, int]:
    """Write `folder`/edges.bin, pairs of int32; numbers of nodes and of distinct edges.

    `edges` are drawn. Without `repeats` each is written once, no loops, smaller node first, ascending; with
    them all are, as drawn. ValueError for a kind that is not known.
    """
    drawn = folder / "drawn.bin"
    nodes, chunks = draw_edges(kind, edges, seed)
    with drawn.open("wb") as file:
        for ends in chunks:
            file.write(np.stack(ends, axis=1).data.cast("B"))
    graph = build(folder / "drawn", nodes, lambda: read_edges(drawn))
    shutil.rmtree(folder / "drawn")
    if repeats:
        drawn.rename(folder / "edges.bin")
        return nodes, graph.edges
    with (folder / "edges.bin").open("wb") as file:
        for first, last in graph.row_ranges():
            entries = graph.entries(first, last)
            keep = entries.rows < entries.columns
            file.write(np.stack([entries.rows[keep], entries.columns[keep]], axis=1).data.cast("B"))
    drawn.unlink()
    return nodes, graph.edges


def draw_edges(kind: str, edges: int, seed: int) -> tuple[int, Iterator[tuple[np.ndarray, np.ndarray]]]:
    """(number of nodes, chunks of (int32, int32) ends as drawn); ids are shuffled, so that they tell nothing.

    ValueError for a kind that is not known.
    """
    makers = {"community": _community, "rmat": _rmat}
    if kind not in makers:
        raise ValueError(f"graph {kind!r}: expected one of {', '.join(makers)}")
    rng = np.random.default_rng(seed)
    nodes, draw = makers[kind](edges, rng)
    ids = rng.permutation(nodes).astype(np.int32)

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, edges, CHUNK_EDGES):
            source, destination = draw(min(CHUNK_EDGES, edges - start), rng)
            yield ids[source], ids[destination]

    return nodes, chunks()


def read_edges(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(int32, int32) ends, chunk by chunk."""
    with path.open("rb") as file:
        while len(pairs := np.fromfile(file, np.int32, 2 * CHUNK_EDGES)):
            yield pairs[::2], pairs[1::2]


def _community(edges: int, rng: np.random.Generator) -> tuple[int, Draw]:
    """Sizes with exponent 2.2, degrees with 2.5; both ends are drawn by a node's weight."""
    nodes = max(edges // EDGES_A_NODE, 400)
    communities = _starts(nodes, SMALLEST_COMMUNITY, nodes // 200, rng)
    groups = _starts(nodes, max(nodes // 300, SMALLEST_COMMUNITY), nodes // 20, rng)
    weights = np.minimum((1 - rng.random(nodes)) ** (-1 / 1.5), np.sqrt(nodes))
    upto = np.concatenate([[0.0], weights.cumsum()])

    def draw(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        source = _weighted(upto, np.zeros(count), np.full(count, upto[-1]), rng)
        low, high = np.zeros(count), np.full(count, upto[-1])
        kind = rng.random(count)
        for starts, mine in (
            (communities, kind < INSIDE),
            (groups, (kind >= INSIDE) & (kind < INSIDE + NEAR)),
        ):
            home = np.searchsorted(starts, source[mine], side="right")
            low[mine], high[mine] = upto[starts[home - 1]], upto[np.append(starts, nodes)[home]]
        return source, _weighted(upto, low, high, rng)

    return nodes, draw


def _starts(nodes: int, smallest: int, largest: int, rng: np.random.Generator) -> np.ndarray:
    """First node of each community."""
    sizes = smallest * (1 - rng.random(nodes // smallest + 1)) ** (-1 / 1.2)
    ends = np.minimum(sizes, max(largest, smallest)).astype(np.int64).cumsum()
    return np.concatenate([[0], ends[ends < nodes]])


def _weighted(upto: np.ndarray, low: np.ndarray, high: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The nodes whose stretch of the summed weights holds a number drawn between `low` and `high`."""
    drawn = low + (high - low) * rng.random(len(low))
    order = np.argsort(drawn)  # places near one another are looked up seven times as fast in a large graph
    found = np.empty(len(drawn), dtype=np.int64)
    found[order] = np.searchsorted(upto, drawn[order], side="right")
    return found.clip(1, len(upto) - 1) - 1


def _rmat(edges: int, rng: np.random.Generator) -> tuple[int, Draw]:
    """Quarter by quarter; a sixteenth as many nodes as edges, at least."""
    levels = max((edges // 16 - 1).bit_length(), 4)
    bounds = np.cumsum(RMAT)

    def draw(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        source, destination = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
        for _ in range(levels):
            quarter = np.searchsorted(bounds, rng.random(count), side="right")
            source = source * 2 + quarter // 2
            destination = destination * 2 + quarter % 2
        return source, destination

    return 1 << levels, draw
