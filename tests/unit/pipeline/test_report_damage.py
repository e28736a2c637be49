"""A report of a run folder in which pieces are missing, broken or old."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path

import pytest
from report_runs import Reader, make_run

from pipeline.report.page import render


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A short run of one stage that a test may damage."""
    return make_run(tmp_path, {"graph_lm": 12})


def test_examples_without_tables_show_their_ids_and_say_why(run: Path) -> None:
    (run.parent / "graph" / "symbol.csv").unlink()
    text = Reader(render(run)).text
    assert "Texts of the ranking examples could not be read, ids stand alone: symbol.csv" in text
    assert "among 101: 4 → 1" in text
    assert "alert" not in text


def test_examples_of_a_run_that_has_not_finished_are_left_out(run: Path) -> None:
    (run / "report" / "after.json").unlink()
    text = Reader(render(run)).text
    assert "have no answers of the trained model yet" in text
    assert "among 101" not in text


def test_a_failed_run_says_what_failed_first(run: Path) -> None:
    events = (run / "events.jsonl").read_text().splitlines()
    (run / "events.jsonl").write_text("\n".join(events[:9]) + "\n")
    (run / "metrics.json").unlink()
    outcome = {
        "exit_code": 10,
        "class": "worker failed",
        "message": "trainer 1 failed",
        "first_failed": {
            "host": "n2",
            "role": "trainer",
            "rank": 1,
            "returncode": 137,
            "reading": "SIGKILL: killed",
        },
        "seconds": 61,
    }
    (run / "outcome.json").write_text(json.dumps(outcome))
    text = Reader(render(run)).text
    assert "This run has not finished; 1 stage began in 1:01 on 2 hosts × 2 trainers." in text
    assert "The run ended with code 10 (worker failed): trainer 1 failed" in text
    assert "First to fail: trainer 1 on host n2: SIGKILL: killed." in text
    assert "has no test figures yet" in text


def test_an_outcome_older_than_the_end_of_the_run_is_not_this_ones(run: Path) -> None:
    outcome = {"exit_code": 10, "class": "worker failed", "message": "an earlier start", "seconds": 5}
    (run / "outcome.json").write_text(json.dumps(outcome))
    os.utime(run / "outcome.json", (1_790_000_000.0, 1_790_000_000.0))
    text = Reader(render(run)).text
    assert "an earlier start" not in text
    assert "LM-GNN reaches MRR 0.718" in text


REMOVABLE = ["metrics.json", "launch.json", "outcome.json", "events.jsonl", "report/before.json"]


@pytest.mark.parametrize("name", [*REMOVABLE, "../partition/manifest.json"])
def test_a_missing_piece_is_left_out_without_failing(run: Path, name: str) -> None:
    (run / name).unlink()
    assert Reader(render(run)).text.count("python-packages") >= 1


@pytest.mark.parametrize("name", ["metrics.json", "launch.json", "outcome.json", "report/after.json"])
def test_a_broken_piece_is_named(run: Path, name: str) -> None:
    (run / name).write_text('{"tasks": ')
    assert f"{Path(name).name} could not be read" in Reader(render(run)).text


def test_steps_without_costs_do_not_stop_the_report(run: Path) -> None:
    stripped = re.sub(
        r'"(targets|lm_\w+|\w+_s|loss|remote_rows)": [-\d.e]+(, )?', "", (run / "events.jsonl").read_text()
    )
    (run / "events.jsonl").write_text(stripped.replace(", }", "}"))
    (run / "events-1.jsonl").unlink()
    assert "LM-GNN reaches MRR 0.718" in Reader(render(run)).text


def test_embeddings_that_were_not_recorded_are_mentioned(run: Path) -> None:
    assert "No embeddings were recorded" in Reader(render(run)).text


def test_broken_examples_and_embeddings_are_named(run: Path) -> None:
    (run / "report" / "after.json").write_text('[{"relation": "uses"}, 3]')
    (run / "report" / "projection.npz").write_bytes(b"no numbers")
    text = Reader(render(run)).text
    assert "4 ranking examples are incomplete" in text
    assert "picture could not be made" in text


def test_figures_that_are_no_numbers_do_not_stop_the_report(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["tasks"]["uses"] |= {"test": math.nan, "baselines": {"TF-IDF": None}}
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert "This run has no test figures yet" in Reader(render(run)).text
