"""The estimate against the schedule, the files, simulations and the model it measures."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import build_partition, plan_of

from partition.errors import UsageError
from partition.manifest import PartitionManifest
from partition.reader import open_tokens
from pipeline.config import EnginePlan, TrainPlan
from pipeline.estimate import estimate, main
from pipeline.measure import measure_graph, measure_lm, measure_step, sample_texts
from pipeline.model import LMGNN
from pipeline.shapes import batch_shape, distinct
from pipeline.targets import Schedule, read_links, read_texts

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
    return estimate(*case)


def row(answer, name: str):
    return next(stage for stage in answer["stages"] if stage["name"] == name)


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
        assert (found["targets"], found["steps"]) == (sum(sizes), schedule.steps)


def test_mlm_runs_every_training_text_through_the_lm_once_an_epoch(case, answer):
    _, manifest, folder = case
    lengths = {h: np.diff(open_tokens(folder, h, "paper")[1]) for h in range(2)}
    expected = 0
    for part in range(4):
        ids = read_texts(manifest, part=part, split="train").id.numpy()
        expected += 2 * lengths[part // 2][ids - manifest.host_range("paper", part // 2)[0]].sum()
    assert row(answer, "mlm")["lm_tokens_backward"] == pytest.approx(expected, rel=0.05)
    assert row(answer, "mlm")["lm_tokens_forward"] == 0


def test_a_frozen_lm_encodes_every_text_once_unless_the_stage_before_just_did(case, toy, answer):
    graph, lm, _ = toy
    _, manifest, folder = case
    without = plan_of(graph, lm, stages=[STAGES[0], STAGES[2]])
    alone = row(estimate(without, manifest, folder), "warm")
    assert alone["lm_tokens_forward"] == manifest.node_type("paper").tokens
    assert row(answer, "warm")["lm_tokens_forward"] == 0
    assert alone["lm_tokens_backward"] == row(answer, "warm")["lm_tokens_backward"] == 0


def test_an_lm_in_training_encodes_every_text_at_its_start_and_at_each_evaluation(case, answer):
    assert row(answer, "lm")["lm_tokens_forward"] == (1 + 2) * case[1].node_type("paper").tokens


def test_a_stage_counts_its_own_negatives(case, toy):
    """30 true edges: 60 ends, and 30 more where negatives are drawn for the batch."""
    plan, manifest, _ = case
    sizes = {}
    for name in ("batch", "joint"):
        task = replace(plan.tasks["cites"], negatives=name)
        shape = batch_shape(plan, manifest, task, {"cites": 30}, hops=0)
        sizes[name], count = shape.nodes[0]["paper"], manifest.node_type("paper").count
        assert shape.negatives["cites"] == 30
    assert (sizes["batch"], sizes["joint"]) == (distinct(60, count), distinct(90, count))
    graph, lm, _ = toy
    texts = []
    for negatives in ("joint", "batch"):
        stages = [{**STAGES[1], "negatives": negatives}]
        texts.append(row(estimate(plan_of(graph, lm, stages=stages), *case[1:]), "lm")["texts_per_batch"])
    assert texts[0] > texts[1]


def test_on_a_cpu_memory_never_falls_from_stage_to_stage(answer):
    peaks = [stage["memory_bytes"] for stage in answer["stages"] if stage["kind"] != "evaluate"]
    assert peaks == sorted(peaks)
    assert answer["total"]["memory_bytes"] == peaks[-1]


def test_joint_trains_train_nodes_texts_a_batch_and_runs_the_others_forward(case, answer):
    info, found = case[1].node_type("paper"), row(answer, "joint")
    texts = found["steps"] * 4 * info.tokens / info.count
    assert found["lm_tokens_backward"] == pytest.approx(5 * texts, abs=1)
    others = (found["texts_per_batch"] - 5) * texts + info.tokens
    assert found["lm_tokens_forward"] == pytest.approx(others, abs=1)


def test_accumulation_divides_the_steps_and_keeps_the_tokens(case):
    plan, manifest, folder = case
    four = TrainPlan.from_json(json.dumps({**json.loads(plan.to_json()), "engine": {"accumulate": 4}}))
    once, accumulated = (row(estimate(p, manifest, folder), "mlm") for p in (plan, four))
    assert accumulated["steps"] == math.ceil(once["steps"] / 4)
    assert accumulated["lm_tokens_backward"] == pytest.approx(once["lm_tokens_backward"], rel=0.2)


def test_totals_are_sums_and_times_and_sizes_are_real(answer):
    for name in ("seconds", "lm_tokens_forward", "lm_tokens_backward"):
        assert answer["total"][name] == pytest.approx(sum(stage[name] for stage in answer["stages"]))
    assert all(stage["seconds"] > 0 for stage in answer["stages"])
    assert all(stage["memory_bytes"] > 50 * 2**20 for stage in answer["stages"])


def test_the_hosts_memory_starts_with_the_largest_parts_files(case, answer):
    folder = case[2]
    largest = max(
        sum(file.stat().st_size for file in (folder / f"part{h}").rglob("*") if file.is_file())
        for h in (0, 1)
    )
    assert answer["total"]["host_bytes"] > largest


@pytest.mark.parametrize(("draws", "count"), [(10, 1000), (500, 300), (3000, 500)])
def test_distinct_draws_equal_a_simulation(draws, count):
    rng = np.random.default_rng(0)
    found = np.mean([len(np.unique(rng.integers(0, count, draws))) for _ in range(300)])
    assert distinct(draws, count) == pytest.approx(found, abs=1 + 0.01 * found)


def test_nothing_drawn_and_nothing_there_is_nothing():
    assert (distinct(0, 10), distinct(5, 0)) == (0, 0)


def test_the_batch_shape_equals_a_simulation_of_the_sampler(case):
    """One hop over the toy's relations, with edges whose ends are uniform."""
    plan, manifest, _ = case
    count = {t.name: t.count for t in manifest.node_types}
    rng = np.random.default_rng(0)
    edges = {
        r.name: (rng.integers(0, count[r.source], r.count), rng.integers(0, count[r.destination], r.count))
        for r in manifest.relations
    }
    sizes: dict[str, list[int]] = {name: [] for name in count}
    for _ in range(40):
        ends = rng.choice(manifest.relation("cites").count, 20)
        seeds = np.unique([*(edges["cites"][i][ends] for i in (0, 1)), rng.integers(0, count["paper"], 20)])
        found = {name: [seeds if name == "paper" else np.zeros(0, int)] for name in count}
        for info in manifest.relations:
            if info.destination == "paper":
                source, destination = edges[info.name]
                for node in seeds:
                    near = source[destination == node]
                    found[info.source].append(rng.permutation(near)[:3])
        for name, ids in found.items():
            sizes[name].append(len(np.unique(np.concatenate(ids))))
    shape = batch_shape(plan, manifest, plan.tasks["cites"], {"cites": 20}, hops=1)
    for name, values in sizes.items():
        assert np.mean(values) * 0.98 <= shape.nodes[1][name] <= np.mean(values) * 1.25 + 1, name


def test_a_batch_shape_never_exceeds_the_graph(case, toy):
    _, manifest, _ = case
    graph, lm, _ = toy
    plan = plan_of(graph, lm, model={"fanout": [-1, -1]})
    shape = batch_shape(plan, manifest, plan.tasks["cites"], {"cites": 10_000}, hops=2)
    assert all(shape.nodes[-1][t.name] <= t.count for t in manifest.node_types)
    assert shape.edges[1]["cites"] <= manifest.relation("cites").count + 1


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
    costs = measure_lm(encoder, model.masked[0], texts, share=0.15, engine=engine)
    shape = batch_shape(plan, manifest, plan.tasks["cites"], {"cites": 4}, hops=2)
    graph = measure_graph(model, manifest, plan.stages[-1], shape, engine)
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
    cost = measure_lm(next(model.text.distinct()), None, texts, share=0.15, engine=EnginePlan())
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
    assert "Left out: sampling" in shown


def test_a_plan_that_is_no_json_is_a_usage_error(case, tmp_path):
    file = tmp_path / "plan.toml"
    file.write_text("name = 3")
    with pytest.raises(UsageError, match=r"plan\.toml"):
        main(["--plan", str(file), "--partition", str(case[2])])
