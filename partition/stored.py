"""The graph as it will be stored: edges under new ids, with reverses, targets apart; and its figures.

Owns which edges messages may use and how edges and targets are ordered. Never reads or writes a file.
Shape letters: E edges of a relation, F width of their features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from partition.assign import Numbering, cut_fraction
from partition.manifest import SPLITS, NodeTypeInfo, RelationInfo
from partition.reader import EdgeTargets
from partition.tables import EdgeTable, GraphTables, NodeTable
from partition.tokens import TokenLists


@dataclass(frozen=True)
class StoredRelation:
    """Edges that messages may use, ordered by (destination, source); ids are new and per type."""

    info: RelationInfo
    source: np.ndarray
    """int64 E."""
    destination: np.ndarray
    """int64 E, ascending."""
    features: np.ndarray | None
    """float32 E x F."""


@dataclass(frozen=True)
class StoredGraph:
    """All that the writer needs."""

    numbering: Numbering
    nodes: Mapping[str, NodeTable]
    relations: tuple[StoredRelation, ...]
    targets: Mapping[str, EdgeTargets]
    """Only relations that have targets."""
    tokens: Mapping[str, TokenLists]
    """Type -> tokens in the order of ids."""


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


def message_edges(table: EdgeTable, *, keep_eval_edges: bool) -> np.ndarray:
    """int64, the rows of a relation that the stored graph holds."""
    return np.concatenate([np.zeros(0, np.int64), *MessageEdges(table, keep_eval_edges).rows()])


def stored_graph(
    tables: GraphTables,
    numbering: Numbering,
    tokens: Mapping[str, TokenLists],
    *,
    keep_eval_edges: bool,
    reverse: bool,
) -> StoredGraph:
    """Renumber, drop what must not carry messages, turn round what shall be turned round."""
    relations: list[StoredRelation] = []
    targets = {}
    for table in tables.edges.values():
        kept = message_edges(table, keep_eval_edges=keep_eval_edges)
        back = table.schema.reverse_name(default=reverse)
        found = _targets(table, numbering)
        if len(found.split):
            targets[table.schema.name] = found
        relations.append(_relation(table, kept, numbering, reverse=back, targets=found))
        if back:
            relations.append(_reversed(relations[-1]))
    ordered = {name: lists.select(numbering.rows[name]) for name, lists in tokens.items()}
    return StoredGraph(numbering, tables.nodes, tuple(relations), targets, ordered)


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
                targets=_split_counts(splits) if with_targets else {},
                id_column=table.schema.id,
            )
        )
    return tuple(infos)


def graph_stats(graph: StoredGraph, tables: GraphTables) -> dict[str, Any]:
    """Cut, balance and leaks; shares are of 1, lists go by host and by part."""
    numbering = graph.numbering
    forward = [relation for relation in graph.relations if not relation.info.is_reverse]
    parts = [(_part(numbering, r, "source"), _part(numbering, r, "destination")) for r in forward]
    hosts = [(s // numbering.trainers, d // numbering.trainers) for s, d in parts]
    by_part = _balance(graph)
    by_host = {
        name: [int(v) for v in np.reshape(values, (numbering.hosts, -1)).sum(axis=1)]
        for name, values in by_part.items()
    }
    return {
        "cut": {"hosts": cut_fraction(hosts), "parts": cut_fraction(parts)},
        "balance": {"hosts": by_host, "parts": by_part},
        "leaks": {name: leaks for name, table in tables.edges.items() if (leaks := table.leaks())},
    }


def _relation(
    table: EdgeTable, kept: np.ndarray, numbering: Numbering, *, reverse: str, targets: EdgeTargets
) -> StoredRelation:
    schema = table.schema
    source = numbering.ids[schema.source][table.source[kept]]
    destination = numbering.ids[schema.destination][table.destination[kept]]
    order = np.lexsort((source, destination))
    info = RelationInfo(
        name=schema.name,
        source=schema.source,
        destination=schema.destination,
        count=len(kept),
        reverse=reverse,
        feature_width=0 if table.features is None else table.features.shape[1],
        classes=table.classes,
        targets=_split_counts(targets.split) if table.splits is not None else {},
        id_columns=schema.id_columns,
    )
    features = None if table.features is None else table.features[kept][order]
    return StoredRelation(info, source[order], destination[order], features)


def _reversed(relation: StoredRelation) -> StoredRelation:
    forward = relation.info
    order = np.lexsort((relation.destination, relation.source))
    info = RelationInfo(
        name=forward.reverse,
        source=forward.destination,
        destination=forward.source,
        count=forward.count,
        reverse=forward.name,
        is_reverse=True,
        feature_width=forward.feature_width,
    )
    features = None if relation.features is None else relation.features[order]
    return StoredRelation(info, relation.destination[order], relation.source[order], features)


def _targets(table: EdgeTable, numbering: Numbering) -> EdgeTargets:
    splits = np.full(len(table.source), -1, dtype=np.int8) if table.splits is None else table.splits
    rows = np.flatnonzero(splits >= 0)
    source = numbering.ids[table.schema.source][table.source[rows]]
    destination = numbering.ids[table.schema.destination][table.destination[rows]]
    order = np.lexsort((splits[rows], source, destination))
    chosen = rows[order]
    return EdgeTargets(
        source=source[order],
        destination=destination[order],
        split=splits[chosen],
        label=np.full(len(rows), -1, dtype=np.int32) if table.labels is None else table.labels[chosen],
        features=None if table.features is None else table.features[chosen],
    )


def _split_counts(splits: np.ndarray) -> dict[str, int]:
    return {name: int((splits == code).sum()) for code, name in enumerate(SPLITS)}


def _part(numbering: Numbering, relation: StoredRelation, end: str) -> np.ndarray:
    return numbering.part_of(getattr(relation.info, end), getattr(relation, end))


def _balance(graph: StoredGraph) -> dict[str, list[int]]:
    """Nodes, edges (by destination), training targets and tokens of each part."""
    numbering = graph.numbering
    total = {
        name: np.zeros(numbering.parts, dtype=np.int64) for name in ("nodes", "edges", "targets", "tokens")
    }

    def add(name: str, part: np.ndarray, weights: np.ndarray | None = None) -> None:
        total[name] += np.bincount(part, weights, minlength=numbering.parts).astype(np.int64)

    for name, table in graph.nodes.items():
        part = numbering.part_of(name, np.arange(len(table.ids)))
        add("nodes", part)
        if name in graph.tokens:
            add("tokens", part, graph.tokens[name].lengths)
        if table.splits is not None:
            training = table.targets[table.splits[table.targets] == 0]
            add("targets", part[numbering.ids[name][training]])
    for relation in graph.relations:
        add("edges", _part(numbering, relation, "destination"))
        if relation.info.name in graph.targets:
            targets = graph.targets[relation.info.name]
            training = targets.destination[targets.split == 0]
            add("targets", numbering.part_of(relation.info.destination, training))
    return {name: values.tolist() for name, values in total.items()}


def node_weights(
    tables: GraphTables, tokens: Mapping[str, TokenLists], edges: Sequence[MessageEdges]
) -> list[np.ndarray]:
    """What the blocks shall balance: nodes, degree, text tokens, training targets; float N each."""
    sizes = [len(table.ids) for table in tables.nodes.values()]
    ones = np.ones(sum(sizes))
    degree, text, targets = (np.zeros(sum(sizes)) for _ in range(3))
    # Below, 1.0 and not 1: add.at of another type than the array's takes 170 ns a row instead of 7.

    def of(whole: np.ndarray, name: str) -> np.ndarray:
        first = sum(sizes[: list(tables.nodes).index(name)])
        return whole[first : first + len(tables.nodes[name].ids)]

    for name, lists in tokens.items():
        of(text, name)[:] += lists.lengths
    for name, table in tables.nodes.items():
        if table.splits is not None:
            np.add.at(of(targets, name), table.targets[table.splits[table.targets] == 0], 1.0)
    for relation in edges:
        table_, schema = relation.table, relation.table.schema
        for source, destination in relation.ends():
            np.add.at(of(degree, schema.source), source, 1.0)
            np.add.at(of(degree, schema.destination), destination, 1.0)
        if table_.splits is not None:
            for rows in table_.rows():
                training = rows[table_.splits[rows] == 0]
                np.add.at(of(targets, schema.source), table_.source[training], 1.0)
                np.add.at(of(targets, schema.destination), table_.destination[training], 1.0)
    return [ones, degree, text, targets]
