"""Starts and stops of the launcher, over and over: what a machine has left of them.

`PYTHONPATH=. python -P tests/faults/soak.py --cycles 200` prints a line a cycle and fails at the first thing
that stays. Real launcher, agents and processes over the stand-ins of tests/data/fake_job.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.launch_tree import Tree, make_tree, wait_for


@dataclass(frozen=True)
class Left:
    """What a cycle must not change."""

    processes: tuple[str, ...]
    segments: tuple[str, ...]
    """In /dev/shm, of any run that was started here."""
    descriptors: int
    """Of this process."""
    files: tuple[str, ...]
    """Of the checkout, without what Python compiles and without runs/, of which each start makes one."""


def look(tree: Tree) -> Left:
    files = [path.relative_to(tree.path) for path in tree.path.rglob("*")]
    return Left(
        processes=tuple(tree.processes()),
        segments=tuple(sorted(tree.segments())),
        descriptors=len(os.listdir("/proc/self/fd")),
        files=tuple(sorted(str(f) for f in files if f.parts[0] != "runs" and "__pycache__" not in f.parts)),
    )


def _until_training(tree: Tree, before: set[Path], **fakes: str) -> subprocess.Popen[str]:
    job = tree.start("run", FAKE_FOREVER="1", **fakes)

    def training() -> bool:
        new = set(tree.path.glob("runs/2*")) - before
        return any(len(list(run.glob("live/a1/trainer-*.json"))) == 2 for run in new)

    wait_for(training, seconds=60)
    return job


def _finished(tree: Tree, before: set[Path]) -> int:
    return tree.start("run").wait(timeout=120)


def _interrupted(tree: Tree, before: set[Path]) -> int:
    job = _until_training(tree, before)
    job.send_signal(signal.SIGINT)
    return job.wait(timeout=60)


def _supervisor_killed(tree: Tree, before: set[Path]) -> int:
    job = _until_training(tree, before)
    job.kill()
    return job.wait(timeout=60)


def _trainer_killed(tree: Tree, before: set[Path]) -> int:
    return tree.start("run", FAKE_FOREVER="1", FAKE_trainer_1="signal=9").wait(timeout=120)


CYCLES: tuple[tuple[Callable[[Tree, set[Path]], int], int], ...] = (
    (_finished, 0),
    (_interrupted, 130),
    (_supervisor_killed, -9),
    (_trainer_killed, 10),
)
"""How a job ends, and its exit code."""


def soak(tree: Tree, cycles: int, *, say: Callable[[str], None] = lambda _: None) -> None:
    """AssertionError at the first cycle that leaves something."""
    _finished(tree, set())  # makes the partition
    start = look(tree)
    for number in range(cycles):
        end, expected = CYCLES[number % len(CYCLES)]
        code = end(tree, set(tree.path.glob("runs/2*")))
        assert code == expected, f"cycle {number}: {code} instead of {expected}"
        seconds = wait_for(lambda: look(tree) == start, seconds=10)
        say(f"cycle {number + 1} of {cycles}: exit code {code}, all gone after {seconds:.1f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=200)
    wanted = parser.parse_args().cycles
    with tempfile.TemporaryDirectory() as folder:
        soak(make_tree(Path(folder) / "tree"), wanted, say=lambda line: print(line, flush=True))
    sys.exit(0)
