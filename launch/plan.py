"""TrainPlan + ClusterSpec + ports + paths -> LaunchPlan: a pure function, nothing is started here.

Owns the contract with `python -m pipeline.worker`, the entry of graph servers and trainers.
A worker is told by its environment:

LMGNN_ROLE             server or trainer
LMGNN_RUN              run folder; LMGNN_PARTITION: partition folder
LMGNN_RUN_ID           eight hex digits; LMGNN_ATTEMPT: 1, 2, ... (counts on over restarts and resumes)
LMGNN_HOST             index of the host
LMGNN_GRAPH_NAME       lmgnn-<run id>-a<attempt>: every shared-memory name must begin with it
LMGNN_READY_FILE       servers create it as soon as they listen; trainers start after the last one
LMGNN_HEARTBEAT        trainers rewrite it (JSON time, phase, stage, step) at least once per hang limit
LMGNN_RESUME           auto: go on from the newest checkpoint if there is one; never
DGL_*                  as DGL 1.1.3 wants them, except DGL_CONF_PATH, which the worker sets
RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT (trainers)
GLOO_SOCKET_IFNAME, TP_SOCKET_IFNAME, OMP_NUM_THREADS, PYTHONFAULTHANDLER, TOKENIZERS_PARALLELISM,
DGLBACKEND

Signals: SIGUSR1 = write all stacks to stderr (faulthandler), SIGUSR2 to a trainer = save a
checkpoint and leave. Exit codes 2, 3, 12, 13 and 14 become the job's own, any other failure is 10.
A line on stdout that begins with "» " is progress and is shown for rank 0; lines that hold the
word WARNING, ERROR or CRITICAL are shown for every process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from launch.cluster import ClusterSpec, Host
from pipeline.config import TrainPlan

KEEP_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 33)}
"""For trainers: glibc otherwise returns every large gradient to the kernel and takes it back in
page faults at the next step. Without: 1.4 times the seconds of an MLM step (MiniLM, 2 layers)."""
CONNECT_TRIES = 100
"""DGL clients try a missing server so often, 3 s apart (DGL's own default is 51 minutes)."""
PROGRESS_MARK = "» "
ERROR_MARK = "error: "
"""Begins the line in which a command of ours says why it failed."""


@dataclass(frozen=True)
class HostPorts:
    """Ports that an agent holds for its host; 0 = chosen at the start."""

    server: int = 0
    """Server k of the host listens at server + k, as DGL computes it."""
    master: int = 0


@dataclass(frozen=True)
class Paths:
    """Folders of a job, absolute."""

    code: str
    """Holds the packages launch, pipeline and partition."""
    home: str
    """Working folder of every process."""
    run: str
    partition: str = ""
    store: str = ""
    """URL of the store that a host brings its part of the partition from; empty: the part is there."""


@dataclass(frozen=True)
class ProcessSpec:
    """One process: everything an agent needs to start and watch it."""

    role: str
    host: int
    rank: int
    argv: tuple[str, ...]
    env: Mapping[str, str]
    log: str
    """File for stdout and stderr."""
    cwd: str
    output: str = ""
    """File for stdout alone, where a caller reads it."""
    ready: str = ""
    heartbeat: str = ""
    ports: tuple[int, ...] = ()
    """Ports that the agent holds until the process starts."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Small files that the agent writes before: path -> text."""
    show: str = "warnings"
    """What the terminal gets of the log: warnings, progress (and warnings), or all."""

    @property
    def name(self) -> str:
        return f"{self.role}-{self.rank}"


@dataclass(frozen=True)
class LaunchPlan:
    """All processes of one attempt, in the order of their start."""

    run_id: str
    attempt: int
    partition: str
    hosts: int
    trainers_per_host: int
    servers_per_host: int
    cluster: ClusterSpec
    processes: tuple[ProcessSpec, ...]
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    def of_role(self, role: str) -> tuple[ProcessSpec, ...]:
        return tuple(p for p in self.processes if p.role == role)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)


def graph_name(run_id: str, attempt: int) -> str:
    """Prefix of every shared-memory segment of the attempt."""
    return f"lmgnn-{run_id}-a{attempt}"


