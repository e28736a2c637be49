"""SIGTERM to every process of a job at once, as a batch system sends it: trainers save, servers stay."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from kills import DEADLINE_S, last_step, start, victim, write_warm_plan

WORKERS = ("server-0", "server-1", "trainer-0", "trainer-1")


@pytest.mark.drill
@pytest.mark.timeout(600)
def test_sigterm_to_all_saves_the_step_they_are_in(toy: tuple[Path, Path, Path], tmp_path: Path) -> None:
    plan, run = write_warm_plan(tmp_path, toy, epochs=100), tmp_path / "run"
    job = start(plan, run, "--nodes", "2", "--trainers-per-node", "1")
    deadline = time.monotonic() + DEADLINE_S
    while last_step(run)[1] < 20:
        assert job.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    pids = [victim(run, name) for name in WORKERS]
    for pid in (*pids, job.pid):
        os.kill(pid, signal.SIGTERM)
    assert job.wait(timeout=120) == 143
    (saved,) = run.glob("checkpoints/*/checkpoint.json")
    assert int(saved.parent.name.partition("-")[0]) >= 20
    assert last_step(run)[1] - int(saved.parent.name.partition("-")[0]) in (0, 1)
    state = json.loads((run / "state.json").read_text())
    assert {row["name"]: row["returncode"] for row in state["processes"]} == dict.fromkeys(WORKERS, 0)
