"""Backends: which hosts a job has and how an agent gets started on each. `BACKENDS` is where one registers.

A backend yields one AgentLink per host; what runs on the hosts is the supervisor's business. Owns
the pipes to the agents and their namespaces, never the processes that the agents start.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from launch.cluster import ClusterSpec, HostsWanted, local_cluster
from launch.console import Console
from launch.namespaces import Switch
from launch.plan import Paths
from launch.protocol import Order, Report
from partition.errors import UsageError

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
        deadline = time.monotonic() + (0 if self.lost else LEAVE_S)
        with contextlib.suppress(OSError):
            if self._process.stdin:
                self._process.stdin.close()
        with contextlib.suppress(OSError):
            # An agent must not block on a full pipe while it leaves.
            while self._readable(deadline) and os.read(self.fileno(), READ_BYTES):
                pass
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=max(0.1, deadline - time.monotonic()))
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def _readable(self, deadline: float) -> bool:
        """Whether there is output, or its end, before the deadline."""
        left = max(0.0, deadline - time.monotonic())
        return bool(select.select([self], [], [], left)[0]) and time.monotonic() < deadline


def close_all(links: Sequence[AgentLink]) -> None:
    """Tell all agents to finish before waiting for the first."""
    for link in links:
        link.send(Order("finish"))
    for link in links:
        link.close()


class Backend(Protocol):
    """Finds the hosts of a job, starts agents on them and ends them; one object for all attempts."""

    def cluster(self, paths: Paths, console: Console) -> ClusterSpec:
        """The hosts; nothing is left running on them. PreflightError when one cannot be had."""

    def check(
        self, cluster: ClusterSpec, paths: Paths, console: Console, *, run_id: str, again: bool = False
    ) -> ClusterSpec:
        """Whether every host has what the job needs; `paths` name its run folder and partition.

        `again`: before a restart, when hosts that are gone may be replaced; the result then has the others.
        PreflightError or StoreError name the host and the way out.
        """

    def start(self, cluster: ClusterSpec, *, run_id: str, paths: Paths, logs: Path) -> list[AgentLink]:
        """One link per host, in the order of the hosts. PreflightError when a host cannot be had."""

    def close(self) -> None:
        """End the agents and whatever else was started for them; `start` may follow."""

    def finish(self, code: int) -> None:
        """The job is over, with this exit code; nothing follows."""


class LocalBackend:
    """This machine as it is for one host; namespaces on it for more."""

    def __init__(self, wanted: HostsWanted | None = None, *, user_namespace: bool | None = None) -> None:
        self._wanted = wanted or HostsWanted()
        self._links: list[AgentLink] = []
        self._switch: Switch | None = None
        self._user_namespace = user_namespace

    def cluster(self, paths: Paths, console: Console) -> ClusterSpec:
        wanted = self._wanted
        return local_cluster(
            nodes=1 if wanted.nodes is None else wanted.nodes,
            trainers_per_host=wanted.trainers_per_host,
            servers_per_host=wanted.servers_per_host,
        )

    def check(
        self, cluster: ClusterSpec, paths: Paths, console: Console, *, run_id: str, again: bool = False
    ) -> ClusterSpec:
        return cluster

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
        self._links = []
        if self._switch:
            self._switch.close()
            self._switch = None

    def finish(self, code: int) -> None:
        pass


def agent_argv(run_id: str) -> list[str]:
    """The agent's command line; an empty run id makes one that guards no shared memory."""
    return [sys.executable, "-P", "-m", "launch.agent", *(["--run", run_id] if run_id else [])]


@dataclass(frozen=True)
class BackendKind:
    """How a backend is recognised and made."""

    make: Callable[[HostsWanted], Backend]
    found: Callable[[HostsWanted, Mapping[str, str]], bool]
    """Whether the flags or the environment speak for it."""


def _ssh(wanted: HostsWanted) -> Backend:
    from launch.ssh import SshBackend

    return SshBackend(wanted)


def _k8s(wanted: HostsWanted) -> Backend:
    from launch.k8s_backend import K8sBackend

    return K8sBackend(wanted)


def _slurm(wanted: HostsWanted) -> Backend:
    from launch.slurm import SlurmBackend

    return SlurmBackend(wanted)


BACKENDS: dict[str, BackendKind] = {
    "ssh": BackendKind(_ssh, lambda wanted, _: bool(wanted.hostfile)),
    "k8s": BackendKind(
        _k8s, lambda _, environment: {"JOB_COMPLETION_INDEX", "LMGNN_HEAD"} <= set(environment)
    ),
    "slurm": BackendKind(_slurm, lambda _, environment: int(environment.get("SLURM_JOB_NUM_NODES", 0)) > 1),
    "local": BackendKind(LocalBackend, lambda *_: True),
}
"""In the order in which they are looked for; the last one is always there."""


def choose_backend(name: str, wanted: HostsWanted, environment: Mapping[str, str]) -> Backend:
    """The backend of that name, or (no name) the first that flags or environment speak for. UsageError."""
    try:
        ipaddress.ip_network(wanted.network or "10.0.0.0/8")
    except ValueError as error:
        raise UsageError(f"--network: {error}", hint="such as 10.0.0.0/8") from None
    if name and name not in BACKENDS:
        raise UsageError(f"--backend {name}: there are {', '.join(BACKENDS)}")
    found = name or next(name for name, kind in BACKENDS.items() if kind.found(wanted, environment))
    if wanted.hostfile and found != "ssh":
        raise UsageError(f"--hostfile is for ssh, not for --backend {found}", hint="leave one of them out")
    return BACKENDS[found].make(wanted)
