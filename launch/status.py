"""`lmgnn status` and `lmgnn stop`: read a run's files, or ask its supervisor to end. Starts nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

from launch import runs
from launch.attempts import Start
from launch.console import Console
from launch.outcome import class_of
from launch.supervisor import KILL_GRACE_S, SAVE_GRACE_S
from launch.watch import STATE_FILE, STEPS_FILE
from partition.errors import HangError, UsageError

POLL_S = 0.1


def read_status(path: Path) -> dict[str, Any]:
    """All that the files of a run say; works when everything is dead."""
    alive = runs.is_alive(path)
    state, around = _read(path / STATE_FILE), _read(path / STEPS_FILE)
    processes = [_process(row, alive=alive) for row in state.get("processes", [])]
    steps = [_process(row, alive=alive) for row in around.get("processes", [])]
    first = [row["beat"] for row in processes if (row["role"], row["rank"]) == ("trainer", 0)]
    beat = first[0] if first else {}
    phase = around.get("phase", "")
    if phase != "finish":
        phase = state.get("phase", phase)
    return {
        "run": str(path),
        "running": alive,
        "phase": phase,
        "stage": beat.get("stage", ""),
        "step": beat.get("step", 0),
        "attempt": state.get("attempt", 0),
        "start": state.get("start", {}),
        "outcome": {} if alive else _read(path / "outcome.json"),
        "slurm_job": runs.slurm_job(path),
        "processes": [*processes, *(row for row in steps if row["alive"] or row["returncode"])],
    }


def _process(row: dict[str, Any], *, alive: bool) -> dict[str, Any]:
    """A row of a table of processes with its last sign of life; `alive`: the run's supervisor is."""
    beat = _read(Path(row["heartbeat"])) if row["heartbeat"] else {}
    with contextlib.suppress(OSError):
        row["heartbeat_age_s"] = round(time.time() - Path(row["heartbeat"]).stat().st_mtime, 1)
    return {**row, "beat": beat or row["beat"], "alive": alive and row["returncode"] is None}


def show_status(status: dict[str, Any], console: Console) -> None:
    outcome = status["outcome"]
    if status["running"]:
        verdict = f"running, attempt {status['attempt']}"
        if status["attempt"] > 1:
            verdict += f", going on {Start(**status['start']).words}"
    elif outcome:
        verdict = f"{class_of(outcome['exit_code'])}: {outcome['message']} ({outcome['seconds']:.0f} s)"
    elif status["slurm_job"]:
        verdict = "not started yet"
    else:
        verdict = "ended without an outcome: its supervisor was killed"
    if status["slurm_job"] and not status["running"]:
        verdict += f"; submitted as Slurm job {status['slurm_job']} (`squeue --jobs {status['slurm_job']}`)"
    rows = []
    for row in status["processes"]:
        beat = row["beat"]
        age = row.get("heartbeat_age_s")
        state = row["state"] if row["alive"] or row["returncode"] is not None else "gone"
        rows.append(
            [
                row["host"],
                row["role"],
                str(row["rank"]),
                str(row["pid"]),
                state,
                str(beat.get("stage", "")),
                str(beat.get("step", "")),
                f"{age:.0f} s" if age is not None else "",
            ]
        )
    columns = ("host", "role", ">rank", ">pid", "state", "stage", ">step", ">last sign of life")
    console.table(f"{status['run']}: {verdict}", columns, rows)


def stop(path: Path, *, now: bool) -> bool:
    """Ask the run's supervisor to end, as Ctrl-C does (`now`: as two); False if none was running.

    Returns when it is gone; HangError when it is not in time, UsageError when it is not this host's.
    """
    if not runs.is_alive(path):
        return False
    pid, host = runs.supervisor_of(path)
    if host != socket.gethostname():
        raise UsageError(
            f"{path} is in the hands of process {pid} on {host}",
            hint="run `lmgnn stop` there; on Slurm scancel its job",
        )
    _send(pid, signal.SIGTERM)
    deadline = time.monotonic() + (KILL_GRACE_S if now else SAVE_GRACE_S) + 30
    asked = time.monotonic()
    while runs.is_alive(path):
        if now and time.monotonic() > asked + 10 * POLL_S:  # signals sent at once would count as one
            _send(pid, signal.SIGINT)  # SIGTERMs close to each other count as one
            now = False
        if time.monotonic() > deadline:
            raise HangError(f"supervisor {pid} of {path} does not end", hint=f"kill -9 {pid}: all of it ends")
        time.sleep(POLL_S)
    return True


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, number)


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return raw if isinstance(raw, dict) else {}
