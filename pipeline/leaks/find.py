"""Does the graph give a task's answers away? Looks only at the relations that the plan loads.

Owns which checks belong to which kind of task. Never changes anything, never loads a model.
"""

from __future__ import annotations

from collections.abc import Iterator

from partition.tables import GraphTables
from pipeline.config import TrainPlan
from pipeline.leaks.edges import joined_pairs, told_edge_classes, told_node_classes
from pipeline.leaks.targets import Leak, Targets, targets_of
from pipeline.leaks.texts import named_classes, repeated_texts


def find_leaks(tables: GraphTables, plan: TrainPlan) -> tuple[Leak, ...]:
    """Warnings first. `tables` hold the relations of plan.graph.relations and no others.

    UsageError where a task asks for a type or relation that is not among them.
    """
    found = [
        leak
        for name, task in plan.tasks.items()
        for targets in targets_of(name, task, tables)
        for leak in _checks(tables, targets, task.kind, keep_eval_edges=plan.partition.keep_eval_edges)
    ]
    return tuple(sorted(found, key=lambda leak: leak.level != "warning"))


def _checks(tables: GraphTables, targets: Targets, kind: str, *, keep_eval_edges: bool) -> Iterator[Leak]:
    if kind == "node_classification":
        yield from told_node_classes(tables, targets)
    else:
        yield from joined_pairs(tables, targets, keep_eval_edges=keep_eval_edges)
    if kind == "edge_classification":
        yield from told_edge_classes(tables, targets)
    yield from repeated_texts(tables, targets)
    if kind != "link_prediction":
        yield from named_classes(tables, targets)
