"""Attempts at a job's training, each with new processes, until one succeeds or the budget is spent.

Owns what comes after an attempt that failed: whether, when and with which hosts the next one starts. Never
touches a process itself.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from launch.console import Console
from launch.job import Job
from launch.outcome import PASSED_ON, Interrupted, JobFailed, write_atomically
from launch.plan import HostPorts, LaunchPlan, make_plan
from launch.supervisor import Supervisor
from launch.watch import STATE_FILE, Interrupts, Watched, write_state

PORT_TAKEN = ("address already in use", "bind failed", "eaddrinuse")
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
_CHECKPOINT = re.compile(r"(\d+)-[^~]*(?:~(\d+))?")
"""Step in the run, and how often that was reached; see pipeline/checkpoint.py."""
TICK_S = 0.1


class Budget:
    """Restarts that are left. Every failure without a newer checkpoint than at the one before costs one
    and doubles the wait; progress gives all of them back."""

    def __init__(self, restarts: int, *, progress: int) -> None:
        self.limit = restarts
        self.spent = 0
        self._progress = progress

    def wait_s(self, progress: int) -> float | None:
        """Seconds to wait before the next attempt; None when the budget is spent."""
        if progress > self._progress:
            self.spent, self._progress = 0, progress
        if self.spent >= self.limit:
            return None
        self.spent += 1
        return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** (self.spent - 1))


def newest_checkpoint(run: Path) -> int:
    """Number of the newest committed checkpoint; -1 before the first."""
    found = [_CHECKPOINT.fullmatch(path.parent.name) for path in run.glob("checkpoints/*/checkpoint.json")]
    return max((int(match[1]) for match in found if match), default=-1)


@dataclass(frozen=True)
class Start:
    """The newest checkpoint, from which an attempt goes on unless its checksums do not hold."""

    stage: str = ""
    """Empty: none there, or none that can be read."""
    step: int = 0
    """Of the stage."""
    finished: bool = False

    @property
    def words(self) -> str:
        if not self.stage:
            return "from the beginning"
        return f"from {'the end' if self.finished else f'step {self.step}'} of stage {self.stage}"


def start_of(run: Path) -> Start:
    """What the marker of the newest checkpoint says; trainers check all of it before they take it."""
    found = [
        (int(match[1]), int(match[2] or 1), path)
        for path in run.glob("checkpoints/*/checkpoint.json")
        if (match := _CHECKPOINT.fullmatch(path.parent.name))
    ]
    for _, _, path in sorted(found, reverse=True):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            progress = json.loads(path.read_text())["state"]["progress"]
            return Start(str(progress["stage"]), int(progress["step"]), bool(progress["finished"]))
    return Start()


def train(job: Job) -> None:
    """JobFailed of the last attempt when the budget is spent; Interrupted when somebody asked."""
    port_tries = 1
    budget = Budget(job.options.max_restarts, progress=newest_checkpoint(Path(job.paths.run)))
    again = False
    while True:
        try:
            return _attempt(job, again=again)
        except JobFailed as error:
            tail = error.first_failed.tail.lower() if error.first_failed else ""
            again = True
            if port_tries and any(words in tail for words in PORT_TAKEN):
                port_tries -= 1
                job.console.say(f"{error}: a port was taken meanwhile, trying others")
            else:
                _wait_or_give_up(job, error, budget)
            job.attempt += 1


def show_tail(console: Console, error: JobFailed) -> None:
    failed = error.first_failed
    if failed and failed.tail:
        console.plain(f"--- the last lines of {failed.log}\n{failed.tail}\n---")


def _wait_or_give_up(job: Job, error: JobFailed, budget: Budget) -> None:
    if error.exit_code in PASSED_ON:
        raise error
    wait_s = budget.wait_s(newest_checkpoint(Path(job.paths.run)))
    if wait_s is None:
        raise error
    job.restarts += 1
    show_tail(job.console, error)
    job.console.say(f"{error}; restart {budget.spent} of {budget.limit} in {wait_s:.0f} s")
    _wait(wait_s, job.interrupts)


def _wait(seconds: float, interrupts: Interrupts) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if interrupts.count:
            raise Interrupted(interrupts.code)
        time.sleep(TICK_S)


def _attempt(job: Job, *, again: bool) -> None:
    folder = Path(job.paths.run)
    logs = folder / "logs" / f"a{job.attempt}"
    supervisor = None
    start = start_of(folder)

    def note(watched: Sequence[Watched]) -> None:
        write_state(
            folder / STATE_FILE, watched, job.cluster, attempt=job.attempt, phase="train", start=asdict(start)
        )

    if again:
        job.cluster = job.backend.check(
            job.cluster, job.paths, job.console, run_id=job.folder.run_id, again=True
        )
    try:
        links = job.backend.start(job.cluster, run_id=job.folder.run_id, paths=job.paths, logs=logs)
        supervisor = Supervisor(
            links,
            job.cluster,
            console=job.console,
            interrupts=job.interrupts,
            hang_timeout_s=job.options.hang_timeout_s,
            on_change=note,
        )
        ports = supervisor.hold_ports(job.cluster.servers_per_host)
        launch = _launch_plan(job, ports)
        write_atomically(folder / "launch.json", launch.to_json() + "\n")
        servers, trainers = launch.of_role("server"), launch.of_role("trainer")
        begin = f", going on {start.words}" if job.attempt > 1 else ""
        job.console.say(f"attempt {job.attempt}: starting {len(servers)} graph server(s){begin}")
        supervisor.run_job(servers, trainers)
    finally:
        if supervisor:
            supervisor.stop()
            job.peak_bytes = max(job.peak_bytes, supervisor.peak_bytes)
            supervisor.close()
        job.backend.close()


def _launch_plan(job: Job, ports: tuple[HostPorts, ...]) -> LaunchPlan:
    return make_plan(
        job.plan,
        job.cluster,
        ports,
        job.paths,
        run_id=job.folder.run_id,
        attempt=job.attempt,
        resume="auto" if job.restarts or job.folder.resumed else job.options.resume,
        command=job.options.command,
        versions=job.versions,
    )
