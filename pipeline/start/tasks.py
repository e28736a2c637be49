"""What somebody's tables allow to be predicted: a task for everything with a split (and a label, for nodes).

Owns the choice of tasks for a first plan and their names. Never reads a file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from partition.manifest import SPLITS
from partition.tables import EdgeTable, GraphTables, NodeTable
from pipeline.start.sizes import TaskSize

_LINKS_APART = 3
"""Relations between the same two types whose links are tasks of their own; more, as in a knowledge graph,
are one task, since each takes a stage or two."""


@dataclass(frozen=True)
class Task:
    name: str
    kind: str
    of: tuple[str, ...]
    """Node type, or relations."""
    training: int
    """Training targets."""
    classes: tuple[int, ...]
    """Training targets of each class."""
    size: TaskSize
    sure: bool = True
    """False: written as a comment."""


def find_tasks(tables: GraphTables) -> tuple[list[Task], list[str]]:
    """A task for everything with a split (and a label, for nodes), and what is short of that.

    A relation with both is asked for its labels; its links are an idea, since they would double the time.
    """
    tasks: list[Task] = []
    missing: list[str] = []
    for name, node in tables.nodes.items():
        if node.labels is not None and node.splits is not None:
            _add_task(tasks, missing, "node_classification", node, (name,))
        elif node.labels is not None:
            missing.append(f"{name}: labels without a split column")
        elif node.splits is not None:
            missing.append(f"{name}: a split column without labels")
    links: dict[tuple[str, str], list[EdgeTable]] = {}
    for name, edge in tables.edges.items():
        ends = (edge.schema.source, edge.schema.destination)
        if edge.splits is not None and edge.labels is not None:
            _add_task(tasks, missing, "edge_classification", edge, ends)
            _add_task(tasks, missing, "link_prediction", edge, ends, sure=not _asks(tasks, name))
        elif edge.splits is not None:
            links.setdefault(ends, []).append(edge)
        elif edge.labels is not None:
            missing.append(f"{name}: labels without a split column")
    for ends, edges in links.items():
        if len(edges) > _LINKS_APART:
            _add_links(tasks, missing, edges, ends)
        else:
            for edge in edges:
                _add_task(tasks, missing, "link_prediction", edge, ends)
    return tasks, list(dict.fromkeys(missing))


def _asks(tasks: Sequence[Task], of: str) -> bool:
    return any(task.of == (of,) and task.kind == "edge_classification" for task in tasks)


def _add_links(
    tasks: list[Task], missing: list[str], edges: Sequence[EdgeTable], ends: tuple[str, str]
) -> None:
    """One task for the links of many relations between the same types, those that can be trained."""
    untrained = [
        edge.schema.name
        for edge in edges
        if edge.splits is not None and "train" in _empty_splits(edge.splits)
    ]
    missing += [f"{name}: its split column has no train targets" for name in untrained]
    edges = [edge for edge in edges if edge.schema.name not in untrained]
    splits = np.concatenate([np.zeros(0, np.int8), *(e.splits for e in edges if e.splits is not None)])
    wanted = "links" if ends[0] == ends[1] else f"{ends[0]}_{ends[1]}_links"
    if empty := _empty_splits(splits):
        told = f"{ends[0]} -> {ends[1]}: the split columns of {len(edges)} relations have"
        missing.append(f"{told} no {' and no '.join(empty)} targets")
        return
    names = tuple(edge.schema.name for edge in edges)
    size, training = TaskSize(ends, links=True), int((splits == 0).sum())
    tasks.append(Task(_free_name(wanted, tasks), "link_prediction", names, training, (), size))


def _empty_splits(splits: np.ndarray) -> list[str]:
    return [split for code, split in enumerate(SPLITS) if not (splits == code).any()]


def _free_name(wanted: str, tasks: Sequence[Task]) -> str:
    taken = [task.name for task in tasks]
    return next(n for n in (wanted, *(f"{wanted}_{i}" for i in range(2, len(taken) + 3))) if n not in taken)


def _add_task(
    tasks: list[Task],
    missing: list[str],
    kind: str,
    table: NodeTable | EdgeTable,
    ends: tuple[str, ...],
    *,
    sure: bool = True,
) -> None:
    """One more task, or one more sentence if a split of it is empty."""
    assert table.splits is not None
    name, splits, classes, label = table.schema.name, table.splits, (), ""
    if table.labels is not None and kind != "link_prediction":
        label = re.sub(r"[^A-Za-z0-9_]+", "_", table.schema.label).strip("_").lower()
        splits = np.where(table.labels >= 0, splits, -1)
        counts = np.bincount(table.labels[splits == 0], minlength=len(table.classes))
        classes = tuple(counts.tolist())
    if empty := _empty_splits(splits):
        missing.append(f"{name}: its split column has no {' and no '.join(empty)} targets")
        return
    if len(classes) == 1:
        missing.append(f"{name}: its label has one class only")
        return
    free = _free_name(f"{name}_{label}" if label else name, tasks)
    size = TaskSize(ends, links=kind == "link_prediction")
    tasks.append(Task(free, kind, (name,), int((splits == 0).sum()), classes, size, sure))