def make_plan(
    plan: TrainPlan,
    cluster: ClusterSpec,
    ports: tuple[HostPorts, ...],
    paths: Paths,
    *,
    run_id: str,
    attempt: int = 1,
    resume: str = "auto",
    command: str = "",
    versions: Mapping[str, str] | None = None,
) -> LaunchPlan:
    """Servers first, then trainers, host by host; `ports` has one entry per host."""
    name = graph_name(run_id, attempt)
    addresses = "".join(f"{h.address} {p.server}\n" for h, p in zip(cluster.hosts, ports, strict=True))
    live = Path(paths.run) / "live" / f"a{attempt}"
    common = {
        "LMGNN_RUN": paths.run,
        "LMGNN_PARTITION": paths.partition,
        "LMGNN_RUN_ID": run_id,
        "LMGNN_ATTEMPT": str(attempt),
        "LMGNN_GRAPH_NAME": name,
        "LMGNN_RESUME": resume,
        "DGL_IP_CONFIG": str(live / "ip_config.txt"),
        "DGL_NUM_SERVER": str(cluster.servers_per_host),
        "DGL_NUM_CLIENT": str(cluster.trainers),
        "DGL_NUM_SAMPLER": "0",
        "DGL_GRAPH_FORMAT": "csc",
        "DGL_DIST_MODE": "distributed",
        "DGL_KEEP_ALIVE": "0",
        "DGL_DIST_MAX_TRY_TIMES": str(CONNECT_TRIES),
        **base_environment(paths),
    }
    processes = []
    for role, per_host in (("server", cluster.servers_per_host), ("trainer", cluster.trainers_per_host)):
        for index, host in enumerate(cluster.hosts):
            for local in range(per_host):
                rank = index * per_host + local
                extra = (
                    _server_environment(rank, live)
                    if role == "server"
                    else _trainer_environment(plan, cluster, ports[0], rank=rank, local=local, host=host)
                )
                process = ProcessSpec(
                    role=role,
                    host=index,
                    rank=rank,
                    argv=worker_argv(),
                    env={**common, **_worker_environment(role, index, rank, host, live), **extra},
                    log=str(log_path(paths.run, attempt, host.name, role, rank)),
                    cwd=paths.home,
                    ready=str(live / f"server-{rank}.ready") if role == "server" else "",
                    heartbeat=str(live / f"{role}-{rank}.json"),
                    ports=_own_ports(role, ports, index=index, rank=rank, local=local),
                    files={str(live / "ip_config.txt"): addresses},
                    show="progress" if role == "trainer" and rank == 0 else "warnings",
                )
                processes.append(process)
    return LaunchPlan(
        run_id=run_id,
        attempt=attempt,
        partition=paths.partition,
        hosts=len(cluster.hosts),
        trainers_per_host=cluster.trainers_per_host,
        servers_per_host=cluster.servers_per_host,
        cluster=cluster,
        processes=tuple(processes),
        command=command,
        versions=versions or {},
    )


def worker_argv() -> tuple[str, ...]:
    """What every server and trainer runs; -P keeps the working folder out of the import path."""
    return sys.executable, "-P", "-m", "pipeline.worker"


def step_spec(paths: Paths, step: str, argv: tuple[str, ...], *, rank: int, log_folder: str) -> ProcessSpec:
    """A step before or after the job (one process on the head): `python -P ARGV`."""
    base = Path(log_folder) / f"{rank}-{step}"
    return ProcessSpec(
        role=step,
        host=0,
        rank=rank,
        argv=(sys.executable, "-P", *argv),
        env=base_environment(paths),
        log=f"{base}.log",
        cwd=paths.home,
        output=f"{base}.out",
        show="all",
    )


def base_environment(paths: Paths) -> dict[str, str]:
    """What every process of ours gets."""
    return {
        "PYTHONPATH": paths.code,
        "PYTHONFAULTHANDLER": "1",
        "PYTHONUNBUFFERED": "1",
        "DGLBACKEND": "pytorch",  # else dgl's first import writes a file into the home folder and warns
        "TOKENIZERS_PARALLELISM": "false",
    }


def log_path(run: str, attempt: int, host: str, role: str, rank: int) -> Path:
    return Path(run) / "logs" / f"a{attempt}" / f"{host}-{role}-{rank}.log"


def _worker_environment(role: str, index: int, rank: int, host: Host, live: Path) -> dict[str, str]:
    return {
        "LMGNN_ROLE": role,
        "LMGNN_HOST": str(index),
        "LMGNN_HEARTBEAT": str(live / f"{role}-{rank}.json"),
        "GLOO_SOCKET_IFNAME": host.interface,
        "TP_SOCKET_IFNAME": host.interface,
    }


def _server_environment(rank: int, live: Path) -> dict[str, str]:
    """One thread: a server answers while the trainers of its host compute."""
    return {
        "DGL_ROLE": "server",
        "DGL_SERVER_ID": str(rank),
        "LMGNN_READY_FILE": str(live / f"server-{rank}.ready"),
        "OMP_NUM_THREADS": "1",
    }


def _trainer_environment(
    plan: TrainPlan, cluster: ClusterSpec, head: HostPorts, *, rank: int, local: int, host: Host
) -> dict[str, str]:
    per_host = cluster.trainers_per_host
    return {
        "DGL_ROLE": "client",
        "RANK": str(rank),
        "WORLD_SIZE": str(cluster.trainers),
        "LOCAL_RANK": str(local),
        "LOCAL_SIZE": str(per_host),
        "LOCAL_WORLD_SIZE": str(per_host),
        "MASTER_ADDR": cluster.hosts[0].address,
        "MASTER_PORT": str(head.master),
        "OMP_NUM_THREADS": str(plan.engine.threads or max(1, host.cores // per_host)),
        **KEEP_FREED_MEMORY,
    }


def _own_ports(
    role: str, ports: tuple[HostPorts, ...], *, index: int, rank: int, local: int
) -> tuple[int, ...]:
    if role == "server":
        return (ports[index].server + local,)
    return (ports[0].master,) if rank == 0 else ()
