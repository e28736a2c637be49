"""Real trainers of which one does not go on: found in time, every stack in the logs, nothing left."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from kills import DEADLINE_S, last_step, processes_of, start, write_warm_plan
from toy import REPO

HOOK = Path(__file__).parent / "hooks" / "sitecustomize.py"
LIMIT_S = 20
FLAGS = ("--nodes", "2", "--trainers-per-node", "1", "--hang-timeout", f"{LIMIT_S}s")


def hooked_code(folder: Path) -> Path:
    """The three packages with the hook beside them: a worker's PYTHONPATH is its code's folder alone."""
    for package in ("launch", "partition", "pipeline"):
        shutil.copytree(REPO / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "pyproject.toml", folder)
    shutil.copy(HOOK, folder)
    return folder


@pytest.mark.drill
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("hook", "codes"), [("loader", {11}), ("collective", {10, 11})])
def test_a_trainer_that_keeps_the_others_waiting(
    toy: tuple[Path, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hook: str,
    codes: set[int],
) -> None:
    plan, run = write_warm_plan(tmp_path, toy, epochs=20), tmp_path / "run"
    for name, value in {"HOOK": hook, "HOOK_RANK": "1", "HOOK_STEP": "25"}.items():
        monkeypatch.setenv(name, value)
    job = start(plan, run, *FLAGS, code=hooked_code(tmp_path / "code"))
    while job.poll() is None and last_step(run)[1] < 20:
        time.sleep(0.01)
    began = time.monotonic()
    code = job.wait(timeout=DEADLINE_S)
    assert code in codes, (run.parent / "run.log").read_text()[-3000:]
    assert time.monotonic() - began < LIMIT_S + 30
    failed = json.loads((run / "outcome.json").read_text())["first_failed"]
    assert failed["role"] == "trainer"
    if code == 11:
        for name in ("node-0-trainer-0", "node-1-trainer-1", "node-0-server-0", "node-1-server-1"):
            assert "most recent call first" in (run / "logs" / "a1" / f"{name}.log").read_text()
    assert not processes_of(run)
