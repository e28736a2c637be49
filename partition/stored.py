"""The graph as it will be stored: edges under new ids, with reverses, targets apart; what the cut balances.

Owns what belongs to it. Edges lie in files (stored_edges.py), nodes and tokens stay in the order of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from partition.assign import Numbering
from partition.manifest import NodeTypeInfo
from partition.runs import RANGE_RECORDS
from partition.stored_edges import (
    StoredRelation,
    StoredTargets,
    split_counts,
    stored_relation,
    stored_targets,
    turned_round,
)
from partition.tables import EdgeTable, GraphTables, NodeTable
from partition.tokens import TokenLists


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


def message_edges(table: EdgeTable, *, keep_eval_edges: bool) -> np.ndarray:
    """int64, the rows of a relation that the stored graph holds."""
    return np.arange(len(table.source)) if keep_eval_edges else np.flatnonzero(~table.held_out)


def stored_graph(
    folder: Path,
    tables: GraphTables,
    numbering: Numbering,
    tokens: Mapping[str, TokenLists],
    *,
    keep_eval_edges: bool,
    reverse: bool,
    range_records: int = RANGE_RECORDS,
) -> StoredGraph:
    """Renumber, drop what must not carry messages, turn round what shall be turned round.

    `tokens` are by row. Files go into `folder`, which is made; OSError with ENOSPC if the disk is full.
    """
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
    tables: GraphTables, tokens: Mapping[str, TokenLists], edges: Sequence[tuple[EdgeTable, np.ndarray]]
) -> list[np.ndarray]:
    """What the blocks shall balance: nodes, degree, text tokens, training targets; float N each."""
    ones = {name: np.ones(len(table.ids)) for name, table in tables.nodes.items()}
    degree = {name: np.zeros(len(table.ids)) for name, table in tables.nodes.items()}
    text = {name: np.zeros(len(table.ids)) for name, table in tables.nodes.items()}
    targets = {name: np.zeros(len(table.ids)) for name, table in tables.nodes.items()}
    for name, lists in tokens.items():
        text[name] += lists.lengths
    for name, table in tables.nodes.items():
        if table.splits is not None:
            np.add.at(targets[name], table.targets[table.splits[table.targets] == 0], 1)
    for table_, kept in edges:
        for node_type, rows in (
            (table_.schema.source, table_.source),
            (table_.schema.destination, table_.destination),
        ):
            degree[node_type] += np.bincount(rows[kept], minlength=len(degree[node_type]))
            if table_.splits is not None:
                training = rows[table_.splits == 0]
                targets[node_type] += np.bincount(training, minlength=len(targets[node_type]))
    return [np.concatenate([of[name] for name in tables.nodes]) for of in (ones, degree, text, targets)]
