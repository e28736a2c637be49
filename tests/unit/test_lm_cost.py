"""benchmarks/lm_cost.py on the toy graph: what it counts its own way."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import build_partition, plan_of

from partition.manifest import PartitionManifest
from pipeline.cost.trial import Trials
from pipeline.model import LMGNN
from pipeline.targets import read_links

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import lm_cost
import lm_counts

STAGE = {"name": "joint", "kind": "joint", "task": "cites", "batch_size": 16, "train_nodes": 5}


@pytest.fixture(scope="module")
def trials(toy) -> Trials:
    graph, lm, store = toy
    folder = build_partition(graph, lm, store, hosts=4, trainers=1)
    manifest = PartitionManifest.load(folder)
    plan = plan_of(graph, lm, stages=[STAGE], cache={"refresh": 0.0})
    return Trials(plan, manifest, folder, LMGNN(plan, manifest))


def test_uniform_targets_are_all_of_them_once_from_every_part_for_every_trainer(toy, trials):
    graph, lm, store = toy
    folder = build_partition(graph, lm, store, hosts=4, trainers=1)
    manifest = PartitionManifest.load(folder)
    rule = lm_cost.UniformTargets(trials.rule(plan_of(graph, lm, stages=[STAGE]).stages[0]))
    own = [read_links(folder, manifest, part=p, relations=["cites"], split="train") for p in range(4)]
    dealt = [rule.targets(part) for part in range(4)]
    pairs = [set(zip(t.source.tolist(), t.destination.tolist(), strict=True)) for t in (*own, *dealt)]
    assert set.union(*pairs[4:]) == set.union(*pairs[:4])
    assert sum(map(len, dealt)) == sum(map(len, own))
    assert all(mine & part for mine in pairs[4:] for part in pairs[:4])


def test_plainly_counted_every_text_that_was_not_found_is_as_long_as_the_longest(toy, trials):
    graph, lm, _ = toy
    replay = trials.replay(plan_of(graph, lm, stages=[STAGE], cache={"refresh": 0.0}).stages[0])
    replay.empty_cache()
    found = 0
    for cost in (cost for step in replay.steps(range(3)) for cost in step):
        lengths = cost.batch.tokens["paper"].lengths()
        missing = torch.ones(len(lengths), dtype=torch.bool)
        missing[cost.batch.hits["paper"]] = False
        rows, longest = int(missing.sum()), int(lengths.max())
        work = lm_counts.plain_work(cost.batch)
        assert (work.rows_trained, work.rows_forward) == (5, rows - 5)
        assert work.tokens == (rows + 2 * 5) * longest
        assert work.padding_trained + work.padding_forward == rows * longest - int(lengths.sum())
        found += cost.found
    assert found > 0


@pytest.fixture
def rows(toy, tmp_path, monkeypatch, capsys) -> Callable[..., list[dict[str, Any]]]:
    """Runs the script with more arguments on 16 targets a batch; the rows that it prints."""
    arguments = ["lm_cost.py", "--graph", str(toy[0]), "--predict", "cites", "--store", str(tmp_path)]
    arguments += ["--output", str(tmp_path / "cost.json"), "--fanouts", "10", "--json"]
    monkeypatch.setattr(lm_cost, "TARGETS", 16)

    def run(*more: str) -> list[dict[str, Any]]:
        monkeypatch.setattr(sys, "argv", [*arguments, *more])
        capsys.readouterr()
        assert lm_cost.main() == 0
        return json.loads(capsys.readouterr().out)["rows"]

    return run


def test_rows_that_are_there_are_kept_and_only_missing_ones_are_drawn(rows, tmp_path):
    output = tmp_path / "cost.json"
    [row] = rows("--steps", "1", "--settings", "grouped")
    row["seconds"] = -1.0
    output.write_text(json.dumps({**json.loads(output.read_text()), "rows": [row]}))
    both = rows("--steps", "1", "--settings", "grouped", "part")
    assert [r["setting"] for r in both] == ["part", "grouped"]
    assert both[1] == row
    assert both[0]["lm_tokens_per_target"] > both[1]["lm_tokens_per_target"] > 0


def test_a_setting_that_is_out_of_seconds_keeps_the_steps_it_got(rows):
    [short] = rows("--seconds", "1e-9", "--settings", "grouped")
    assert short["steps"] == 1 < short["steps_per_epoch"]
    assert rows("--seconds", "1e-9", "--settings", "grouped") == [short]
    [whole] = rows("--settings", "grouped")
    assert whole["steps"] == whole["steps_per_epoch"] == short["steps_per_epoch"]


def test_later_tokens_are_those_of_the_second_epoch_with_the_cache_of_the_first(toy, rows, tmp_path):
    [row] = rows("--settings", "recommended")
    [setting] = [setting for setting in lm_cost.SETTINGS if setting.name == "recommended"]
    [folder] = [path.parent for path in tmp_path.glob("*/manifest.json")]
    manifest = PartitionManifest.load(folder)
    plan = lm_cost._plan(str(toy[0]), ["cites"], setting, 10)
    replay = Trials(plan, manifest, folder, LMGNN(plan, manifest)).replay(plan.stages[0])
    replay.empty_cache()
    epoch = row["steps_per_epoch"]
    drawn = list(replay.steps(range(2 * epoch)))[epoch : epoch + lm_cost.LATER]
    costs = [cost for step in drawn for cost in step]
    tokens, targets = (sum(some) for some in zip(*((c.work.tokens, c.targets) for c in costs), strict=True))
    assert row["later_lm_tokens_per_target"] == round(tokens / targets, 2)
    assert row["later_lm_tokens_per_target"] < row["lm_tokens_per_target"]
