"""`python -m launch.probe`: tells what its host is and has; one per host while a preflight runs.

Questions come as one JSON object a line over stdin, each is answered by one line on stdout; ends with
its stdin. Never judges what it finds (launch.preflight does). Changes nothing but a test file in the run
folder, which it removes, segments of dead runs in /dev/shm, whose room it would count as taken, and the
host's own copy of its part, which it brings where the store is at a URL.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import socket
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from launch import shm
from launch.agent import PortHolder
from launch.cluster import local_gpus
from partition.errors import LMGNNError

PACKAGES = ("torch", "dgl", "deepspeed", "transformers", "numpy", "pyarrow", "psutil", "fsspec")
"""Those whose numbers or formats all hosts must agree on."""
OURS = ("launch", "pipeline", "partition")
CONNECT_S = 5.0
AT_ONCE = 32


def code_hash(code: str | Path) -> str:
    """One hash of every source file of our packages."""
    digest = hashlib.sha256()
    for package in OURS:
        for path in sorted((Path(code) / package).rglob("*")):
            if path.suffix in (".py", ".html"):
                digest.update(f"{path.relative_to(code)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def software(code: str | Path) -> dict[str, str]:
    """Versions that must be equal on all hosts, and the hash of our own code."""
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return {**found, "our code": code_hash(code)}


def facts(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What the host has; `asked` holds the folders code and run, and the number of graph servers.

    By which address it was reached is in LMGNN_ADDRESS where no ssh says so.
    """
    reached = os.environ.get("SSH_CONNECTION", "").split()
    shm.sweep_dead_runs()  # else what a killed run left could refuse every later one
    return {
        "hostname": socket.gethostname(),
        "software": software(asked["code"]),
        "reached": os.environ.get("LMGNN_ADDRESS") or (reached[2] if len(reached) == 4 else ""),
        "addresses": [[n, a.address] for n, a in _addresses()],
        "cores": len(os.sched_getaffinity(0)),
        "gpus": local_gpus(),
        "ports": _ports(int(asked["servers"])),
        "disk_bytes": shutil.disk_usage(_existing(asked["run"])).free,
        "shm_bytes": shutil.disk_usage("/dev/shm").free,
        "shm_writable": os.access("/dev/shm", os.W_OK),
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "processes": resource.getrlimit(resource.RLIMIT_NPROC)[0],
        "run": _run_folder(asked["run"], asked["run_id"]),
    }


def part(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Whether this host's part of the partition is there (and, if asked, as it was written).

    With a `store` what is missing or wrong is brought from there first. `manifest` is the checksum of the
    head's: under one id, two builds may give nodes other ids.
    """
    from partition.store import CHECKSUM_NAME, verify_part

    try:
        if asked.get("store"):
            _bring(asked)
        files = verify_part(asked["partition"], int(asked["part"]), checksums=bool(asked["checksums"]))
        own = (Path(asked["partition"]) / CHECKSUM_NAME).read_text().strip()
    except LMGNNError as error:
        return {"error": str(error)}
    except OSError as error:
        return {"error": f"{asked['partition']}: {error.strerror}"}
    if asked.get("manifest", own) != own:
        return {"error": f"{asked['partition']} is not the head's: another build of the same request"}
    return {"files": files}


def _bring(asked: Mapping[str, Any]) -> None:
    from partition.objects import Objects
    from partition.pull import pull

    os.environ.update(asked["environment"])
    folder = Path(asked["partition"])
    objects = Objects(asked["store"], say=lambda line: print(line, file=sys.stderr, flush=True))
    host, checksums = int(asked["part"]), bool(asked["checksums"])
    pull(objects, folder.name, folder.parent, say=objects.say, host=host, checksums=checksums)


class Listener:
    """A port on the job's address for the other hosts to try."""

    def __init__(self, address: str) -> None:
        self._socket = socket.create_server((address, 0), backlog=256)
        self.port = self._socket.getsockname()[1]


def reach(peers: list[list[Any]]) -> dict[str, str]:
    """Name -> why it cannot be reached, for the peers [name, address, port] that cannot."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        reasons = list(pool.map(lambda peer: _connect(str(peer[1]), int(peer[2])), peers))
    return {str(peer[0]): reason for peer, reason in zip(peers, reasons, strict=True) if reason}


def _connect(address: str, port: int) -> str:
    try:
        socket.create_connection((address, port), timeout=CONNECT_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _addresses() -> list[tuple[str, Any]]:
    return [
        (name, address)
        for name, all_of_it in psutil.net_if_addrs().items()
        for address in all_of_it
        if address.family == socket.AF_INET
    ]


def _ports(servers: int) -> str:
    """Empty, or why the ports of a host cannot be had."""
    try:
        PortHolder().hold(servers + 1)
    except OSError as error:
        return str(error)
    return ""


def _existing(path: str) -> Path:
    folder = Path(path)
    while not folder.exists():
        folder = folder.parent
    return folder


def _run_folder(path: str, run_id: str) -> str:
    """Empty, or why the run folder is not the one that the head sees."""
    if not run_id:
        return ""
    try:
        if json.loads((Path(path) / "run.json").read_text())["id"] != run_id:
            return f"{path} is another folder here than on the head"
        test = Path(path) / f".probe-{socket.gethostname()}-{os.getpid()}"
        test.touch()
        test.unlink()
    except FileNotFoundError:
        return f"{path} is not there: all hosts must see it, on a shared file system"
    except (OSError, ValueError) as error:
        return f"{path}: {getattr(error, 'strerror', '') or error}"
    return ""


def main() -> int:
    listeners = []
    for line in sys.stdin:
        asked = json.loads(line)
        kind = asked.pop("ask")
        if kind == "clock":
            answer: dict[str, Any] = {"time": time.time()}
        elif kind == "facts":
            answer = facts(asked)
        elif kind == "part":
            answer = part(asked)
        elif kind == "listen":
            try:
                listeners.append(Listener(asked["address"]))
                answer = {"port": listeners[-1].port}
            except OSError as error:
                answer = {"error": error.strerror or str(error)}
        else:
            answer = {"unreached": reach(asked["peers"])}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
