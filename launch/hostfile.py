"""The hostfile: `host slots=N` a line, as DeepSpeed has it. Reads it; talks to nobody."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from partition.errors import UsageError

_NAME = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9_][A-Za-z0-9_.:-]*")
"""A name for ssh's command line and for log files: no leading dash, no slash, no space."""


@dataclass(frozen=True)
class ListedHost:
    name: str
    """As ssh knows it; also in ssh's own configuration."""
    slots: int | None = None
    """Trainers that it takes; None where the line does not say."""


def read_hostfile(path: str | Path) -> list[ListedHost]:
    """The hosts in order; UsageError names the line that is wrong."""
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise UsageError(f"--hostfile {path}: {reason}") from None
    hosts: list[ListedHost] = []
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        where = f"{path}, line {number}"
        host = _host(words, where)
        if any(other.name == host.name for other in hosts):
            raise UsageError(
                f"{where}: {host.name} is named twice", hint="a host takes one part of the graph"
            )
        hosts.append(host)
    if not hosts:
        raise UsageError(f"--hostfile {path} names no host", hint="expected a line such as `host1 slots=4`")
    return hosts


def _host(words: Sequence[str], where: str) -> ListedHost:
    name, *rest = words
    if not _NAME.fullmatch(name):
        raise UsageError(f"{where}: {name!r} is no name of a host")
    if not rest:
        return ListedHost(name)
    key, _, value = rest[0].partition("=")
    if len(rest) > 1 or key != "slots" or not value.isascii() or not value.isdigit() or int(value) < 1:
        raise UsageError(f"{where}: {' '.join(rest)!r}: expected slots=N", hint="`host1 slots=4`")
    return ListedHost(name, int(value))


def take(
    hosts: Sequence[ListedHost], nodes: int | None, path: str
) -> tuple[list[ListedHost], list[ListedHost]]:
    """(hosts of the job, spare ones): the first `nodes`, or all; UsageError where there are too few."""
    count = len(hosts) if nodes is None else nodes
    if count < 1:
        raise UsageError(f"--nodes {count}: expected at least 1")
    if count > len(hosts):
        raise UsageError(
            f"--nodes {count}, but {path} names {len(hosts)} host{'s' * (len(hosts) != 1)}",
            hint=f"add {count - len(hosts)} to the file, or take --nodes {len(hosts)}",
        )
    return list(hosts[:count]), list(hosts[count:])


def trainers_of(hosts: Sequence[ListedHost], asked: int | None) -> int | None:
    """Trainers per host: what the flag asks, else the slots that all hosts agree on, else None."""
    with_slots = [host for host in hosts if host.slots is not None]
    if asked is not None:
        for host in with_slots:
            if host.slots is not None and asked > host.slots:
                raise UsageError(f"--trainers-per-node {asked}, but {host.name} has slots={host.slots}")
        return asked
    if not with_slots:
        return None
    for host in hosts:
        if host.slots != hosts[0].slots:
            said = [
                f"{h.name} {'has no slots' if h.slots is None else f'slots={h.slots}'}"
                for h in (hosts[0], host)
            ]
            raise UsageError(
                f"{' but '.join(said)}: every host gets the same number of trainers",
                hint="take --trainers-per-node",
            )
    return hosts[0].slots
