"""The drills of faults/test_launcher.py over hosts by ssh: stopped, clashing, starved, twice at once."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hosts.ssh_hosts import SshHosts, can_make_hosts, ssh_hosts
from tests.hosts.ssh_job import finish, left, outcome, start, training
from tests.launch_tree import Tree, make_tree, wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not can_make_hosts(), reason="needs root, iproute2 and openssh-server"),
]
Record = Callable[[str, object], None]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return make_tree(tmp_path / "tree")


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[SshHosts]:
    with ssh_hosts(2, tmp_path / "hosts") as made:
        yield made


def nothing_left(tree: Tree, hosts: SshHosts) -> float:
    return wait_for(lambda: not left(tree, hosts, 1, 2), seconds=60)


def test_ctrl_c_lets_the_trainers_of_all_hosts_save(
    tree: Tree, hosts: SshHosts, record_property: Record
) -> None:
    job = start(tree, hosts, *hosts.flags(), FAKE_FOREVER="1")
    wait_for(lambda: training(tree), seconds=120)
    job.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert finish(tree, job, seconds=60)[0] == 130
    record_property("gone_s", time.monotonic() - began)
    assert len(list(tree.latest.glob("saved-*"))) == 4
    nothing_left(tree, hosts)


def test_a_second_ctrl_c_kills_on_all_hosts(tree: Tree, hosts: SshHosts) -> None:
    job = start(tree, hosts, *hosts.flags(), FAKE_FOREVER="1", FAKE_SLOW_SAVE="1")
    wait_for(lambda: training(tree), seconds=120)
    job.send_signal(signal.SIGINT)
    wait_for(lambda: "stopping" in (tree.path / "lmgnn.log").read_text())
    job.send_signal(signal.SIGINT)
    assert finish(tree, job, seconds=20)[0] == 130
    assert not list(tree.latest.glob("saved-*"))
    nothing_left(tree, hosts)


def test_a_stopped_server_of_another_host_is_named(
    tree: Tree, hosts: SshHosts, record_property: Record
) -> None:
    flags = [*hosts.flags(), "--hang-timeout", "5s"]
    job = start(tree, hosts, *flags, FAKE_FOREVER="1", FAKE_ASK_SERVERS="1")
    wait_for(lambda: training(tree), seconds=120)
    state = json.loads((tree.latest / "state.json").read_text())
    pid = next(row["pid"] for row in state["processes"] if row["name"] == "server-1")
    subprocess.run(hosts.in_processes_of(2, ["kill", "-STOP", str(pid)]), check=True)
    log = tree.path / "lmgnn.log"
    detected = wait_for(lambda: "writing the stacks of all processes" in log.read_text(), seconds=5 + 10)
    record_property("detected_s", detected)
    assert finish(tree, job)[0] == 11
    first = outcome(tree)["first_failed"]
    assert (first["host"], first["role"], first["rank"]) == ("host2", "server", 1)
    assert "stopped by a signal" in first["reading"]
    nothing_left(tree, hosts)


def test_a_port_taken_on_another_host_costs_no_restart(tree: Tree, hosts: SshHosts) -> None:
    code, said = finish(tree, start(tree, hosts, *hosts.flags(), FAKE_server_1="port", FAKE_ONLY_FIRST="1"))
    assert code == 0, said
    assert "a port was taken meanwhile" in said
    assert outcome(tree)["restarts"] == 0
    nothing_left(tree, hosts)


def test_a_lack_of_memory_on_another_host_is_told_with_what_was_held(tree: Tree, hosts: SshHosts) -> None:
    job = start(tree, hosts, *hosts.flags(), FAKE_FOREVER="1", FAKE_trainer_3="memory=900")
    assert finish(tree, job)[0] == 10
    first = outcome(tree)["first_failed"]
    assert (first["host"], first["rank"]) == ("host2", 3)
    assert "memory ran out; it held 0." in first["reading"]
    nothing_left(tree, hosts)


def test_two_jobs_on_the_same_hosts_do_not_meet_and_one_folder_takes_one(
    tree: Tree, hosts: SshHosts, tmp_path: Path
) -> None:
    first = start(tree, hosts, *hosts.flags(), "--run-dir", str(tmp_path / "one"), FAKE_FOREVER="1")
    wait_for(lambda: len(list((tmp_path / "one").glob("live/a1/trainer-*.json"))) == 4, seconds=120)
    second = start(tree, hosts, *hosts.flags(), "--run-dir", str(tmp_path / "two"))
    assert finish(tree, second)[0] == 0
    third = start(tree, hosts, *hosts.flags(), "--run-dir", str(tmp_path / "one"))
    code, said = finish(tree, third)
    assert code == 5
    assert f"in use by process {first.pid}" in said
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=60) == 143
    nothing_left(tree, hosts)
