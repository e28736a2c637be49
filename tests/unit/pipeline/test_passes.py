"""Whole-graph passes of plans that a reader can count."""

from __future__ import annotations

import pytest

from pipeline.config import GraphPlan, StagePlan, TaskPlan, TrainPlan
from pipeline.cost.passes import evaluations, passes
from pipeline.schedule import Schedule

TASKS = {
    "cites": TaskPlan(relations=("cites",)),
    "topic": TaskPlan(kind="node_classification", node_type="paper"),
}


def stage(name: str, kind: str, task: str = "", start: str = "", evals: int = 1) -> StagePlan:
    return StagePlan(name=name, kind=kind, task=task, start=start, evals=evals)


def counted(
    *stages: StagePlan, tasks=("cites", "topic"), keeps: bool = True
) -> tuple[list[int], dict[str, int]]:
    plan = TrainPlan("p", GraphPlan("g"), {name: TASKS[name] for name in tasks}, stages)
    found = passes(plan, {s.name: s.evals for s in stages}, keeps=keeps)
    return [found.stages[s.name] for s in stages], dict(found.tests)


def test_stages_that_start_from_one_lm_share_its_embeddings():
    stages = (
        stage("lm", "graph_lm", "cites", evals=2),
        stage("a", "gnn_warm", "cites"),
        stage("b", "gnn_warm", "topic"),
    )
    assert counted(*stages) == ([1 + 2, 0, 0], {"cites": 0, "topic": 0})


def test_a_frozen_lm_encodes_once_when_nobody_has_looked_at_it():
    assert counted(stage("mlm", "mlm"), stage("a", "gnn_warm", "cites"), tasks=("cites",))[0] == [0, 1]
    pretrained = (stage("a", "gnn_warm", "cites"), stage("b", "gnn_warm", "topic"))
    assert counted(*pretrained) == ([1, 0], {"cites": 0, "topic": 0})


THERE_AND_BACK = (
    stage("a", "gnn_warm", "cites"),
    stage("joint", "joint", "cites", evals=1),
    stage("b", "gnn_warm", "topic", start="a"),
)


def test_what_was_kept_under_an_earlier_lm_is_not_encoded_again():
    # joint: its start is stored already. b: kept by a. Tests: joint's LM, then that of the start, kept.
    assert counted(*THERE_AND_BACK) == ([1, 1, 0], {"cites": 1, "topic": 0})


def test_a_stage_that_goes_back_to_an_lm_that_was_not_kept_encodes_again_and_so_do_tests():
    assert counted(*THERE_AND_BACK, keeps=False) == ([1, 1, 1], {"cites": 1, "topic": 1})


@pytest.mark.parametrize("keeps", [True, False])
def test_texts_are_kept_under_frozen_and_finished_lms_of_the_types_that_are_not_too_large(keeps):
    plan = TrainPlan("p", GraphPlan("g"), TASKS, THERE_AND_BACK)
    assert passes(plan, {"a": 1, "joint": 1, "b": 1}, keeps=keeps).kept == 2


def test_a_class_stage_of_the_lm_alone_leaves_all_texts_to_its_test():
    assert counted(stage("t", "task_lm", "topic", evals=3), tasks=("topic",)) == ([0], {"topic": 1})
    assert counted(stage("t", "task_lm", "cites", evals=3), tasks=("cites",)) == ([1 + 3], {"cites": 0})


def test_stages_without_evaluations_encode_nothing_but_for_the_reports_picture():
    silent = stage("lm", "graph_lm", evals=0)
    assert counted(silent, stage("j", "joint", "topic", evals=0), tasks=("topic",))[0] == [0, 0]
    assert counted(silent, stage("a", "gnn_warm", "cites"), tasks=("cites",))[0] == [1, 0]


@pytest.mark.parametrize(("evals", "epochs", "counted"), [(0, 1, 0), (1, 1, 1), (4, 1, 4), (50, 1, 10)])
def test_a_stage_is_never_evaluated_more_often_than_it_steps(evals, epochs, counted):
    schedule = Schedule((100,), 10, epochs, 1, 0)
    assert evaluations(stage("a", "gnn_warm", "cites", evals=evals), schedule) == counted
