"""The graph as it will be stored: edges under new ids, with reverses, targets apart; what the cut balances.

Owns what belongs to it. Edges lie in files (stored_edges.py), nodes and tokens stay in the order of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from partition.arrays import pieces
from partition.assign import Numbering
from partition.manifest import NodeTypeInfo
from partition.room import Room
from partition.stored_edges import (
    StoredRelation,
    StoredTargets,
    split_counts,
    stored_relation,
    stored_targets,
    turned_round,
)
from partition.tables import EdgeTable, GraphTables, NodeTable
from partition.token_lists import TokenLists


@dataclass(frozen=True)
class StoredGraph:
    """All that the writer needs."""

    numbering: Numbering
    nodes: Mapping[str, NodeTable]
    relations: tuple[StoredRelation, ...]
    targets: Mapping[str, StoredTargets]
    """Only relations that have targets."""
    tokens: Mapping[str, TokenLists]
    """Type -> tokens in the order of rows."""
    folder: Path
    """Where the edges are, and scratch of the writer."""


@dataclass(frozen=True)
class MessageEdges:
    """The edges of a relation that the stored graph holds, a chunk at a time."""

    table: EdgeTable
    keep_eval_edges: bool

    @cached_property
    def count(self) -> int:
        return sum(len(rows) for rows in self.rows())

    def rows(self) -> Iterator[np.ndarray]:
        """int64, in the order of the table."""
        yield from self.table.rows(held_out=self.keep_eval_edges)

    def ends(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(int64, int64): rows of the source type's table, and of the destination type's."""
        for rows in self.rows():
            yield self.table.source[rows], self.table.destination[rows]


def stored_graph(
    folder: Path,
    tables: GraphTables,
    numbering: Numbering,
    tokens: Mapping[str, TokenLists],
    *,
    keep_eval_edges: bool,
    reverse: bool,
    memory: int,
) -> StoredGraph:
    """Renumber, drop what must not carry messages, turn round what shall be turned round.

    `tokens` are by row; `memory` is in bytes. Files go into `folder`, which is made; OSError with ENOSPC if
    the disk is full.
    """
    range_records = Room(folder, memory).records
    relations: list[StoredRelation] = []
    targets = {}
    for table in tables.edges.values():
        name, back = table.schema.name, table.schema.reverse_name(default=reverse)
        where = folder / "targets" / name
        if (found := stored_targets(where, table, numbering, range_records=range_records)) is not None:
            targets[name] = found
        forward = stored_relation(
            folder / "edges" / name,
            table,
            numbering,
            keep_eval_edges=keep_eval_edges,
            reverse=back,
            range_records=range_records,
        )
        relations.append(forward)
        if back:
            relations.append(turned_round(folder / "edges" / back, forward, range_records=range_records))
    return StoredGraph(numbering, tables.nodes, tuple(relations), targets, tokens, folder)


def node_infos(graph: StoredGraph) -> tuple[NodeTypeInfo, ...]:
    """The manifest's lines on node types."""
    infos = []
    for name, table in graph.nodes.items():
        with_targets = table.labels is not None and table.splits is not None
        splits = table.splits[table.targets] if table.splits is not None else np.zeros(0, dtype=np.int8)
        infos.append(
            NodeTypeInfo(
                name=name,
                count=len(table.ids),
                text=name in graph.tokens,
                tokens=len(graph.tokens[name].values) if name in graph.tokens else 0,
                feature_width=0 if table.features is None else table.features.shape[1],
                classes=table.classes,
                targets=split_counts(splits) if with_targets else {},
                id_column=table.schema.id,
            )
        )
    return tuple(infos)


def node_weights(
    tables: GraphTables, tokens: Mapping[str, TokenLists], edges: Sequence[MessageEdges]
) -> list[np.ndarray]:
    """What the blocks shall balance: nodes, degree, text tokens, training targets; integers, N each."""
    sizes = [len(table.ids) for table in tables.nodes.values()]
    ones = np.broadcast_to(np.int8(1), sum(sizes))
    degree, text, targets = (np.zeros(sum(sizes), dtype=np.int32) for _ in range(3))
    one = np.int32(1)  # add.at of another type than the array's takes 170 ns a row instead of 7

    def of(whole: np.ndarray, name: str) -> np.ndarray:
        first = sum(sizes[: list(tables.nodes).index(name)])
        return whole[first : first + len(tables.nodes[name].ids)]

    for name, lists in tokens.items():
        for mine in pieces(0, len(lists)):
            of(text, name)[mine] = lists.lengths(mine)
    for name, table in tables.nodes.items():
        if table.splits is not None:
            np.add.at(of(targets, name), table.targets[table.splits[table.targets] == 0], one)
    for relation in edges:
        table_, schema = relation.table, relation.table.schema
        for source, destination in relation.ends():
            np.add.at(of(degree, schema.source), source, one)
            np.add.at(of(degree, schema.destination), destination, one)
        if table_.splits is not None:
            for rows in table_.rows():
                training = rows[table_.splits[rows] == 0]
                np.add.at(of(targets, schema.source), table_.source[training], one)
                np.add.at(of(targets, schema.destination), table_.destination[training], one)
    return [ones, degree, text, targets]
