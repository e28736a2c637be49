"""benchmarks/curve_run.py on the toy graph, with a real server and trainer: what its curves say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from toy import build_partition, plan_of

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from curve_run import Run, run_all

WARM = {"name": "warm", "kind": "gnn_warm", "task": "cites", "epochs": 1, "batch_size": 64}
JOINT = {"name": "joint", "kind": "joint", "task": "cites", "epochs": 1, "batch_size": 64, "lm_rate": 1e-3}


@pytest.fixture(scope="module")
def curves(toy, tmp_path_factory) -> dict[str, list[dict[str, float]]]:
    graph, lm, store = toy
    folder = tmp_path_factory.mktemp("curves")
    partition = build_partition(graph, lm, store, hosts=1, trainers=1)

    def run(name: str, stage: dict[str, object], mode: str, start: str = "warm") -> Run:
        model = {"bare": ["author"], "dropout": 0.0}
        cache = {"mode": mode, "max_age": 4}
        return Run(name, plan_of(graph, lm, stages=[stage], model=model, cache=cache), start)

    runs = [
        run("warm", WARM, "exact", ""),
        run("once", {**JOINT, "evals": 1}, "bounded"),
        run("often", {**JOINT, "evals": 4}, "bounded"),
        run("exact", {**JOINT, "evals": 1}, "exact"),
    ]
    run_all(runs, partition, folder)
    return {run.name: json.loads((folder / run.name / "curve.json").read_text()) for run in runs}


def test_looking_more_often_changes_neither_the_model_nor_its_cost(curves):
    once, often = curves["once"], curves["often"]
    assert len(often) == 5
    assert often[-1]["value"] == once[-1]["value"]
    assert often[-1]["lm_tokens"] == once[-1]["lm_tokens"]


def test_every_setting_starts_from_the_model_of_the_run_it_names(curves):
    best = max(point["value"] for point in curves["warm"])
    assert {curves[name][0]["value"] for name in ("once", "often", "exact")} == {best}


def test_without_a_cache_the_same_targets_cost_more_lm_tokens(curves):
    assert curves["exact"][-1]["lm_tokens"] > curves["once"][-1]["lm_tokens"] > 0
    assert curves["warm"][-1]["lm_tokens"] == 0
