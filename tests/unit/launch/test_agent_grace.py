"""An agent that is told to end asks for time, and ends by itself when nobody answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launch.protocol import Order, Report

ROOT = Path(__file__).parents[3]


@contextmanager
def agent(grace: str) -> Iterator[subprocess.Popen[bytes]]:
    """An agent that has said hello."""
    command = [sys.executable, "-P", "-m", "launch.agent", "--grace", grace]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert kinds_until(process, "hello")
        yield process
        process.kill()


def kinds_until(process: subprocess.Popen[bytes], kind: str) -> list[str]:
    """Kinds of reports up to the first of that kind, or to the end of the agent."""
    assert process.stdout
    kinds: list[str] = []
    while kind not in kinds and (line := process.stdout.readline()):
        kinds.append(Report.from_line(line).kind)
    return kinds


def test_a_wish_to_end_is_told_and_the_supervisor_decides_when() -> None:
    with agent("1000") as process:
        process.send_signal(signal.SIGTERM)
        assert kinds_until(process, "leaving")[-1] == "leaving"
        assert kinds_until(process, "alive")[-1] == "alive"  # it goes on meanwhile
        assert process.stdin
        process.stdin.write(Order("finish").to_line())
        process.stdin.flush()
        assert process.wait(timeout=10) == 0


def test_the_grace_has_an_end() -> None:
    with agent("0.5") as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        assert "leaving" in kinds_until(process, "")


def test_a_second_wish_ends_the_grace() -> None:
    with agent("1000") as process:
        process.send_signal(signal.SIGTERM)
        assert kinds_until(process, "leaving")[-1] == "leaving"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
