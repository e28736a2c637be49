"""The graph of a request as cutting and reusing look at it: tables, kept edges, keys; weights on demand.

Owns what of the tables the cut sees. Never cuts and never looks into the store.
Shape letters: N nodes over all types, in the order of types and rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from partition import assign, stored
from partition.candidates import Wanted
from partition.csr import DiskGraph, build
from partition.room import Room
from partition.tables import GraphTables
from partition.token_lists import TokenLists


@dataclass(frozen=True)
class Sought:
    """A checked graph, not yet cut."""

    name: str
    """Of the graph, in graph.toml."""
    tables: GraphTables
    edges: tuple[stored.MessageEdges, ...]
    tokens: Mapping[str, TokenLists]
    """Type -> tokens in the order of rows."""
    options: Mapping[str, Any]
    keys: Mapping[str, str]
    """Content keys, see keys.py."""
    scratch: Path
    """Folder for the graph to cut and whatever else does not fit in memory."""
    memory: int
    """Bytes that each step may take."""

    @property
    def wanted(self) -> Wanted:
        """What manifests of earlier partitions are compared with."""
        counts = dict(zip(self.names, self.counts, strict=True))
        relations = frozenset(edge.table.schema.name for edge in self.edges)
        return Wanted(self.name, self.options, self.keys, counts, relations)

    @property
    def room(self) -> Room:
        """Where ids are looked up."""
        return Room(self.scratch, self.memory)

    @property
    def names(self) -> list[str]:
        return list(self.tables.nodes)

    @property
    def counts(self) -> list[int]:
        """Nodes of each type."""
        return [len(table.ids) for table in self.tables.nodes.values()]

    @property
    def parts(self) -> int:
        return int(self.options["hosts"] * self.options["trainers"])

    @cached_property
    def graph(self) -> DiskGraph:
        """All types and relations in one undirected graph, in files."""
        first = dict(zip(self.names, accumulate(self.counts, initial=0), strict=False))

        def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for relation in self.edges:
                schema = relation.table.schema
                for source, destination in relation.ends():
                    yield first[schema.source] + source, first[schema.destination] + destination

        return build(self.scratch / "graph", sum(self.counts), chunks, range_records=self.room.spilled)

    def counted(self) -> list[np.ndarray]:
        """What parts shall have equal shares of: nodes, edges, tokens, training targets; N each."""
        return stored.node_weights(self.tables, self.tokens, self.edges)

    @cached_property
    def weights(self) -> np.ndarray:
        """int64 N, all of these in one, mapped."""
        return assign.combined_weights(self.counted(), self.room.inner("weights"))

    def cut(self) -> assign.Assignment:
        """Where each node lives, cut afresh."""
        names = ("hosts", "trainers", "cluster_size", "method", "seed")
        return assign.assign(
            self.graph,
            self.weights,
            **{name: self.options[name] for name in names},
            memory=self.memory,
            bounds=assign.even_bounds(self.counted()) if self.options["even"] else (),
        )

    def number(self, part: np.ndarray, cluster: np.ndarray) -> assign.Numbering:
        """The id space that follows from a cut, mapped."""
        levels = {name: self.options[name] for name in ("hosts", "trainers")}
        return assign.number(self.names, self.counts, part, cluster, **levels, room=self.room.inner("ids"))
