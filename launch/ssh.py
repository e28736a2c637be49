"""Hosts by ssh: the agent's words go over the client's stdin and stdout, so no secret is on a command line.

Owns OpenSSH's options, what its complaints mean, and which host of the hostfile does what. Host keys are
checked strictly and never accepted here. All hosts have the code, its .venv and the run folder under the
paths of the head.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from launch import preflight
from launch.backends import AgentLink, agent_argv, close_all
from launch.cluster import ClusterSpec, Host, HostsWanted
from launch.console import Console
from launch.hostchecks import Seen, Wish
from launch.hostfile import ListedHost, read_hostfile, take, trainers_of
from launch.outcome import JobFailed
from launch.plan import Paths
from launch.probe import software
from launch.protocol import Order
from partition.errors import UsageError

CONNECT_S = 15
ALIVE_S = 5
"""Silence after which the client asks the host for a sign of life, three times: 15 s to see it gone."""
LEASE_S = 60
"""An agent that hears nothing for so long takes the head for gone; a cut network shows in no other way."""
CARRIED = ("AWS_", "HF_", "NCCL_")
CARRIED_NAMES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
CODE_HINT = "the same folder must hold it on every host"
_MEANINGS = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key has CHANGED: somebody may be in between, or it was installed anew",
        "compare the key's fingerprint on the host itself, then `ssh-keygen -R HOST` and `SSH HOST` by hand",
    ),
    (
        "Host key verification failed",
        "its host key is not known",
        "compare its fingerprint and accept it by hand, once: `SSH HOST`. It is never done for you",
    ),
    (
        "Permission denied (",  # env and the like say it without the methods in brackets
        "ssh lets nobody in without a password",
        "put your public key there: `COPY HOST`",
    ),
    ("No module named launch", "our code is not there", CODE_HINT),
    ("No module named 'launch", "our code is not there", CODE_HINT),
    ("No module named", "a package of its .venv is not there", "bring its .venv to what the head has"),
    ("env: ", "its Python is not there", "the same .venv must lie under the same path on every host"),
)
"""Words in a complaint -> what happened, way out; the first that fits. SSH is the client with its -F."""


def ssh_command(host: str, argv: Sequence[str], *, code: str, config: str = "") -> list[str]:
    """What runs `argv` on a host with our code to import, without a terminal and without asking anybody."""
    options = (
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        f"ConnectTimeout={CONNECT_S}",
        "ConnectionAttempts=1",
        f"ServerAliveInterval={ALIVE_S}",
        "ServerAliveCountMax=3",
        "ForwardAgent=no",
        "ForwardX11=no",
        "ClearAllForwardings=yes",
        "ControlMaster=no",
        "ControlPath=none",
        "LogLevel=ERROR",
        "RequestTTY=no",
    )
    remote = shlex.join(["env", f"PYTHONPATH={code}", *argv])
    return [
        "ssh",
        *(["-F", config] if config else []),
        *(word for option in options for word in ("-o", option)),
        *("--", host, f"exec {remote}"),
    ]


def explain(host: str, last_words: str, *, config: str = "") -> tuple[str, str]:
    """(what happened, way out) for the last words of ssh or of what it should have run."""
    options = f" -F {shlex.quote(config)}" if config else ""
    for words, what, hint in _MEANINGS:
        if words in last_words:
            hint = hint.replace("SSH", f"ssh{options}").replace("COPY", f"ssh-copy-id{options}")
            return what, hint.replace("HOST", host)
    lines = last_words.splitlines()
    said = lines[-1] if lines else "no reason given"
    return f"not to be had: {said}", f"is it up? `ssh{options} {host} true` must work"


def carried(environment: Mapping[str, str], exports: Sequence[str]) -> dict[str, str]:
    """What other hosts' processes get of the head's environment; UsageError for an unset --export."""
    for name in exports:
        if name not in environment:
            raise UsageError(f"--export {name}: it is not set here")
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(CARRIED) or name in CARRIED_NAMES or name in exports
    }


class SshBackend:
    """The hosts of a hostfile; those beyond --nodes are spare."""

    def __init__(self, wanted: HostsWanted) -> None:
        if not wanted.hostfile:
            raise UsageError("--backend ssh needs --hostfile FILE")
        self._wanted = wanted
        listed = read_hostfile(wanted.hostfile)
        self._used, spare = take(listed, wanted.nodes, wanted.hostfile)
        self._trainers = trainers_of(self._used, wanted.trainers_per_host)
        self._spare = [h for h in spare if h.slots is None or h.slots >= (self._trainers or 0)]
        if wanted.ssh_config and not Path(wanted.ssh_config).is_file():
            raise UsageError(f"--ssh-config {wanted.ssh_config}: no such file")
        self._environment = carried(os.environ, wanted.exports)
        self._links: list[AgentLink] = []

    def cluster(self, paths: Paths, console: Console) -> ClusterSpec:
        console.say(f"looking at {len(self._used)} host(s) of {self._wanted.hostfile}")
        seen = self._look([host.name for host in self._used], paths)
        error = preflight.refusal(seen)
        if error:
            preflight.show(seen, console)
            raise error
        gpus = seen[0].facts["gpus"]
        trainers = self._trainers if self._trainers is not None else gpus or 2
        if gpus and trainers > gpus:
            raise UsageError(f"{trainers} trainers per host, but hosts have {gpus} GPU(s)")
        hosts = tuple(_host(one) for one in seen)
        return ClusterSpec("ssh", hosts, trainers, self._wanted.servers_per_host)

    def check(
        self, cluster: ClusterSpec, paths: Paths, console: Console, *, run_id: str, again: bool = False
    ) -> ClusterSpec:
        names = [host.name for host in cluster.hosts]
        if again:
            seen = self._with_spares(names, paths, console, run_id)
        else:
            seen = self._look(names, paths, run_id=run_id)
            preflight.show(seen, console)
            if error := preflight.refusal(seen):
                raise error
        return replace(cluster, hosts=tuple(_host(one) for one in seen))

    def start(self, cluster: ClusterSpec, *, run_id: str, paths: Paths, logs: Path) -> list[AgentLink]:
        argv = [*agent_argv(run_id), "--lease", str(LEASE_S)]
        for index, host in enumerate(cluster.hosts):
            command = ssh_command(host.name, argv, code=paths.code, config=self._wanted.ssh_config)
            link = AgentLink(index, command, paths=paths, log=logs / f"{host.name}-agent.log")
            self._links.append(link)
            link.send(Order("environment", environment=self._environment))
        return self._links

    def close(self) -> None:
        close_all(self._links)
        self._links = []

    def finish(self, code: int) -> None:
        pass

    def _with_spares(self, names: Sequence[str], paths: Paths, console: Console, run_id: str) -> list[Seen]:
        """The hosts as they are now, spare ones in the places of those that cannot take part any more.

        JobFailed when there are too few; then nothing has changed, and a later call may find them back.
        """
        names, spare = list(names), list(self._spare)
        gone: list[ListedHost] = []
        seen = self._look(names, paths, run_id=run_id, checksums=False)
        while spare and (bad := [index for index, one in enumerate(seen) if one.replaceable]):
            for index in bad[: len(spare)]:
                fresh = spare.pop(0)
                console.say(f"{fresh.name} takes the place of {names[index]}: {seen[index].faults[0]}")
                gone.append(ListedHost(names[index]))
                names[index] = fresh.name
            seen = self._look(names, paths, run_id=run_id, checksums=False)
        if error := preflight.refusal(seen):
            preflight.show(seen, console)
            none = any(one.replaceable for one in seen)
            raise JobFailed(f"{error}{f'; {self._wanted.hostfile} has no spare host' if none else ''}", 10)
        self._spare = [*spare, *gone]  # a host that was gone may come back
        return seen

    def _look(
        self, names: Sequence[str], paths: Paths, *, run_id: str = "", checksums: bool = True
    ) -> list[Seen]:
        wanted = self._wanted
        wish = Wish(
            code=paths.code,
            run=paths.run,
            run_id=run_id,
            software=software(paths.code),
            partition=paths.partition,
            store=paths.store,
            environment=self._environment,
            checksums=checksums,
            servers=wanted.servers_per_host,
            network=wanted.network,
            allow_public=wanted.allow_public,
        )
        argv = [sys.executable, "-P", "-m", "launch.probe"]

        def command(name: str) -> list[str]:
            return ssh_command(name, argv, code=paths.code, config=wanted.ssh_config)

        def meaning(name: str, last_words: str) -> tuple[str, str]:
            return explain(name, last_words, config=wanted.ssh_config)

        return preflight.look(names, wish, command=command, explain=meaning)


def _host(seen: Seen) -> Host:
    return Host(seen.name, seen.address, seen.interface, seen.facts["cores"], seen.facts["gpus"])
