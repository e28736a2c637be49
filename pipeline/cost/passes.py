"""How often a run encodes the texts of the whole graph, followed from stage to stage.

Text embeddings are stored and known by the LM's weights (infer.encode_texts): nothing is encoded
twice under an LM that stays, since those of a frozen and of a finished one are kept in the run folder. What
a run takes over from another one is counted as encoded. Takes each stage's last model to be its best
one, which only training can tell. Never looks at a graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.config import StagePlan, TrainPlan
from pipeline.schedule import Schedule


@dataclass(frozen=True)
class Passes:
    """Passes over every text of the graph."""

    stages: Mapping[str, int]
    tests: Mapping[str, int]
    """Task -> at its test."""
    kept: int
    """LMs under which the embedding of every text is kept in the run folder."""


def evaluations(stage: StagePlan, schedule: Schedule) -> int:
    """How often a stage is evaluated, its start excepted; as loop.py counts."""
    steps = schedule.steps
    return len({round((i + 1) * steps / stage.evals) for i in range(stage.evals)} - {0})


def judges_whole_graph(stage: StagePlan, plan: TrainPlan) -> bool:
    """Whether an evaluation needs the embedding of every text; a class head of a task_lm stage looks
    at its targets alone."""
    if stage.kind == "task_lm":
        return plan.tasks[stage.task].kind == "link_prediction"
    return stage.kind != "mlm"


def passes(plan: TrainPlan, evaluated: Mapping[str, int], *, keeps: bool) -> Passes:
    """`evaluated`: stage -> its number of `evaluations`. `keeps`: whether all text embeddings are kept in the
    run folder, none too large for that."""
    stored, before = "nothing", ""
    kept: set[str] = set()
    links = any(task.kind == "link_prediction" for task in plan.tasks.values())
    leaves: dict[str, str] = {}
    of_stages: dict[str, int] = {}
    for stage in plan.stages:
        start = stage.start or before
        lm = leaves.get(start, start)  # a stage of another run is a name of its own
        count, start_count = 0, int(lm != stored and not (keeps and lm in kept))
        if stage.kind == "gnn_warm":
            count, stored = start_count, lm
            kept.add(lm)
        elif evaluated[stage.name] and judges_whole_graph(stage, plan):
            count, stored = start_count + evaluated[stage.name], stage.name
        elif stage.kind == "graph_lm" and links:  # for the report's picture
            count, stored = 1, stage.name
        leaves[stage.name] = lm if stage.kind == "gnn_warm" else stage.name
        of_stages[stage.name] = count
        before = stage.name
    of_tests = {}
    for task in plan.tasks:
        lm = leaves[[stage.name for stage in plan.stages if stage.task == task][-1]]
        of_tests[task] = int(lm != stored and not (keeps and lm in kept))
        stored = lm
        kept.add(lm)
    return Passes(of_stages, of_tests, len(kept))
