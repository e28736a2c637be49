"""What a graph in memory holds, counted, and what is odd about it with the way out.

Owns the counts and warnings that `lmgnn check` shows. Never reads a file, never prints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow.compute as pc

from partition.manifest import SPLITS, NodeTypeInfo, PartitionManifest, RelationInfo
from partition.schema import GraphSchema
from partition.tables import EdgeTable, GraphTables, NodeTable

_DRAW = "`lmgnn init FOLDER --split 80,10,10` draws one"
_SPLIT_HINT = "add a split column with train, valid and test to its table and name it: split = …"


@dataclass(frozen=True)
class Labels:
    """Classes of a type or relation."""

    classes: int
    labelled: int
    """Rows with a label."""
    training: Mapping[str, int]
    """Class -> training targets."""
    targets: Mapping[str, int]
    """Split -> rows with a label in it; empty without a split column."""


@dataclass(frozen=True)
class NodeFacts:
    """One node type."""

    name: str
    rows: int
    isolated: int
    """Nodes without an edge."""
    with_text: int | None
    """Nodes whose text is not blank; None: the type has no text."""
    mean_words: float
    features: int
    labels: Labels | None
    splits: Mapping[str, int] = field(default_factory=dict)
    """Split -> rows; empty without a split column."""


@dataclass(frozen=True)
class EdgeFacts:
    """One relation."""

    name: str
    source: str
    destination: str
    rows: int
    duplicates: int
    """Rows whose two ends an earlier row joins already."""
    self_loops: int
    leaks: int
    """Validation and test edges whose ends a message edge joins too."""
    out_degree: float
    in_degree: float
    features: int
    labels: Labels | None
    splits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class GraphFacts:
    """A whole graph."""

    name: str
    nodes: tuple[NodeFacts, ...]
    edges: tuple[EdgeFacts, ...]
    warnings: tuple[str, ...]


def graph_facts(tables: GraphTables, *, name: str) -> GraphFacts:
    """Count everything and say what is odd."""
    nodes = tuple(_node_facts(table, tables) for table in tables.nodes.values())
    edges = tuple(_edge_facts(table, tables) for table in tables.edges.values())
    warnings = [w for n in nodes for w in _node_warnings(n)] + [w for e in edges for w in _edge_warnings(e)]
    held = [n.splits or n.labels for n in nodes] + [e.splits or e.labels for e in edges]
    if not any(held):
        warnings.append(
            f"no table has a split into {', '.join(SPLITS)}, so nothing can be trained yet: {_DRAW}"
        )
    return GraphFacts(name, nodes, edges, tuple(warnings))


def as_manifest(tables: GraphTables, schema: GraphSchema, *, reverse: bool) -> PartitionManifest:
    """What the manifest of a partition on one trainer would say about types and relations.

    Without files, tokens and id ranges, which plans are not checked against.
    """
    types = []
    for name, node in tables.nodes.items():
        targets = {} if node.labels is None or node.splits is None else _counts(node.splits[node.targets])
        width = 0 if node.features is None else node.features.shape[1]
        text = node.texts is not None
        column = node.schema.id
        types.append(NodeTypeInfo(name, len(node.ids), text, 0, width, node.classes, targets, column))
    relations = []
    for name, edge in tables.edges.items():
        source, destination, back = edge.schema.source, edge.schema.destination, ""
        kept = int((~edge.held_out).sum())
        back = edge.schema.reverse_name(default=reverse)
        targets = {} if edge.splits is None else _counts(edge.splits)
        info = RelationInfo(
            name,
            source,
            destination,
            kept,
            back,
            classes=edge.classes,
            targets=targets,
            id_columns=edge.schema.id_columns,
        )
        relations.append(info)
        if back:
            relations.append(RelationInfo(back, destination, source, kept, name, is_reverse=True))
    return PartitionManifest(
        id="",
        graph_name=schema.name,
        hosts=1,
        trainers=1,
        node_types=tuple(types),
        relations=tuple(relations),
        clusters=(1,),
        offsets={info.name: (0, info.count) for info in types},
        options={},
        inputs={},
        stats={},
        files={},
    )


def _node_facts(table: NodeTable, tables: GraphTables) -> NodeFacts:
    touched = np.zeros(len(table.ids), dtype=bool)
    for edge in tables.edges.values():
        for node_type, rows in (
            (edge.schema.source, edge.source),
            (edge.schema.destination, edge.destination),
        ):
            if node_type == table.schema.name:
                touched[rows] = True
    words = np.zeros(0)
    if table.texts is not None:
        plain = pc.utf8_trim_whitespace(table.texts)
        counted = pc.if_else(pc.equal(plain, ""), 0, pc.list_value_length(pc.utf8_split_whitespace(plain)))
        words = np.asarray(counted)
    return NodeFacts(
        name=table.schema.name,
        rows=len(table.ids),
        isolated=int((~touched).sum()),
        with_text=None if table.texts is None else int((words > 0).sum()),
        mean_words=float(words[words > 0].mean()) if (words > 0).any() else 0.0,
        features=0 if table.features is None else table.features.shape[1],
        labels=_labels(table),
        splits={} if table.splits is None else _counts(table.splits),
    )


def _edge_facts(table: EdgeTable, tables: GraphTables) -> EdgeFacts:
    schema, rows = table.schema, len(table.source)
    pairs = np.unique(np.stack([table.source, table.destination]), axis=1).shape[1]
    within = schema.source == schema.destination
    return EdgeFacts(
        name=schema.name,
        source=schema.source,
        destination=schema.destination,
        rows=rows,
        duplicates=rows - pairs,
        self_loops=int((table.source == table.destination).sum()) if within else 0,
        leaks=table.leaks(),
        out_degree=rows / max(len(tables.nodes[schema.source].ids), 1),
        in_degree=rows / max(len(tables.nodes[schema.destination].ids), 1),
        features=0 if table.features is None else table.features.shape[1],
        labels=_labels(table),
        splits={} if table.splits is None else _counts(table.splits),
    )


def _labels(table: NodeTable | EdgeTable) -> Labels | None:
    if table.labels is None:
        return None
    labelled = table.labels >= 0
    splits = np.full(len(table.labels), -1) if table.splits is None else np.where(labelled, table.splits, -1)
    training = np.bincount(table.labels[splits == 0], minlength=len(table.classes)).tolist()
    return Labels(
        classes=len(table.classes),
        labelled=int(labelled.sum()),
        training=dict(zip(table.classes, training, strict=True)),
        targets={} if table.splits is None else _counts(splits),
    )


def _counts(splits: np.ndarray) -> dict[str, int]:
    return {name: int((splits == code).sum()) for code, name in enumerate(SPLITS)}


def _node_warnings(facts: NodeFacts) -> Iterator[str]:
    where = f"[nodes.{facts.name}]"
    if not facts.rows:
        yield f"{where}: no rows"
        return
    if facts.with_text is not None and facts.with_text < facts.rows:
        empty = facts.rows - facts.with_text
        advice = "leave text out" if not facts.with_text else "they count as empty texts"
        yield f"{where}: {empty:,} of {facts.rows:,} texts are blank: {advice}"
    if facts.isolated:
        yield f"{where}: {facts.isolated:,} of {facts.rows:,} nodes have no edge: no neighbour can help them"
    if facts.splits and facts.labels is None:
        yield f"{where}: a split without a label is not used: name the label column, or leave split out"
    yield from _label_warnings(where, facts.labels)


def _edge_warnings(facts: EdgeFacts) -> Iterator[str]:
    where = f"[edges.{facts.name}]"
    if not facts.rows:
        yield f"{where}: no rows: leave it out"
        return
    if facts.leaks:
        yield (
            f"{where}: {facts.leaks:,} validation or test edges join ends that a message edge joins too, "
            "which gives them away: keep one row of each pair, or give all of them one split"
        )
    elif facts.duplicates:
        yield f"{where}: {facts.duplicates:,} rows repeat an earlier pair: they weigh more; else drop them"
    if facts.self_loops:
        told = "drop them unless they mean something"
        yield f"{where}: {facts.self_loops:,} edges join a node with itself: {told}"
    if facts.labels is None and facts.splits:
        yield from _empty_splits(where, facts.splits)
    yield from _label_warnings(where, facts.labels)


def _label_warnings(where: str, labels: Labels | None) -> Iterator[str]:
    if labels is None:
        return
    if not labels.targets:
        yield f"{where}: labels without a split cannot be trained: {_DRAW}, or {_SPLIT_HINT}"
        return
    yield from _empty_splits(where, labels.targets)
    without = [name for name, count in labels.training.items() if not count]
    if without and labels.targets["train"]:
        told = ", ".join(without[:5]) + (", ..." if len(without) > 5 else "")
        yield (
            f"{where}: {len(without)} of {labels.classes} classes have no training target ({told}): "
            "they are never predicted; split anew, or merge them"
        )


def _empty_splits(where: str, counts: Mapping[str, int]) -> Iterator[str]:
    for name, count in counts.items():
        if not count:
            yield f"{where}: no {name} targets: a task needs all of {', '.join(SPLITS)}; {_SPLIT_HINT}"
