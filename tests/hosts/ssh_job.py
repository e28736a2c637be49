"""A job that trains nothing over ssh hosts: started on their head, looked at, nothing of it left."""

from __future__ import annotations

import json
import subprocess

from tests.hosts.ssh_hosts import SshHosts
from tests.launch_tree import Tree

FAKES = (
    "FAKE_FOREVER",
    "FAKE_ONLY_FIRST",
    "FAKE_ASK_SERVERS",
    "FAKE_SLOW_SAVE",
    "FAKE_server_1",
    "FAKE_trainer_1",
    "FAKE_trainer_3",
)


def start(tree: Tree, hosts: SshHosts, *arguments: str, **fakes: str) -> subprocess.Popen[str]:
    exports = [word for name in fakes if name in FAKES for word in ("--export", name)]
    with (tree.path / "lmgnn.log").open("w") as log:
        return subprocess.Popen(
            hosts.on_head(tree.command("run", *arguments, *exports)),
            env=tree.environment(fakes),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )


def finish(tree: Tree, job: subprocess.Popen[str], *, seconds: float = 300) -> tuple[int, str]:
    """Exit code and output."""
    code = job.wait(timeout=seconds)
    return code, (tree.path / "lmgnn.log").read_text()


def outcome(tree: Tree) -> dict:
    return json.loads((tree.latest / "outcome.json").read_text())


def training(tree: Tree, attempt: int = 1, trainers: int = 4) -> bool:
    return len(list(tree.latest.glob(f"live/a{attempt}/trainer-*.json"))) == trainers


def left(tree: Tree, hosts: SshHosts, *numbers: int) -> list[str]:
    """Processes, listeners and segments that a job should not leave."""
    found = tree.processes()
    for number in numbers:
        found += hosts.listeners(number) + hosts.segments(number)
    return found
