"""What the report says of stages: curves, gains, costs, repeated steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_runs import FIGURES, STAGES, Reader, make_run, write_events

from pipeline.report.page import render
from pipeline.report.runview import read_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A short run of one stage that a test may damage."""
    return make_run(tmp_path, {"graph_lm": 12})


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all four stages; only read."""
    return make_run(tmp_path_factory.mktemp("full"), STAGES)


@pytest.fixture(scope="module")
def page(full: Path) -> str:
    return render(full)


def test_each_stage_shows_its_own_metric_and_what_it_gained_since_its_first_step(page: str) -> None:
    text = Reader(page).text
    assert "held-out loss 7.250 from 8.500 at its start (−1.250) lower is better" in text
    for stage in ("graph_lm", "gnn_warm", "joint"):
        first, last = FIGURES[stage]
        gain = f"({last - first:+.3f})"
        assert f"validation MRR of uses {last:.3f} from {first:.3f} at its start {gain}" in text


def test_a_loss_that_fell_counts_as_better_and_one_that_rose_as_worse(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for figures, colour in (((-8.5, -7.25), "up"), ((-7.25, -8.5), "down")):
        monkeypatch.setitem(FIGURES, "mlm", figures)
        for name in ("events.jsonl", "events-1.jsonl"):
            (run / name).unlink()
        write_events(run, {"mlm": 12})
        assert f'class="{colour}">({figures[0] - figures[1]:+.3f})'.replace("-", "−") in render(run)


def test_a_stage_whose_start_was_best_says_that_it_changed_nothing(run: Path) -> None:
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    for event in events:
        if event["event"] == "eval":
            event["best"] = event["step"] == 0
    (run / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    text = Reader(render(run)).text
    assert "validation MRR of uses 0.210 from 0.210 at its start (+0.000)" in text
    assert "the model that the stage began with was kept" in text


def test_a_stage_without_a_first_evaluation_shows_its_figure_alone(run: Path) -> None:
    lines = (run / "events.jsonl").read_text().splitlines(keepends=True)
    first = '"step": 0, "event": "eval"'
    (run / "events.jsonl").write_text("".join(line for line in lines if first not in line))
    text = Reader(render(run)).text
    assert "validation MRR of uses 0.580" in text
    assert "at its start" not in text


def test_an_evaluation_of_three_metrics_costs_its_seconds_once(full: Path) -> None:
    for stage in read_run(full).stages:
        assert stage.times["eval"] == 4 * 2.0  # before the first step, and three times later


def test_repeated_steps_of_a_restart_count_once(full: Path, page: str) -> None:
    view = read_run(full)
    joint = view.stages[-1]
    assert joint.steps == 150
    assert joint.totals["targets"] == 2 * 150 * 64
    assert joint.totals["lm_rows_forward"] == 2 * 150 * 200
    assert [step for step, _ in joint.loss] == list(range(1, 151))
    assert view.repeated_steps == 20
    text = Reader(page).text
    assert "20 steps since the last checkpoint had to be repeated." in text
    assert "Attempt 2 began" in text


def test_costs_per_target_equal_hand_counts(page: str) -> None:
    rows = {row[0]: row for row in Reader(page).rows if row and len(row) == 9}
    assert rows["joint"][3:8] == ["0.50", "3.12", "93.8", "7 %", "0.31"]
    assert rows["gnn_warm"][3:8] == ["0.00", "0.00", "0.00", "–", "0.31"]
    assert rows["joint"][8] == "950.0 MiB"
