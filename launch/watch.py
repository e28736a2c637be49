"""What the supervisor knows of each process, and who asked it to stop. Data; no decisions."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from launch.cluster import ClusterSpec
from launch.outcome import write_atomically
from launch.plan import ProcessSpec

STATE_FILE = "state.json"
"""Of a run: graph servers and trainers of its newest attempt."""
STEPS_FILE = "steps.json"
"""Of a run: what comes before and after them, on the head."""
TOGETHER_S = 2.0
"""SIGTERMs that follow each other faster are one wish: Slurm sends it to the process and to its parents,
and those hand it on. An impatient person has Ctrl-C, which is counted each time."""


class Interrupts:
    """Counts the wishes to stop (SIGINT, SIGTERM, SIGHUP); `code` is the first one's exit code."""

    def __init__(self) -> None:
        self.count = 0
        self.code = 0
        self._told_by_host = False
        self._terminated = -TOGETHER_S

    current: ClassVar[Interrupts | None] = None
    """The one that is installed: signals belong to the whole process."""

    def install(self) -> None:
        Interrupts.current = self
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def ask(self, code: int) -> None:
        """A host's wish, as of one that Slurm takes back. The SIGTERM to this process that belongs to
        it, however late it comes, is no second wish."""
        self._told_by_host = not self.count
        self.count = max(self.count, 1)
        self.code = self.code or code

    def _note(self, number: int, _: object) -> None:
        if number == signal.SIGTERM and self._is_known():
            return
        self.count += 1
        self.code = self.code or (130 if number == signal.SIGINT else 143)

    def _is_known(self) -> bool:
        now = time.monotonic()
        known = self._told_by_host or now - self._terminated < TOGETHER_S
        self._told_by_host = False
        self._terminated = now
        return known


@dataclass
class Watched:
    """One process as the supervisor sees it."""

    spec: ProcessSpec
    state: str = "starting"
    """starting, running, ready, done, failed, or stopped (by the launcher)."""
    pid: int = 0
    """As its host numbers it."""
    returncode: int | None = None
    peak_bytes: int = 0
    seconds: float = 0.0
    beat: dict[str, Any] = field(default_factory=dict)
    spoke: float = 0.0
    """Time of the last sign of life, on the supervisor's own clock."""
    suspended: float = 0.0
    """Since when a signal keeps it stopped, on the same clock; 0 = it runs."""


def write_state(
    path: Path,
    watched: Sequence[Watched],
    cluster: ClusterSpec,
    *,
    attempt: int,
    phase: str,
    start: Mapping[str, Any] | None = None,
) -> None:
    """The table of processes that `lmgnn status` reads; `start`: where the attempt began (attempts.Start)."""
    rows = [
        {
            **{k: v for k, v in asdict(w).items() if k not in ("spec", "spoke", "suspended")},
            "name": w.spec.name,
            "role": w.spec.role,
            "host": cluster.hosts[w.spec.host].name,
            "rank": w.spec.rank,
            "log": w.spec.log,
            "heartbeat": w.spec.heartbeat,
        }
        for w in watched
    ]
    state = {"attempt": attempt, "phase": phase, "start": dict(start or {}), "processes": rows}
    write_atomically(path, json.dumps(state, indent=1))
