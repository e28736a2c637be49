"""The estimate against the schedule, the files and the model it measures. Beside a run:
tests/flows/test_estimate_run.py."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from toy import build_partition, plan_of

from partition.errors import UsageError
from partition.manifest import PartitionManifest
from partition.reader import open_tokens
from pipeline.config import EnginePlan, TrainPlan
from pipeline.cost.estimate import estimate, main
from pipeline.cost.figures import Estimate, StageCost
from pipeline.cost.measure import measure_graph, measure_lm, measure_step, sample_texts
from pipeline.cost.offline import OfflineGraph
from pipeline.cost.table import show
from pipeline.cost.trial import Trials
from pipeline.model import LMGNN
from pipeline.schedule import Schedule
from pipeline.targets import read_links, read_texts

STAGES = [
    {"name": "mlm", "kind": "mlm", "epochs": 2, "batch_size": 16, "evals": 0},
    {"name": "lm", "kind": "graph_lm", "task": "cites", "batch_size": 16, "evals": 2},
    {"name": "warm", "kind": "gnn_warm", "task": "cites", "epochs": 3},
    {"name": "joint", "kind": "joint", "task": "cites", "batch_size": 8, "train_nodes": 5, "evals": 1},
]


@pytest.fixture(scope="module")
def case(toy) -> tuple[TrainPlan, PartitionManifest, Path]:
    graph, lm, store = toy
    folder = build_partition(graph, lm, store, hosts=2, trainers=2)
    return plan_of(graph, lm, stages=STAGES), PartitionManifest.load(folder), folder


@pytest.fixture(scope="module")
def answer(case):
    return told(*case)


def told(plan: TrainPlan, manifest: PartitionManifest, folder: Path) -> Estimate:
    return estimate(plan, manifest, folder, folder / "runs" / "next")


def row(answer: Estimate, name: str) -> StageCost:
    return next(stage for stage in answer.stages if stage.name == name)


def test_steps_and_targets_are_those_of_the_schedule(case, answer):
    plan, manifest, folder = case
    for stage in plan.stages:
        if stage.kind == "mlm":
            sizes = [len(read_texts(manifest, part=p, split="train")) for p in range(4)]
        else:
            sizes = [
                len(read_links(folder, manifest, part=p, relations=["cites"], split="train"))
                for p in range(4)
            ]
        schedule = Schedule(tuple(sizes), stage.batch_size, stage.epochs, plan.engine.accumulate, 0)
        found = row(answer, stage.name)
        assert (found.targets, found.steps) == (sum(sizes), schedule.steps)


def test_mlm_runs_every_training_text_through_the_lm_once_an_epoch_padded_to_its_batch(case, answer):
    _, manifest, folder = case
    lengths = {h: np.diff(open_tokens(folder, h, "paper")[1]) for h in range(2)}
    real = longest = 0
    for part in range(4):
        ids = read_texts(manifest, part=part, split="train").id.numpy()
        rows = lengths[part // 2][ids - manifest.host_range("paper", part // 2)[0]]
        real, longest = real + 2 * rows.sum(), longest + 2 * len(rows) * rows.max()
    assert real < row(answer, "mlm").lm_tokens_trained <= longest
    assert row(answer, "mlm").lm_tokens_forward == 0


def test_encoding_all_texts_costs_what_the_encoder_counts(case):
    plan, manifest, folder = case
    model = LMGNN(plan, manifest)
    graph, encoder = OfflineGraph(folder, manifest), next(model.text.distinct())
    for part in range(4):
        encoder.encode(graph.tokens("paper", torch.arange(*manifest.part_range("paper", part))), 50)
    assert Trials(plan, manifest, folder, model).whole_graph(50) == encoder.work.tokens_run


def test_a_stage_counts_its_own_negatives(case, toy):
    graph, lm, _ = toy
    nodes = []
    for negatives in ("joint", "batch"):
        plan = plan_of(graph, lm, stages=[{**STAGES[1], "negatives": negatives}])
        nodes.append(row(told(plan, *case[1:]), "lm").nodes_per_batch)
    assert nodes[0] > nodes[1]


def test_on_a_cpu_memory_never_falls_from_stage_to_stage(answer):
    peaks = [stage.memory_bytes for stage in answer.stages]
    assert peaks == sorted(peaks)
    assert answer.total.memory_bytes == peaks[-1]


def test_joint_trains_train_nodes_texts_a_batch_at_most_as_long_as_the_longest(case, answer):
    info, found = case[1].node_type("paper"), row(answer, "joint")
    texts = found.steps * 4 * 5
    # Chosen texts are not of average length, and packed ones have next to no padding.
    assert 0.9 * texts * info.tokens / info.count < found.lm_tokens_trained <= texts * 12
    assert found.lm_tokens_forward > found.lm_tokens_trained


def test_accumulation_divides_the_steps_and_keeps_the_tokens(case):
    plan, manifest, folder = case
    four = TrainPlan.from_json(json.dumps({**json.loads(plan.to_json()), "engine": {"accumulate": 4}}))
    once, accumulated = (row(told(p, manifest, folder), "mlm") for p in (plan, four))
    assert accumulated.steps == math.ceil(once.steps / 4)
    assert accumulated.lm_tokens_trained == pytest.approx(once.lm_tokens_trained, rel=0.2)


def test_totals_are_sums_and_times_and_sizes_are_real(answer):
    for name in ("seconds", "lm_tokens_forward", "lm_tokens_trained", "lm_tokens_evaluation"):
        assert getattr(answer.total, name) == pytest.approx(sum(getattr(s, name) for s in answer.stages))
    assert all(stage.seconds > stage.sample_seconds > 0 for stage in answer.stages[:-1])
    assert all(stage.memory_bytes > 50 * 2**20 for stage in answer.stages)


def test_ranking_test_edges_against_all_nodes_takes_its_time(case, toy, answer):
    graph, lm, _ = toy
    task = {"cites": {"relations": ["cites"], "full_ranking": True}}
    manifest, alone = case[1], row(answer, "test").seconds
    found = row(told(plan_of(graph, lm, stages=STAGES, tasks=task), *case[1:]), "test")
    scores = 2 * manifest.relation("cites").targets["test"] * manifest.node_type("paper").count
    assert alone == 0  # the joint stage has just encoded all texts
    assert found.seconds == pytest.approx(scores * 30e-9 * 16 / 128 / 4)


def test_the_hosts_memory_starts_with_the_largest_parts_files(case, answer):
    folder = case[2]
    largest = max(
        sum(file.stat().st_size for file in (folder / f"part{h}").rglob("*") if file.is_file())
        for h in (0, 1)
    )
    assert answer.host_bytes > largest


def test_a_run_that_does_not_fit_on_the_disk_is_told_so_in_a_line(answer, capsys):
    show(answer, Console(width=120))
    assert "error" not in capsys.readouterr().out
    show(replace(answer, free_bytes=answer.disk.total_bytes - 1), Console(width=120))
    assert "error: the run does not fit into" in capsys.readouterr().out


def test_the_free_space_is_that_of_the_nearest_folder_that_exists(answer, case):
    assert answer.free_bytes == pytest.approx(shutil.disk_usage(case[2]).free, rel=0.05)


def test_sampled_texts_are_whole_lists_of_the_partition(case):
    _, manifest, folder = case
    texts = sample_texts(manifest, folder, 50)
    assert 50 <= len(texts) <= 54
    stored = set()
    for host in range(2):
        values, offsets = open_tokens(folder, host, "paper")
        stored |= {tuple(values[a:b]) for a, b in itertools.pairwise(offsets)}
    bounds = texts.offsets.tolist()
    for a, b in itertools.pairwise(bounds):
        assert tuple(texts.values[a:b].tolist()) in stored


def test_measuring_leaves_the_weights_as_they_were(case):
    plan, manifest, folder = case
    model = LMGNN(plan, manifest)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    engine = EnginePlan()
    encoder = next(model.text.distinct())
    texts = sample_texts(manifest, folder, 20)
    costs = measure_lm(encoder, model.masked[0], texts, budget=40, share=0.15, engine=engine)
    batch = Trials(plan, manifest, folder, model).of(plan.stages[-1]).batch
    graph = measure_graph(model, manifest, plan.stages[-1], batch, engine)
    seconds = measure_step(list(model.parameters()))
    assert all(cost.seconds > 0 for cost in (costs.forward, costs.train, costs.masked, graph))
    assert seconds > 0
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_training_tokens_keep_at_least_the_layers_outputs_for_backward(case):
    """Each layer's output, width 32 in float32, must be there when gradients come back."""
    plan, manifest, folder = case
    model = LMGNN(plan, manifest)
    texts = sample_texts(manifest, folder, 20)
    cost = measure_lm(next(model.text.distinct()), None, texts, budget=40, share=0.15, engine=EnginePlan())
    assert cost.train.saved_bytes > 2 * 32 * 4
    assert cost.forward.saved_bytes == 0


def test_the_command_prints_one_line_of_json_or_a_table(case, tmp_path, capsys):
    plan, manifest, folder = case
    file = tmp_path / "plan.json"
    file.write_text(plan.to_json())
    assert main(["--plan", str(file), "--partition", str(folder), "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0])["partition"] == manifest.id
    assert main(["--plan", str(file), "--partition", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert all(stage.name in shown for stage in plan.stages)
    assert "Left out: RPC" in shown
    assert max(len(line) for line in shown.splitlines()) <= 120


def test_a_plan_that_is_no_json_is_a_usage_error(case, tmp_path):
    file = tmp_path / "plan.toml"
    file.write_text("name = 3")
    with pytest.raises(UsageError, match=r"plan\.toml"):
        main(["--plan", str(file), "--partition", str(case[2])])
