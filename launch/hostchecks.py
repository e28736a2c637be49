"""What a host must have for a job, and the words where it lacks something. Judges facts; asks nobody."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from partition.errors import LMGNNError, PreflightError, StoreError

MIN_DISK = 1 << 30
MIN_SHM = 256 << 20
MIN_OPEN_FILES = 1024
MAX_SKEW_S = 10.0
"""Logs of different hosts are compared by their times, and S3 refuses clocks that are minutes off."""


@dataclass(frozen=True)
class Wish:
    """What the hosts are asked for."""

    code: str
    run: str
    software: Mapping[str, str]
    """Versions and hash of the head, which all hosts must have."""
    run_id: str = ""
    """Of the run folder, if it is there already."""
    partition: str = ""
    """Folder, if the partition is known already; host k is asked for its part k."""
    store: str = ""
    """URL that the host is to bring its part from where it is missing."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """For bringing it, above what the host has: credentials, sent over stdin."""
    checksums: bool = True
    servers: int = 1
    network: str = ""
    allow_public: bool = False


@dataclass
class Seen:
    """One host as the preflight saw it."""

    name: str
    address: str = ""
    interface: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    skew_s: float = 0.0
    cells: dict[str, str] = field(default_factory=dict)
    """Column of the table -> what was found."""
    faults: list[LMGNNError] = field(default_factory=list)

    @property
    def replaceable(self) -> bool:
        """Whether the host itself is at fault, not what it sees of others."""
        return any(cell == "✗" for column, cell in self.cells.items() if column != "peers")

    def fault(self, column: str, what: str, *, hint: str, store: bool = False) -> None:
        self.cells[column] = "✗"
        self.faults.append((StoreError if store else PreflightError)(f"{self.name}: {what}", hint=hint))


def judge_software(seen: Seen, wish: Wish) -> None:
    theirs = seen.facts["software"]
    different = [name for name, version in wish.software.items() if theirs.get(name) != version]
    seen.cells["software"] = "equal"
    if different:
        said = ", ".join(f"{name} {theirs.get(name)} instead of {wish.software[name]}" for name in different)
        seen.fault("software", said, hint=f"bring {wish.code} and its .venv there to what the head has")


def judge_room(seen: Seen) -> None:
    found = seen.facts
    seen.cells.update(
        ports="free",
        disk=f"{found['disk_bytes'] / 2**30:.1f} GiB",
        limits=f"{found['open_files']} files",
        clock=f"{seen.skew_s:.1f} s",
    )
    seen.cells["/dev/shm"] = f"{found['shm_bytes'] / 2**30:.1f} GiB"
    seen.cells["run folder"] = "seen"
    if found["ports"]:
        seen.fault("ports", found["ports"], hint="something holds them: look with `ss -ltn`")
    if found["disk_bytes"] < MIN_DISK:
        seen.fault(
            "disk", f"{found['disk_bytes'] >> 20} MiB of disk are free", hint="1 GiB at least: make room"
        )
    if not found["shm_writable"]:
        seen.fault("/dev/shm", "/dev/shm cannot be written to", hint="graph servers keep their part there")
    elif found["shm_bytes"] < MIN_SHM:
        free = found["shm_bytes"] >> 20
        seen.fault("/dev/shm", f"{free} MiB of /dev/shm are free", hint=f"{MIN_SHM >> 20} MiB at least")
    if 0 <= found["open_files"] < MIN_OPEN_FILES:
        said = f"ulimit -n is {found['open_files']}"
        seen.fault("limits", said, hint=f"{MIN_OPEN_FILES} at least: /etc/security/limits.conf")
    if seen.skew_s > MAX_SKEW_S:
        seen.fault("clock", f"its clock is {seen.skew_s:.0f} s off the head's", hint="start NTP there")
    if found["run"]:
        seen.fault("run folder", found["run"], hint="put runs/ on it, or take --run-dir")


def judge_address(seen: Seen, wish: Wish) -> None:
    """The job's address on the host: the one in the asked network, else the one that ssh reached."""
    interfaces = {address: name for name, address in seen.facts["addresses"]}
    if wish.network:
        inside = [a for a in interfaces if ipaddress.ip_address(a) in ipaddress.ip_network(wish.network)]
        if len(inside) != 1:
            said = f"{len(inside)} addresses in --network {wish.network} (it has {', '.join(interfaces)})"
            return seen.fault("address", said, hint="name a network that holds one of every host")
        seen.address = inside[0]
    else:
        seen.address = seen.facts["reached"]
    seen.interface = interfaces.get(seen.address, "")
    seen.cells["address"] = seen.address
    if not seen.interface:
        said = f"{seen.address or 'what ssh reached'} is no IPv4 address of an interface there"
        return seen.fault("address", said, hint="choose the job's network with --network, such as 10.0.0.0/8")
    if ipaddress.ip_address(seen.address).is_global and not wish.allow_public:
        seen.fault(
            "address",
            f"{seen.address} is a public address, and whoever reaches the job's ports owns its processes",
            hint="choose a private network with --network, or --allow-public behind a firewall",
        )
    return None


def compare(hosts: Sequence[Seen], wish: Wish) -> None:
    """What no host shows alone: two names for one host, loopback between hosts, unequal GPUs."""
    first: dict[str, Seen] = {}
    for seen in (seen for seen in hosts if seen.address):
        other = first.setdefault(seen.address, seen)
        if other is not seen:
            seen.fault("address", f"the same host as {other.name} ({seen.address})", hint="name a host once")
        if len(hosts) > 1 and ipaddress.ip_address(seen.address).is_loopback:
            seen.fault(
                "address", f"{seen.address} is not to be reached from other hosts", hint="take --network"
            )
    counted = [seen for seen in hosts if seen.facts.get("gpus") is not None]
    for seen in counted:
        seen.cells["GPUs"] = str(seen.facts["gpus"])
        if seen.facts["gpus"] != counted[0].facts["gpus"]:
            said = f"{seen.facts['gpus']} GPUs, but {counted[0].name} has {counted[0].facts['gpus']}"
            seen.fault("GPUs", said, hint="take equal hosts, or set CUDA_VISIBLE_DEVICES there")
