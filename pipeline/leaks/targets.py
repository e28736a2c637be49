"""What is asked of a graph, as the checks for leaks see it: targets by rows of the tables, and findings.

Owns `Leak` and how an example is written. Shape letters: B targets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from partition.errors import UsageError
from partition.manifest import SPLITS
from partition.tables import GraphTables
from pipeline.config import TaskPlan

MOST_EXAMPLES = 3


@dataclass(frozen=True)
class Leak:
    """One way in which answers lie in the question."""

    task: str
    kind: str
    level: str
    """warning: figures are too good; note: worth knowing."""
    message: str
    share: float
    """Of the targets that the check looked at."""
    count: int
    examples: tuple[str, ...]
    """Up to three, under the user's own ids."""

    def __str__(self) -> str:
        shown = f" (e.g. {'; '.join(self.examples)})" if self.examples else ""
        return f"{self.level}: {self.task}: {self.message}{shown}"


@dataclass(frozen=True)
class Targets:
    """The targets of a task in one relation or node type."""

    task: str
    name: str
    """Relation or node type."""
    types: tuple[str, ...]
    """Node type of each end: one for nodes, two for edges."""
    ends: np.ndarray
    """int64 B x ends, rows of the types' tables."""
    split: np.ndarray
    """int8 B: 0 train, 1 valid, 2 test."""
    label: np.ndarray
    """int32 B; -1 for links to predict."""
    classes: tuple[str, ...]
    """Empty for links to predict."""

    def rows(self, *splits: str) -> np.ndarray:
        """int64: targets in these splits."""
        return np.flatnonzero(np.isin(self.split, [SPLITS.index(name) for name in splits]))

    def examples(self, tables: GraphTables, rows: np.ndarray) -> tuple[str, ...]:
        """The first few targets under the user's ids: `a` or `a -> b (test)`."""
        found = []
        for row in rows[:MOST_EXAMPLES]:
            ids = (str(tables.nodes[t].ids[int(i)]) for t, i in zip(self.types, self.ends[row], strict=True))
            found.append(f"{' -> '.join(ids)} ({SPLITS[self.split[row]]})")
        return tuple(found)


def targets_of(name: str, task: TaskPlan, tables: GraphTables) -> Iterator[Targets]:
    """Targets with a class where the task asks for one; UsageError for a type or relation not loaded."""
    if task.kind == "node_classification":
        node = tables.nodes.get(task.node_type)
        if node is None:
            raise UsageError(f"tasks.{name}.node_type = {task.node_type!r} is no node type of the graph")
        rows, empty = node.targets, np.zeros(0, np.int8)
        split = empty if node.splits is None else node.splits[rows]
        label = empty if node.labels is None else node.labels[rows]
        yield Targets(name, task.node_type, (task.node_type,), rows[:, None], split, label, node.classes)
        return
    for relation in task.relations:
        edge = tables.edges.get(relation)
        if edge is None:
            raise UsageError(f"tasks.{name}.relations: {relation!r} is not loaded: add it to graph.relations")
        splits = np.full(len(edge.source), -1, np.int8) if edge.splits is None else edge.splits
        asked, labels = splits >= 0, np.full(len(edge.source), -1, np.int32)
        if task.kind == "edge_classification" and edge.labels is not None:
            labels, asked = edge.labels, asked & (edge.labels >= 0)
        ends = np.stack([edge.source, edge.destination], axis=1)[asked]
        types = (edge.schema.source, edge.schema.destination)
        classes = edge.classes if task.kind == "edge_classification" else ()
        yield Targets(name, relation, types, ends, splits[asked], labels[asked], classes)
