"""The estimate beside a real run of all kinds of stages: rows, LM tokens, disk."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import NamedTuple

import pytest
import torch
from toy import build_partition, plan_of, run_processes

from partition.manifest import PartitionManifest
from pipeline.config import TrainPlan
from pipeline.cost import trial
from pipeline.cost.batches import stage_batches
from pipeline.cost.estimate import estimate
from pipeline.cost.figures import Estimate, StageCost
from pipeline.events import read_events

TASKS = {
    "cites": {"relations": ["cites"]},
    "topic": {"kind": "node_classification", "node_type": "paper"},
    "kind": {"kind": "edge_classification", "relations": ["cites"]},
}
STAGES = [
    {"name": "mlm", "kind": "mlm", "batch_size": 16},
    {"name": "graph_lm", "kind": "graph_lm", "task": "cites", "batch_size": 32, "lm_rate": 1e-3, "evals": 2},
    {"name": "topic_lm", "kind": "task_lm", "task": "topic", "epochs": 2, "batch_size": 16, "lm_rate": 1e-3},
    {"name": "kind_lm", "kind": "task_lm", "task": "kind", "epochs": 0.2, "batch_size": 32, "evals": 0},
    {"name": "cites_warm", "kind": "gnn_warm", "task": "cites", "start": "graph_lm"},
    {"name": "topic_warm", "kind": "gnn_warm", "task": "topic", "start": "graph_lm", "batch_size": 16},
    {
        "name": "joint",
        "kind": "joint",
        "task": "cites",
        "start": "cites_warm",
        "epochs": 0.5,
        "batch_size": 24,
        "train_nodes": 16,
        "lm_rate": 1e-4,
        "rate": 1e-2,
    },
]


class Case(NamedTuple):
    plan: TrainPlan
    partition: Path
    told: Estimate
    run: Path
    events: list[list[dict]]
    """Of each trainer."""


@pytest.fixture(scope="module")
def case(toy, tmp_path_factory) -> Case:
    graph, lm, store = toy
    folder = build_partition(graph, lm, store, hosts=1, trainers=2)
    still = {"drift": -1.0}  # the age bound stays, as in a replay
    plan = plan_of(graph, lm, tasks=TASKS, stages=STAGES, engine={"checkpoint_every": 3}, cache=still)
    run = tmp_path_factory.mktemp("estimated")
    client = Path(__file__).parent / "clients" / "counting_worker.py"
    run_processes(plan, folder, run, hosts=1, trainers=2, client=client)
    told = estimate(plan, PartitionManifest.load(folder), folder, run)
    return Case(plan, folder, told, run, [read_events(run, rank) for rank in range(2)])


def of(case: Case, stage: str, event: str) -> list[dict]:
    return [e for rank in case.events for e in rank if e["stage"] == stage and e["event"] == event]


def row(case: Case, stage: str) -> StageCost:
    return next(row for row in case.told.stages if row.name == stage)


@pytest.mark.parametrize("stage", [stage["name"] for stage in STAGES])
def test_targets_steps_and_lm_tokens_of_a_stages_steps_are_those_of_the_run(case: Case, stage: str) -> None:
    told, begun = row(case, stage), of(case, stage, "stage_start")[0]
    assert (told.targets, told.steps) == (begun["targets"], begun["steps"])
    run = sum(step["lm_tokens_trained"] + step["lm_tokens_forward"] for step in of(case, stage, "step"))
    assert told.lm_tokens_trained + told.lm_tokens_forward == pytest.approx(run, rel=0.1)


@pytest.mark.parametrize("stage", [stage["name"] for stage in STAGES])
def test_lm_tokens_of_evaluations_are_those_of_the_run(case: Case, stage: str) -> None:
    first, last = (of(case, stage, event) for event in ("stage_start", "stage_end"))
    everything = sum(e["tokens_so_far"] for e in last) - sum(e["tokens_so_far"] for e in first)
    steps = sum(step["lm_tokens_trained"] + step["lm_tokens_forward"] for step in of(case, stage, "step"))
    assert row(case, stage).lm_tokens_evaluation == pytest.approx(everything - steps, rel=0.02)


def test_lm_tokens_of_the_tests_are_those_of_the_run(case: Case) -> None:
    before = sum(e["tokens_so_far"] for e in of(case, STAGES[-1]["name"], "stage_end"))
    after = sum(e["tokens_so_far"] for e in of(case, STAGES[-1]["name"], "run_end"))
    assert row(case, "test").lm_tokens_evaluation == after - before > 0


@pytest.mark.parametrize("stage", ["graph_lm", "topic_lm", "cites_warm", "joint"])
def test_the_batches_that_are_measured_are_batches_of_the_run(case: Case, stage: str) -> None:
    steps = sorted(of(case, stage, "step"), key=lambda step: (step["step"], step["rank"]))
    if stage == "joint":  # with a cache they are one after the other, from the first
        drawn = list(range(min(len(steps), trial._CACHED)))
    else:
        drawn = torch.linspace(0, len(steps) - 1, min(len(steps), trial._BATCHES)).long().tolist()
    assert row(case, stage).nodes_per_batch == round(mean(steps[i]["nodes"] for i in drawn))


@pytest.mark.parametrize("name", ["mlm", "graph_lm", "topic_lm", "cites_warm", "joint"])
def test_batches_drawn_without_a_run_cost_what_the_run_counts(case: Case, name: str) -> None:
    """To the last token, with a cache that a language model without dropout also keeps trained texts in."""
    stage = next(stage for stage in case.plan.stages if stage.name == name)
    steps = of(case, name, "step")
    manifest = PartitionManifest.load(case.partition)
    told = stage_batches(
        case.plan, stage, manifest, case.partition, steps=max(step["step"] for step in steps)
    ).means
    sums = {key: sum(step.get(key, 0.0) for step in steps) for key in ("lm_tokens", "nodes")}
    assert told.batches == len(steps)
    assert told.nodes * told.batches == pytest.approx(sums["nodes"])
    assert told.lm_tokens_per_target * told.targets * told.batches == pytest.approx(sums["lm_tokens"])
    for kind in ("trained", "forward"):
        rows = sum(step.get(f"lm_rows_{kind}", 0.0) for step in steps)
        assert getattr(told, f"lm_rows_{kind}") * told.batches == pytest.approx(rows)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_run_takes_the_disk_that_was_told_less_what_is_there_for_a_moment_only(case: Case) -> None:
    """The small files around the tensors, left out of the estimate, count for a toy."""
    disk = case.told.disk
    kept = len(STAGES) / (len(STAGES) + 1)
    assert size(case.run / "stages") == pytest.approx(kept * disk.models_bytes, rel=0.2)
    assert size(case.run / "checkpoints") == pytest.approx(2 / 3 * disk.checkpoints_bytes, rel=0.2)
    assert size(case.run / "texts") == pytest.approx(disk.texts_bytes, rel=0.1)
    assert size(case.run / "export") == pytest.approx(disk.export_bytes, rel=0.2)
    assert size(case.run) < disk.total_bytes
