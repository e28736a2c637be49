"""One host's local graph: its nodes, and all edges into its own in DGL's order, in mapped files.

Owns what of the graph a host has and in which order. Own nodes come first, then the halo: sources that live
elsewhere, both by homogeneous id. Edges follow (destination, relation, edge id): DGL's typed sampling takes
it for granted. In memory: five bytes for each node of the graph, sixteen for each of the host, and a range
of edges.
Shape letters: N local nodes, E local edges, R relations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from partition import arrays
from partition.arrays import ArrayFile, pieces
from partition.layout import Layout
from partition.stored import StoredGraph


@dataclass(frozen=True)
class LocalGraph:
    """What graph.dgl holds."""

    nodes: np.ndarray
    """int64 N, homogeneous ids."""
    own: int
    """How many of them are the host's."""
    types: np.ndarray
    """int16 N."""
    indptr: np.ndarray
    """int64 N + 1: edges into node i are those from indptr[i] to before indptr[i + 1]."""
    sources: np.ndarray
    """int64 E, mapped: place of the source among the nodes."""
    edge_ids: np.ndarray
    """int64 E, mapped: homogeneous ids."""
    relations: np.ndarray
    """E, mapped, of `relation_dtype`."""
    inner: np.ndarray
    """uint8 E, mapped: ones, since all edges are the host's."""


def local_graph(folder: Path, graph: StoredGraph, layout: Layout, host: int) -> LocalGraph:
    """Scratch files go into `folder`, which is there; OSError with ENOSPC if the disk is full."""
    return _Host(graph, layout, host).local_graph(folder)


def relation_dtype(relations: int) -> np.dtype:
    """The smallest that counts so many relations."""
    return np.dtype(np.int8 if relations <= np.iinfo(np.int8).max else np.int16)


@dataclass(frozen=True)
class _Edges:
    """Edges of one relation in a row; C of them."""

    destination: np.ndarray
    """int32 C, ascending."""
    source: np.ndarray
    """int32 C, place among the local nodes."""
    edge_id: np.ndarray
    """int64 C."""
    relation: np.ndarray
    """C."""


class _Host:
    """What is known of a host while its graph is put together."""

    def __init__(self, graph: StoredGraph, layout: Layout, host: int) -> None:
        self._graph = graph
        self._layout = layout
        self._host = host
        self._types = list(layout.node_starts)
        self._ranges = layout.node_ranges[host]
        self._spans = [tuple(bounds[host : host + 2].tolist()) for bounds in layout.edge_bounds]
        self._dtype = relation_dtype(len(graph.relations))

    def local_graph(self, folder: Path) -> LocalGraph:
        halo = self._halo()
        place, nodes, types = self._numbered(halo)
        indptr = self._indptr(len(nodes))
        sources, edge_ids = ArrayFile(folder / "sources", np.int64), ArrayFile(folder / "edge_ids", np.int64)
        relations, inner = ArrayFile(folder / "relations", self._dtype), ArrayFile(folder / "inner", np.uint8)
        for some in self._in_order(indptr, place):
            sources.append(some.source)
            edge_ids.append(some.edge_id)
            relations.append(some.relation)
            inner.append(np.ones(len(some.relation), dtype=np.uint8))
        own = sum(last - first for first, last in self._ranges.values())
        mapped = (file.mapped() for file in (sources, edge_ids, relations, inner))
        return LocalGraph(nodes, own, types, indptr, *mapped)

    def _halo(self) -> dict[str, np.ndarray]:
        """Type -> bool, by id: whether it is a source that lives elsewhere."""
        halo = {name: np.zeros(len(ids), dtype=bool) for name, ids in self._graph.numbering.ids.items()}
        for relation, span in zip(self._graph.relations, self._spans, strict=True):
            for mine in pieces(*span):
                halo[relation.info.source][relation.source[mine]] = True
        for name, own in self._ranges.items():
            halo[name][slice(*own)] = False
        return halo

    def _numbered(self, halo: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """(type -> int32, by id: place among the local nodes; their homogeneous ids; their types)."""
        place = {name: np.zeros(len(is_halo), dtype=np.int32) for name, is_halo in halo.items()}
        nodes, types, count = [], [], 0
        others = [host for host in range(len(self._layout.node_ranges)) if host != self._host]
        for host in (self._host, *others):
            for index, name in enumerate(self._types):
                first, last = self._layout.node_ranges[host][name]
                within = np.arange(last - first)
                if host != self._host:
                    within = np.flatnonzero(halo[name][first:last])
                place[name][first + within] = np.arange(count, count + len(within))
                nodes.append(self._layout.node_starts[name][host] + within)
                types.append(np.full(len(within), index, dtype=np.int16))
                count += len(within)
        return place, np.concatenate(nodes), np.concatenate(types)

    def _indptr(self, nodes: int) -> np.ndarray:
        indptr = np.zeros(nodes + 1, dtype=np.int64)
        for relation, span in zip(self._graph.relations, self._spans, strict=True):
            shift = self._shift(relation.info.destination) + 1
            for mine in pieces(*span):
                ids = relation.destination[mine]
                low, high = int(ids[0]), int(ids[-1])  # ascending
                indptr[shift + low : shift + high + 1] += np.bincount(ids - low)
        return np.cumsum(indptr, out=indptr)

    def _shift(self, node_type: str) -> int:
        """What an own node's id lacks to its place among the local nodes."""
        layout = self._layout
        start = layout.node_starts[node_type][self._host] - layout.host_starts[self._host]
        return start - self._ranges[node_type][0]

    def _in_order(self, indptr: np.ndarray, place: dict[str, np.ndarray]) -> Iterator[_Edges]:
        """All edges, some destinations at a time."""
        for name in self._types:
            into = [i for i, r in enumerate(self._graph.relations) if r.info.destination == name]
            shift, (first, last) = self._shift(name), self._ranges[name]
            while first < last:
                most = indptr[shift + first] + arrays.PIECE
                upto = int(np.searchsorted(indptr, most, side="right")) - 1 - shift
                upto = min(max(upto, first + 1), last)
                yield from self._into(into, first, upto, place)
                first = upto

    def _into(
        self, relations: list[int], first: int, last: int, place: dict[str, np.ndarray]
    ) -> Iterator[_Edges]:
        """Edges into the ids from `first` to before `last` of one type."""
        spans = [(i, *self._graph.relations[i].bounds(np.array([first, last])).tolist()) for i in relations]
        if last - first == 1:  # it may have more than fit in memory, and relation by relation is their order
            yield from (self._edges(i, mine, place) for i, *span in spans for mine in pieces(*span))
        elif spans:
            parts = [self._edges(i, slice(*span), place) for i, *span in spans]
            order = np.argsort(np.concatenate([p.destination for p in parts]), kind="stable")
            yield _Edges(
                *(
                    np.concatenate([getattr(p, name) for p in parts])[order]
                    for name in ("destination", "source", "edge_id", "relation")
                )
            )

    def _edges(self, index: int, mine: slice, place: dict[str, np.ndarray]) -> _Edges:
        relation = self._graph.relations[index]
        first_id = self._layout.edge_starts[index][self._host] - self._spans[index][0]
        return _Edges(
            destination=relation.destination[mine],
            source=place[relation.info.source][relation.source[mine]],
            edge_id=np.arange(first_id + mine.start, first_id + mine.stop),
            relation=np.full(mine.stop - mine.start, index, dtype=self._dtype),
        )
