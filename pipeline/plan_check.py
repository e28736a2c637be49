"""A plan against a partition: does the graph have what tasks and stages ask for?

Standard library only, because `launch` imports it: it is asked before anything starts.
"""

from __future__ import annotations

from partition.errors import UsageError
from partition.manifest import NodeTypeInfo, PartitionManifest, RelationInfo
from pipeline.config import StagePlan, TaskPlan, TrainPlan


def check_against(plan: TrainPlan, manifest: PartitionManifest) -> None:
    """UsageError where a plan asks for what its graph does not have; before anything starts."""
    for name in plan.model.fanout_of:
        _known_relation(manifest, "model.fanout_of", name)
    for name in plan.model.bare:
        try:
            info = manifest.node_type(name)
        except UsageError as error:
            raise UsageError(f"model.bare: {error}") from None
        if info.text or info.feature_width:
            raise UsageError(f"model.bare: {name!r} has text or features", hint="leave it out")
    for name, task in plan.tasks.items():
        _check_task(name, task, manifest)
    for stage in plan.stages:
        _check_stage(stage, plan, manifest)


def _check_task(name: str, task: TaskPlan, manifest: PartitionManifest) -> None:
    """Every target needs training, validation and test rows, and classes where it has labels."""
    key = f"tasks.{name}"
    if task.kind == "node_classification":
        try:
            of: list[NodeTypeInfo] | list[RelationInfo] = [manifest.node_type(task.node_type)]
        except UsageError as error:
            raise UsageError(f"{key}.node_type: {error}") from None
        where, rows = f"{key}: node type {task.node_type!r}", "nodes"
    else:
        of = [_known_relation(manifest, f"{key}.relations", r) for r in task.relations]
        where, rows = f"{key}.relations", "edges"
    if task.kind != "link_prediction" and not of[0].classes:
        raise UsageError(f"{where} has no labels", hint="name the column in graph.toml: label = …")
    if task.kind != "link_prediction" and len(of[0].classes) == 1:
        raise UsageError(f"{where} has one class only", hint="a classification takes two or more")
    for info in of:
        if not info.targets.get("train"):
            raise UsageError(
                f"{where}: {info.name!r} has no training {rows}",
                hint="give its table a split column with train, valid and test, or let "
                "`lmgnn init FOLDER --split 80,10,10` draw one",
            )
    for split in ("valid", "test"):
        if not any(info.targets.get(split) for info in of):
            raise UsageError(
                f"{where} {'have' if rows == 'edges' else 'has'} no {split} {rows}",
                hint="name some in the split column of their tables",
            )
    training = sum(info.targets["train"] for info in of)
    if training < manifest.parts:
        raise UsageError(
            f"{where}: {training} training {rows} are too few for {manifest.parts} trainers",
            hint="start fewer (--nodes, --trainers-per-node)",
        )


def _check_stage(stage: StagePlan, plan: TrainPlan, manifest: PartitionManifest) -> None:
    key = f"stages.{stage.name}"
    for name in stage.relations:
        info = _known_relation(manifest, f"{key}.relations", name)
        if info.targets and not info.targets.get("train"):
            raise UsageError(
                f"{key}.relations: relation {name!r} has no training edges",
                hint="name some in the split column of its table, or leave that column out",
            )
    if stage.kind in ("mlm", "graph_lm", "task_lm") and not any(t.text for t in manifest.node_types):
        raise UsageError(f"{key}: the graph has no text", hint="leave the stage out")
    if stage.kind not in ("graph_lm", "task_lm"):
        return
    task = plan.tasks[stage.task] if stage.task else None
    if stage.kind == "graph_lm" and task is not None and task.kind != "link_prediction":
        raise UsageError(
            f"{key}.task = {stage.task!r}: a graph_lm stage predicts links, that task does not",
            hint='leave task out, or take kind = "task_lm"',
        )
    relations = stage.relations or (task.relations if task else ())
    ends = {t for r in map(manifest.relation, relations) for t in (r.source, r.destination)}
    ends |= {task.node_type} if task is not None and task.node_type else set()
    silent = sorted(t for t in ends if not manifest.node_type(t).text)
    if silent:
        raise UsageError(
            f"{key}: node type {silent[0]!r} has no text to learn from",
            hint="leave the stage out, or name relations that join texts",
        )


def _known_relation(manifest: PartitionManifest, key: str, name: str) -> RelationInfo:
    try:
        return manifest.relation(name)
    except UsageError as error:
        raise UsageError(f"{key}: {error}") from None
