"""The batch script that `lmgnn submit` fills in."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from launch.__main__ import main
from launch.runs import command_to_go_on

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


def test_relative_paths_are_those_of_whoever_submits(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--partition", "part", "--ssh-config=conf", "--run-dir", "run"]
    command = next(line for line in script_of(capsys, *flags).splitlines() if line.endswith(" &"))
    words = shlex.split(command)
    for flag, name in (
        ("--partition", "part"),
        ("--ssh-config", "conf"),
        ("--run-dir", "run"),
    ):
        assert words[words.index(flag) + 1] == str(tmp_path / name)
    assert not {"part", "--ssh-config=conf"} & set(words)


@pytest.mark.parametrize("flags", [["--hostfile", "hosts"], ["--backend", "k8s"], ["--backend=ssh"]])
def test_other_hosts_than_slurms_are_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    config = str(ROOT / "examples" / "smoke.toml")
    assert main(["submit", "--dry-run", "--config", config, *flags]) == 2
    assert "Slurm chooses the hosts" in capsys.readouterr().err


def test_a_submitted_run_is_known_before_it_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text("#!/bin/sh\necho 17\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    config, run = str(ROOT / "examples" / "smoke.toml"), tmp_path / "run"
    assert main(["submit", "--config", config, "--run-dir", str(run)]) == 0
    said = capsys.readouterr()
    assert said.out == f"job 17, run {run}\n"
    assert f"{run}/slurm-17.log" in said.err
    assert main(["status", str(run), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["slurm_job"], status["running"], status["step"]) == ("17", False, 0)
    assert main(["stop", str(run)]) == 0
    assert "scancel 17" in capsys.readouterr().err
    shown = command_to_go_on("launch/run.sh run --config my.toml --nodes 2 --run-dir old", run)
    assert shown == f"launch/run.sh submit --config my.toml --nodes 2 --run-dir {run}"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("sbatch: unrecognized option '--tiem=1'", 2),
        ("sbatch: error: Batch job submission failed: Invalid partition name specified", 2),
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller", 12),
    ],
)
def test_what_sbatch_says_is_shown_and_a_wrong_option_is_a_wrong_use(
    words: str,
    code: int,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(f'#!/bin/sh\necho "{words}" >&2\nexit 1\n')
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    config = str(ROOT / "examples" / "smoke.toml")
    flags = ["--config", config, "--run-dir", str(tmp_path / "run"), "--sbatch=--tiem=1"]
    assert main(["submit", *flags]) == code
    assert words in capsys.readouterr().err


def test_a_shortened_flag_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):  # else it would be handed on beside the real one
        main(["submit", "--dry-run", "--conf", "mine.toml"])
    assert "--conf" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wish", "whole"),
    [("--time=1", True), ("--cpus-per-task=8", False), ("-c 8", False), ("--cpus-per-gpu=4", False)],
)
def test_a_job_gets_whole_nodes_unless_it_says_how_many_cores(
    capsys: pytest.CaptureFixture[str], wish: str, whole: bool
) -> None:
    assert ("#SBATCH --exclusive" in script_of(capsys, f"--sbatch={wish}").splitlines()) == whole


@dataclass(frozen=True)
class Case:
    """What the job's command ends with, and what Slurm and the past say."""

    code: int
    again: bool
    told: bool = False
    restarts: int = 0
    failures: int = 0
    state: str = "RUNNING"


@pytest.mark.parametrize(
    "case",
    [
        Case(0, again=False),
        Case(3, again=False),
        Case(12, again=False),
        Case(10, again=True),
        Case(10, again=True, restarts=20, failures=2),
        Case(10, again=False, failures=3),
        Case(143, again=False),
        Case(143, again=True, told=True, restarts=19),
        Case(143, again=False, told=True, restarts=20),
        Case(143, again=False, told=True, state="COMPLETING"),  # scancel
    ],
)
def test_only_what_may_go_away_is_queued_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, case: Case
) -> None:
    requeued, run = tmp_path / "requeued", tmp_path / "run"
    run.mkdir()
    (run / "slurm-7.failures").write_text("10\n" * case.failures)
    loop = "while :; do sleep 0.1; done" if case.told else ""
    job = f"trap 'exit {case.code}' TERM; touch {tmp_path}/up; {loop}\nexit {case.code}"
    commands = {"scontrol": f'echo "$@" > {requeued}', "squeue": f"echo {case.state}", "job": job}
    for name, text in commands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    lines = script_of(capsys, "--run-dir", str(run)).splitlines()
    script = "\n".join(f"{tmp_path}/job &" if line.endswith(" &") else line for line in lines)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    process = subprocess.Popen(
        ["bash", "-c", script],
        env=environment | {"SLURM_RESTART_COUNT": str(case.restarts)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while case.told and not (tmp_path / "up").exists():
            assert process.poll() is None
        if case.told:
            process.terminate()
        said, _ = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == case.code
    assert requeued.exists() == case.again
    assert not case.again or requeued.read_text() == "requeue 7\n"
    last = said.splitlines()[-1]
    assert last.startswith(f"ended with {case.code}")
    assert ("not queued again" in last) == (case.code != 0 and not case.again)


@pytest.mark.parametrize("flags", [["--sbatch", "time=1"], ["--run-dir", "a folder"], ["--name", 'a"b']])
def test_what_a_batch_script_cannot_hold_is_refused(
    flags: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["submit", *flags]) == 2
    assert flags[1] in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
