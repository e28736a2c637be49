"""Backends: how an agent gets started on each host. `BACKENDS` is where a new one registers.

A backend yields one AgentLink per host; what runs on the hosts is the supervisor's business. Owns
the pipes to the agents and their namespaces, never the processes that the agents start.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from launch.cluster import ClusterSpec
from launch.namespaces import Switch
from launch.plan import Paths
from launch.protocol import Order, Report

READ_BYTES = 1 << 16
LEAVE_S = 10.0
"""An agent that was told to finish kills its processes and leaves within this time."""


class AgentLink:
    """The pipes to one agent. `lost` once its output has ended."""

    def __init__(self, host: int, argv: Sequence[str], *, paths: Paths, log: Path) -> None:
        self.host = host
        self.lost = False
        self._rest = b""
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, "PYTHONPATH": paths.code},
                start_new_session=True,  # Ctrl-C goes to the supervisor alone
            )

    def fileno(self) -> int:
        return self._process.stdout.fileno() if self._process.stdout else -1

    def send(self, order: Order) -> None:
        """Hand over an order; a broken pipe shows in `read`."""
        if self._process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(order.to_line())
                self._process.stdin.flush()

    def read(self) -> list[Report]:
        """The reports that have arrived; call when the file descriptor is readable."""
        data = os.read(self.fileno(), READ_BYTES)
        if not data:
            self.lost = True
            return []
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [Report.from_line(line) for line in lines]

    def close(self) -> None:
        """End the agent, and with it all it started: by order, by end of file, by force."""
        self.send(Order("finish"))
        deadline = time.monotonic() + LEAVE_S
        with contextlib.suppress(OSError):
            if self._process.stdin:
                self._process.stdin.close()
        with contextlib.suppress(OSError):
            while time.monotonic() < deadline and os.read(self.fileno(), READ_BYTES):
                pass  # an agent must not block on a full pipe while it leaves
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=max(0.1, deadline - time.monotonic()))
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()


class Backend(Protocol):
    """Starts agents on the hosts of a cluster and ends them."""

    def start(self, cluster: ClusterSpec, *, run_id: str, paths: Paths, logs: Path) -> list[AgentLink]:
        """One link per host, in the order of the hosts. PreflightError when a host cannot be had."""

    def close(self) -> None:
        """End the agents and whatever else was started for them."""


class LocalBackend:
    """This machine as it is for one host; namespaces on it for more."""

    def __init__(self, *, user_namespace: bool | None = None) -> None:
        self._links: list[AgentLink] = []
        self._switch: Switch | None = None
        self._user_namespace = user_namespace

    def start(self, cluster: ClusterSpec, *, run_id: str, paths: Paths, logs: Path) -> list[AgentLink]:
        if len(cluster.hosts) > 1:
            self._switch = Switch(cluster, code=paths.code, user_namespace=self._user_namespace)
        for index, host in enumerate(cluster.hosts):
            argv = agent_argv(run_id)
            command = self._switch.command(host.name, argv) if self._switch else argv
            self._links.append(AgentLink(index, command, paths=paths, log=logs / f"{host.name}-agent.log"))
        return self._links

    def close(self) -> None:
        for link in self._links:
            link.close()
        if self._switch:
            self._switch.close()


def agent_argv(run_id: str) -> list[str]:
    """The agent's command line; an empty run id makes one that guards no shared memory."""
    return [sys.executable, "-P", "-m", "launch.agent", *(["--run", run_id] if run_id else [])]


BACKENDS: dict[str, Callable[[], Backend]] = {"local": LocalBackend}
