"""The job of `launch/run.sh` without arguments: real text, all stages, three tasks, a report."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from toy import REPO

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1500)]
TASKS = ("uses", "area", "reference")
BASELINES = {"tfidf", "tfidf_neighbours", "graph"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("default") / "run"
    result = subprocess.run(
        [str(REPO / "launch" / "run.sh"), "run", "--run-dir", str(run)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    return run


def task_of(run: Path, name: str) -> dict:
    return json.loads((run / "metrics.json").read_text())["tasks"][name]


def test_the_default_job_reports_three_tasks_and_leaves_nothing_behind(finished: Path) -> None:
    assert list(json.loads((finished / "metrics.json").read_text())["tasks"]) == list(TASKS)
    page = (finished / "report.html").read_text()
    assert f"{task_of(finished, 'uses')['test']:.3f} on uses" in page
    run_id = json.loads((finished / "run.json").read_text())["id"]
    assert not list(Path("/dev/shm").glob(f"lmgnn-{run_id}*"))


def test_the_default_graph_gives_no_answer_away(finished: Path) -> None:
    assert not [
        leak for leak in json.loads((finished / "leaks.json").read_text()) if leak["level"] == "warning"
    ]


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_well_above_guessing_by_frequency(finished: Path, name: str) -> None:
    task = task_of(finished, name)
    [simplest] = [v for k, v in task["baselines"].items() if k in ("popularity", "majority")]
    assert task["test"] > simplest + 0.2
    assert task["seconds"] > 0


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_above_every_baseline(finished: Path, name: str) -> None:
    task = task_of(finished, name)
    assert set(task["baselines"]) >= BASELINES
    assert all(task["test"] > value for value in task["baselines"].values()), task
