"""The job of `launch/run.sh` without arguments: real text, four stages, above every baseline."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from toy import REPO


@pytest.mark.drill
@pytest.mark.timeout(1500)
def test_the_default_job_beats_every_baseline_and_leaves_nothing_behind(tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = subprocess.run(
        [str(REPO / "launch" / "run.sh"), "run", "--run-dir", str(run)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    [task] = json.loads((run / "metrics.json").read_text())["tasks"].values()
    assert len(task["baselines"]) == 3
    assert all(task["test"] > value for value in task["baselines"].values()), task
    assert task["seconds"] > 0
    page = (run / "report.html").read_text()
    assert f"reaches MRR {task['test']:.3f}" in page
    run_id = json.loads((run / "run.json").read_text())["id"]
    assert not list(Path("/dev/shm").glob(f"lmgnn-{run_id}*"))
