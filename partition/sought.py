"""The graph of a request as cutting and reusing look at it: tables, kept edges, keys; weights on demand.

Owns what of the tables the cut sees. Never cuts and never looks into the store.
Shape letters: N nodes over all types, in the order of types and rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from partition import assign, stored
from partition.csr import DiskGraph
from partition.tables import EdgeTable, GraphTables
from partition.tokens import TokenLists


@dataclass(frozen=True)
class Sought:
    """A checked graph, not yet cut."""

    name: str
    """Of the graph, in graph.toml."""
    tables: GraphTables
    edges: tuple[tuple[EdgeTable, np.ndarray], ...]
    """Relations, each with its rows (int64) that messages may use."""
    tokens: Mapping[str, TokenLists]
    """Type -> tokens in the order of rows."""
    options: Mapping[str, Any]
    keys: Mapping[str, str]
    """Content keys, see keys.py."""
    scratch: Path
    """Folder for the graph to cut and whatever else does not fit in memory."""
    memory: int
    """Bytes that cutting may take."""

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
        place = {name: index for index, name in enumerate(self.names)}
        ends = [
            (
                place[table.schema.source],
                table.source[rows],
                place[table.schema.destination],
                table.destination[rows],
            )
            for table, rows in self.edges
        ]
        return assign.adjacency_of(self.scratch / "graph", self.counts, ends)

    @cached_property
    def counted(self) -> list[np.ndarray]:
        """What parts shall have equal shares of: nodes, edges, tokens, training targets; N each."""
        return stored.node_weights(self.tables, self.tokens, self.edges)

    @cached_property
    def weights(self) -> np.ndarray:
        """int64 N, all of these in one."""
        return assign.combined_weights(self.counted)

    def cut(self) -> assign.Assignment:
        """Where each node lives, cut afresh."""
        names = ("hosts", "trainers", "cluster_size", "method", "seed")
        return assign.assign(
            self.graph,
            self.weights,
            **{name: self.options[name] for name in names},
            memory=self.memory,
            bounds=assign.even_bounds(self.counted) if self.options["even"] else (),
        )

    def number(self, part: np.ndarray, cluster: np.ndarray) -> assign.Numbering:
        """The id space that follows from a cut."""
        hosts, trainers = self.options["hosts"], self.options["trainers"]
        return assign.number(self.names, self.counts, part, cluster, hosts=hosts, trainers=trainers)
