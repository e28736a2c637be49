"""The batch script that `lmgnn submit` fills in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch.__main__ import main

ROOT = Path(__file__).resolve().parents[3]


def script_of(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    config = str(ROOT / "examples" / "smoke.toml")
    assert main(["submit", "--dry-run", "--config", config, *flags]) == 0
    return capsys.readouterr().out


def test_the_script_is_sound_shell(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text(script_of(capsys, "--sbatch=--time=1:00:00"))
    shellcheck = Path(sys.executable).with_name("shellcheck")
    result = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_flags_reach_the_run_and_options_sbatch(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--nodes=4", "--max-restarts", "2", "--set", "engine.zero=1", "--sbatch=--gpus-per-node=4"]
    lines = script_of(capsys, *flags, "--name", "mine").splitlines()
    assert {"#SBATCH --nodes=4", "#SBATCH --gpus-per-node=4", "#SBATCH --job-name=mine"} <= set(lines)
    (command,) = [line for line in lines if line.endswith(" &")]
    assert "--nodes 4 --set engine.zero=1 --run-dir" in command
    assert command.endswith("--max-restarts 2 &")


# What the job does, whether a signal comes meanwhile, restarts before -> is it queued again?
@pytest.mark.parametrize(
    ("code", "told", "restarts", "again"),
    [
        (0, False, 0, False),
        (3, False, 0, False),
        (10, False, 0, True),
        (10, False, 20, False),
        (143, False, 0, False),
        (143, True, 0, True),
    ],
)
def test_only_what_may_go_away_is_queued_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, code: int, told: bool, restarts: int, again: bool
) -> None:
    requeued = tmp_path / "requeued"
    loop = "while :; do sleep 0.1; done" if told else ""
    job = f"trap 'exit {code}' TERM; touch {tmp_path}/up; {loop}\nexit {code}"
    for name, text in (("scontrol", f'echo "$@" > {requeued}'), ("job", job)):
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    lines = script_of(capsys).splitlines()
    script = "\n".join(f"{tmp_path}/job &" if line.endswith(" &") else line for line in lines)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    process = subprocess.Popen(
        ["bash", "-c", script], env=environment | {"SLURM_RESTART_COUNT": str(restarts)}
    )
    if told:
        while not (tmp_path / "up").exists():
            assert process.poll() is None
        process.terminate()
    assert process.wait(timeout=30) == code
    assert requeued.exists() == again
    assert not again or requeued.read_text() == "requeue 7\n"


@pytest.mark.parametrize("flags", [["--sbatch", "time=1"], ["--run-dir", "a folder"], ["--name", 'a"b']])
def test_what_a_batch_script_cannot_hold_is_refused(
    flags: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["submit", *flags]) == 2
    assert flags[1] in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
