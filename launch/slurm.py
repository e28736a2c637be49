"""Hosts of a Slurm allocation: srun starts an agent on each and carries its words over stdin and stdout.

Used inside of an allocation (SLURM_JOB_ID), found by itself there. Never asks for nodes: that is
`lmgnn submit` (slurm_submit). All nodes have the code, its .venv and the run folder under the same paths.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from launch import preflight
from launch.backends import AgentLink, agent_argv, close_all
from launch.cluster import ClusterSpec, Host, HostsWanted
from launch.console import Console
from launch.hostchecks import Seen, Wish
from launch.outcome import JobFailed
from launch.plan import Paths
from launch.probe import software
from partition.errors import PreflightError, UsageError

GRACE_S = 90
"""Between SIGTERM to an agent (preemption, requeue) and its end; Slurm itself waits for GraceTime or
KillWait, whichever applies."""
LEASE_S = 60
"""An agent that hears nothing for so long takes the head for gone."""


def srun_command(host: str, argv: Sequence[str]) -> list[str]:
    """What runs `argv` on one node of the allocation, beside whatever else runs there."""
    return [
        *("srun", "--overlap", "--nodes=1", "--ntasks=1", f"--nodelist={host}"),
        *("--cpu-bind=none", "--kill-on-bad-exit=1", "--unbuffered", "--export=ALL", "--"),
        *argv,
    ]


def allocated_hosts(node_list: str) -> dict[str, str]:
    """Name -> address of the allocation's nodes, from Slurm's short form. PreflightError."""
    if not shutil.which("scontrol"):
        raise PreflightError("scontrol is not there", hint="Slurm's client commands must be on the PATH")
    names = _scontrol("show", "hostnames", node_list).split()
    lines = _scontrol("--oneliner", "show", "node", node_list).splitlines()
    fields = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]
    known = {node["NodeName"]: node["NodeAddr"] for node in fields if "NodeAddr" in node}
    return {name: _address(name, known.get(name, name)) for name in names}


def _scontrol(*argv: str) -> str:
    result = subprocess.run(["scontrol", *argv], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        said = (result.stderr or result.stdout).strip()
        raise PreflightError(f"scontrol {' '.join(argv)} failed: {said}", hint="is slurmctld up? `sinfo`")
    return result.stdout


def _address(name: str, known: str) -> str:
    try:
        return socket.gethostbyname(known)
    except OSError as error:
        raise PreflightError(
            f"node {name}: no address for {known}: {error}", hint="its name must resolve on every node"
        ) from None


def explain(host: str, last_words: str) -> tuple[str, str]:
    """(what happened, way out) for the last words of srun or of what it should have run."""
    if "No module named" in last_words:
        return "our code is not there", "the same folder must hold it on every node"
    if "No such file" in last_words:
        return "its Python is not there", "the same .venv must lie under the same path on every node"
    lines = last_words.splitlines() or ["no reason given"]
    return f"not to be had: {lines[-1]}", f"`srun --overlap -N1 -w {host} true` must work in the allocation"


class SlurmBackend:
    """The nodes of the allocation that this process runs in."""

    def __init__(self, wanted: HostsWanted) -> None:
        node_list = os.environ.get("SLURM_JOB_NODELIST", "")
        if not node_list:
            raise UsageError(
                "--backend slurm: this is no Slurm allocation", hint="`lmgnn submit` makes one, or salloc"
            )
        addresses = allocated_hosts(node_list)
        names = list(addresses)
        nodes = len(names) if wanted.nodes is None else wanted.nodes
        if not 1 <= nodes <= len(names):
            raise UsageError(
                f"--nodes {nodes}: the allocation has {len(names)}", hint="ask sbatch or salloc for as many"
            )
        self._wanted = wanted
        self._names = names[:nodes]
        self._addresses = addresses
        self._links: list[AgentLink] = []

    def cluster(self, paths: Paths, console: Console) -> ClusterSpec:
        seen = self._look(paths)
        error = preflight.refusal(seen)
        if error:
            preflight.show(seen, console)
            raise error
        gpus = seen[0].facts["gpus"]
        trainers = self._wanted.trainers_per_host or gpus or 2
        return ClusterSpec("slurm", _hosts(seen), trainers, self._wanted.servers_per_host)

    def check(
        self, cluster: ClusterSpec, paths: Paths, console: Console, *, run_id: str, again: bool = False
    ) -> ClusterSpec:
        seen = self._look(paths, run_id=run_id, checksums=not again)
        error = preflight.refusal(seen)
        if error or not again:
            preflight.show(seen, console)
        if error:
            raise JobFailed(str(error), 10) if again else error
        return replace(cluster, hosts=_hosts(seen))

    def start(self, cluster: ClusterSpec, *, run_id: str, paths: Paths, logs: Path) -> list[AgentLink]:
        argv = [*agent_argv(run_id), "--lease", str(LEASE_S), "--grace", str(GRACE_S)]
        for index, host in enumerate(cluster.hosts):
            command = srun_command(host.name, argv)
            link = AgentLink(index, command, paths=paths, log=logs / f"{host.name}-agent.log")
            self._links.append(link)
        return self._links

    def close(self) -> None:
        close_all(self._links)
        self._links = []

    def finish(self, code: int) -> None:
        pass

    def _look(self, paths: Paths, *, run_id: str = "", checksums: bool = True) -> list[Seen]:
        wish = Wish(
            code=paths.code,
            run=paths.run,
            run_id=run_id,
            software=software(paths.code),
            partition=paths.partition,
            store=paths.store,
            checksums=checksums,
            servers=self._wanted.servers_per_host,
            network=self._wanted.network,
            allow_public=self._wanted.allow_public,
        )

        def command(name: str) -> list[str]:
            environment = (f"PYTHONPATH={paths.code}", f"LMGNN_ADDRESS={self._addresses[name]}")
            argv = ["env", *environment, sys.executable, "-P", "-m", "launch.probe"]
            return srun_command(name, argv)

        return preflight.look(self._names, wish, command=command, explain=explain)


def _hosts(seen: Sequence[Seen]) -> tuple[Host, ...]:
    return tuple(Host(s.name, s.address, s.interface, s.facts["cores"], s.facts["gpus"]) for s in seen)
