"""Jobs that lose a process in the middle of a stage: kill -9, as soon as the job's record says so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from toy import REPO, write_lm

DEADLINE_S = 400.0
PLAN_HEAD = """
name = "toy"
[graph]
path = "{graph}"
[partition]
store = "{store}"
cluster_size = 20
[model]
lm = "{lm}"
max_length = 12
hidden = 16
fanout = [3, 3]
"""
"""Of plans over toy's graph; the rest begins with [engine]."""
WARM_PLAN = (
    PLAN_HEAD
    + """[engine]
threads = 1
checkpoint_every = 1000000
[tasks.cites]
relations = ["cites"]
[[stages]]
name = "warm"
kind = "gnn_warm"
task = "cites"
batch_size = 10
epochs = {epochs}
evals = 1
"""
)


def write_warm_plan(folder: Path, toy: tuple[Path, Path, Path], *, epochs: int) -> Path:
    """A plan of one long stage over toy's graph; no checkpoint but the one that is asked for."""
    graph, _, store = toy
    lm = write_lm(folder / "lm", dropout=0.1)
    path = folder / "plan.toml"
    path.write_text(WARM_PLAN.format(graph=graph, lm=lm, store=store, epochs=epochs))
    return path


def start(plan: Path, run: Path, *flags: str, code: Path = REPO) -> subprocess.Popen[bytes]:
    """`lmgnn run` of a checkout into a run folder, its output in a file beside it."""
    argv = [sys.executable, "-P", "-m", "launch", "run", "--config", str(plan), "--run-dir", str(run), *flags]
    log = open(run.parent / f"{run.name}.log", "wb")  # noqa: SIM115 (the child's)
    return subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(code)}, stdout=log, stderr=log)


def last_step(run: Path) -> tuple[str, int]:
    """(stage, step) of the newest whole line that rank 0 has written."""
    try:
        lines = (run / "events.jsonl").read_bytes().splitlines()[-2:]
    except FileNotFoundError:
        return "", 0
    for line in reversed(lines):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        return event["stage"], event["step"]
    return "", 0


def victim(run: Path, name: str) -> int:
    """The pid of a running process of the job, such as server-1; on this machine's own count, whatever
    namespace the process is in."""
    role, _, rank = name.partition("-")
    wanted = {f"LMGNN_RUN={run}", f"LMGNN_ROLE={role}"}
    number = f"RANK={rank}" if role == "trainer" else f"LMGNN_HOST={rank}"
    for entry in Path("/proc").iterdir():
        try:
            environment = set((entry / "environ").read_text(errors="replace").split("\0"))
        except OSError:
            continue  # no process, or one that has just ended
        if wanted | {number} <= environment:
            return int(entry.name)
    raise AssertionError(f"no {name} is running")


def processes_of(run: Path) -> list[str]:
    """Command lines of processes that work for a run, on whatever host of this machine."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if f"LMGNN_RUN={run}\0".encode() in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
    return found


def kill_in(run: Path, process: subprocess.Popen[bytes], stage: str, name: str, *, after: int) -> None:
    """Wait until a stage has made `after` steps, then kill a process of the job."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        where, step = last_step(run)
        if where == stage and step >= after:
            os.kill(victim(run, name), signal.SIGKILL)
            return
        assert process.poll() is None, f"the job ended before {stage}"
        time.sleep(0.002)  # polls a file that another process writes
    raise AssertionError(f"{stage} was not reached in {DEADLINE_S} s, the job is in {last_step(run)}")
