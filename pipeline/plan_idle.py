"""Keys of a plan that the kind of their task or stage never looks at: errors, like unknown keys.

Standard library only, because `launch` imports it. Judges what a person wrote, in the file or by --set, and
not the dataclasses: a run's plan.json names every key, whether it has an effect or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from partition.errors import UsageError
from pipeline.plan_stages import StagePlan, TaskPlan

_LINKS = ("link_prediction",)
_CLASSES = ("node_classification", "edge_classification")
_GRAPH = ("gnn_warm", "joint")
_TEXT = ("graph_lm", "task_lm")
TASK_KEYS: Mapping[str, tuple[str, ...]] = {
    "scorer": _LINKS,
    "text_scorer": _LINKS,
    "loss": _LINKS,
    "negatives": _LINKS,
    "negatives_per_edge": _LINKS,
    "negative_mix": _LINKS,
    "log_q": _LINKS,
    "eval_negatives": _LINKS,
    "class_weights": _CLASSES,
    "decoder": ("edge_classification",),
}
"""Key of a task -> the kinds that it has an effect on; all others: on all."""
STAGE_KEYS: Mapping[str, tuple[str, ...]] = {
    "lm_rate": ("mlm", *_TEXT, "joint"),
    "rate": (*_TEXT, *_GRAPH),
    "embedding_rate": _GRAPH,
    "train_nodes": ("joint",),
    "train_choice": ("joint",),
    "negatives": (*_TEXT, *_GRAPH),
    "mask": ("mlm",),
}
"""The same for stages."""


def refuse_idle_keys(
    raw: Mapping[str, Any], tasks: Mapping[str, TaskPlan], stages: tuple[StagePlan, ...]
) -> None:
    """UsageError for the first key of a parsed plan without an effect; `tasks`, `stages`: what it means."""
    for problem in _idle(raw, tasks, stages):
        raise UsageError(problem, hint="leave it out")


def _idle(
    raw: Mapping[str, Any], tasks: Mapping[str, TaskPlan], stages: tuple[StagePlan, ...]
) -> Iterator[str]:
    for name, task in tasks.items():
        for key in raw["tasks"][name]:
            if task.kind not in TASK_KEYS.get(key, (task.kind,)):
                kinds = " and ".join(TASK_KEYS[key])
                yield f"tasks.{name}.{key} has no effect: it is for {kinds}, this task is {task.kind}"
    for stage, given in zip(stages, raw["stages"], strict=True):
        where = f"stages.{stage.name}"
        for key in given:
            if stage.kind not in STAGE_KEYS.get(key, (stage.kind,)):
                kinds = ", ".join(STAGE_KEYS[key])
                yield f"{where}.{key} has no effect: it is for {kinds}, this stage is {stage.kind}"
        kind = tasks[stage.task].kind if stage.task else "link_prediction"
        if "negatives" in given and kind != "link_prediction":
            yield f"{where}.negatives has no effect: task {stage.task!r} predicts classes, not links"
