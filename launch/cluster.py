"""Which hosts a job has, and what each of them offers. Never starts anything."""

from __future__ import annotations

import glob
import os
import secrets
from dataclasses import dataclass

from partition.errors import UsageError

MAX_HOSTS = 200
"""Hosts of a local job: their addresses lie in one /24 network."""


@dataclass(frozen=True)
class Host:
    name: str
    address: str
    interface: str
    """The concrete network interface that holds the address (gloo takes no patterns)."""
    cores: int
    gpus: int = 0


@dataclass(frozen=True)
class HostsWanted:
    """What the flags say about hosts; a backend makes a ClusterSpec of it."""

    nodes: int | None = None
    """None: as many as there are where a backend knows that, else one."""
    trainers_per_host: int | None = None
    servers_per_host: int = 1
    hostfile: str = ""
    ssh_config: str = ""
    """File for `ssh -F`; empty = the user's own."""
    network: str = ""
    """The job's addresses lie in this network (CIDR); empty = those that ssh reached."""
    allow_public: bool = False
    """Whether a job's address may be one that the whole internet reaches."""
    exports: tuple[str, ...] = ()
    """Environment variables that other hosts' processes get from here, besides the usual ones."""


@dataclass(frozen=True)
class ClusterSpec:
    """The hosts of a job and how many processes each of them gets."""

    backend: str
    hosts: tuple[Host, ...]
    trainers_per_host: int
    servers_per_host: int = 1

    def __post_init__(self) -> None:
        for key, value in (
            ("--nodes", len(self.hosts)),
            ("--trainers-per-node", self.trainers_per_host),
            ("--servers-per-node", self.servers_per_host),
        ):
            if value < 1:
                raise UsageError(f"{key} {value}: expected at least 1")

    @property
    def trainers(self) -> int:
        return len(self.hosts) * self.trainers_per_host

    @property
    def servers(self) -> int:
        return len(self.hosts) * self.servers_per_host


def new_run_id() -> str:
    """Eight hex digits: short enough for the names of shared-memory segments."""
    return secrets.token_hex(4)


def local_gpus() -> int:
    """GPUs that processes on this machine may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    return len(glob.glob("/dev/nvidia[0-9]*"))


def local_cluster(*, nodes: int, trainers_per_host: int | None, servers_per_host: int) -> ClusterSpec:
    """One host = this machine as it is; more = simulated hosts that share its cores.

    Without a number, a host gets a trainer per GPU, or two where there is none.
    """
    if not 1 <= nodes <= MAX_HOSTS:
        raise UsageError(f"--nodes {nodes}: expected 1 to {MAX_HOSTS} on one machine")
    gpus = local_gpus()
    cores = max(1, len(os.sched_getaffinity(0)) // nodes)
    if nodes == 1:
        hosts = [Host("node-0", "127.0.0.1", "lo", cores, gpus)]
    else:
        hosts = [Host(f"node-{k}", f"10.77.0.{k + 1}", "eth0", cores, gpus) for k in range(nodes)]
    trainers = (gpus or 2) if trainers_per_host is None else trainers_per_host
    return ClusterSpec("local", tuple(hosts), trainers, servers_per_host)
