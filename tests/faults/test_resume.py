"""Kill -9 in every stage: the job goes on by itself and ends with the unbroken run's numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kills import DEADLINE_S, PLAN_HEAD, kill_in, start
from safetensors.torch import load_file
from toy import write_lm

from pipeline.records import words

STAGES = ("mlm", "graph_lm", "warm", "joint")
ROOM = 8 * words(16) * 40
"""Bytes of the embeddings of 40 texts of the toy LM: of 120 papers."""
PLAN = (
    PLAN_HEAD
    + """[engine]
checkpoint_every = 7
threads = 1
[tasks.cites]
relations = ["cites"]
negative_mix = {{ anywhere = 1.0, part = 1.0, fresh = 1.0 }}
[[stages]]
name = "mlm"
kind = "mlm"
batch_size = 4
epochs = 1.2
evals = 3
[[stages]]
name = "graph_lm"
kind = "graph_lm"
task = "cites"
batch_size = 10
evals = 3
[[stages]]
name = "warm"
kind = "gnn_warm"
task = "cites"
batch_size = 10
evals = 3
[[stages]]
name = "joint"
kind = "joint"
task = "cites"
batch_size = 10
lm_rate = 1e-3
evals = 3
"""
)


def without_warm(plan: str) -> str:
    """A plan that asks for a stage with every embedding -> the same without it, with less room."""
    before, _, after = plan.partition('[[stages]]\nname = "warm"')
    return f"{before}{after[after.index('[[stages]]') :]}[cache]\nhost_gib = {ROOM / 2**30}\n"


def result(run: Path) -> dict[str, Any]:
    task = json.loads((run / "metrics.json").read_text())["tasks"]["cites"]
    [model] = (run / "stages" / "joint").glob("0*")
    rows = [load_file(f)["author"] for f in sorted(model.glob("rank-*/part-*.safetensors"))]
    return {
        "test": task["test_metrics"],
        "stages": task["stages"],
        "weights": load_file(model / "rank-0" / "model.safetensors"),
        "rows": rows,
    }


@pytest.mark.drill
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(
            dict(zip(STAGES, ("trainer-1", "server-0", "trainer-0", "trainer-1"), strict=True)), id="all"
        ),
        pytest.param({"graph_lm": "trainer-0", "joint": "trainer-1"}, id="little-room"),
    ],
)
def test_a_job_killed_in_every_stage_ends_as_if_nothing_had_happened(
    kills: dict[str, str], toy: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    graph, _, store = toy
    lm = write_lm(tmp_path / "lm", dropout=0.1)
    plan = tmp_path / "plan.toml"
    text = PLAN.format(graph=graph, lm=lm, store=store)
    plan.write_text(text if "warm" in kills else without_warm(text))
    unbroken = start(plan, tmp_path / "unbroken")
    assert unbroken.wait(DEADLINE_S) == 0
    killed = start(plan, tmp_path / "killed", "--max-restarts", "4")
    for stage, name in kills.items():
        kill_in(tmp_path / "killed", killed, stage, name, after=10)
    assert killed.wait(DEADLINE_S) == 0

    outcome = json.loads((tmp_path / "killed" / "outcome.json").read_text())
    assert outcome["restarts"] == len(kills)
    expected, got = result(tmp_path / "unbroken"), result(tmp_path / "killed")
    assert got["test"] == expected["test"]
    assert got["stages"] == expected["stages"]
    for name, weight in expected["weights"].items():
        assert weight.equal(got["weights"][name]), name
    for mine, other in zip(got["rows"], expected["rows"], strict=True):
        assert mine.equal(other)


def test_another_plan_is_refused_on_an_old_run_folder(toy: tuple[Path, Path, Path], tmp_path: Path) -> None:
    graph, lm, store = toy
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN.format(graph=graph, lm=lm, store=store))
    run = tmp_path / "run"
    process = start(plan, run)
    kill_in(run, process, "mlm", "trainer-0", after=8)
    assert process.wait(DEADLINE_S) == 10
    again = start(plan, run, "--set", "seed=1")
    assert again.wait(60) == 2
    assert "plan" in (tmp_path / "run.log").read_text()
