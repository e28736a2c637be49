"""Hosts of a hostfile by real ssh, on a job that trains nothing: refused, survived, left behind."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from importlib.metadata import distribution, version
from pathlib import Path

import pytest

from tests.hosts.ssh_hosts import SshHosts, can_make_hosts, ssh_hosts
from tests.hosts.ssh_job import finish, left, outcome, start, training
from tests.launch_tree import Tree, make_tree, wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not can_make_hosts(), reason="needs root, iproute2 and openssh-server"),
]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return make_tree(tmp_path / "tree")


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[SshHosts]:
    with ssh_hosts(3, tmp_path / "hosts") as made:
        yield made


def test_a_job_runs_on_the_hosts_of_the_file_and_leaves_nothing(tree: Tree, hosts: SshHosts) -> None:
    flags = hosts.flags("# ours", "host1 slots=2", "", "host2 slots=2  # slow")
    code, said = finish(tree, start(tree, hosts, *flags))
    assert code == 0, said
    facts = [json.loads((tree.latest / f"facts-{k}.json").read_text()) for k in range(2)]
    assert [f["name"] for f in facts] == ["host1", "host2"]
    assert all(f["interface"] is True for f in facts)
    launch = json.loads((tree.latest / "launch.json").read_text())
    assert [h["address"] for h in launch["cluster"]["hosts"]] == ["10.78.0.1", "10.78.0.2"]
    assert launch["trainers_per_host"] == 2
    assert "verified" in said
    wait_for(lambda: not left(tree, hosts, 1, 2), seconds=60)


def test_servers_listen_at_the_jobs_address_alone(tree: Tree, hosts: SshHosts) -> None:
    job = start(tree, hosts, *hosts.flags("host1", "host2"), FAKE_FOREVER="1")
    wait_for(lambda: training(tree), seconds=120)
    assert {a.rsplit(":", 1)[0] for a in hosts.listeners(1)} == {"10.78.0.1"}
    assert {a.rsplit(":", 1)[0] for a in hosts.listeners(2)} == {"10.78.0.2"}
    job.send_signal(15)
    assert finish(tree, job)[0] == 143
    assert len(list(tree.latest.glob("saved-*"))) == 4
    wait_for(lambda: not left(tree, hosts, 1, 2), seconds=60)


def test_too_few_hosts_are_an_error_with_both_numbers(tree: Tree, hosts: SshHosts) -> None:
    code, said = finish(tree, start(tree, hosts, *hosts.flags(), "--nodes", "4"))
    assert code == 2
    assert "--nodes 4" in said
    assert "names 3 hosts" in said
    assert not (tree.path / "runs").exists()


def test_an_unknown_host_key_is_never_accepted(tree: Tree, hosts: SshHosts) -> None:
    hosts.forget_key(2)
    before = (hosts.folder / "known_hosts").read_text()
    code, said = finish(tree, start(tree, hosts, *hosts.flags()))
    assert code == 12
    assert "error: host2: its host key is not known" in said
    assert (hosts.folder / "known_hosts").read_text() == before


def test_a_changed_host_key_is_an_alarm(tree: Tree, hosts: SshHosts) -> None:
    other = (hosts.folder / "host_key.1.pub").read_text().rsplit(" ", 1)[0]
    hosts.forget_key(2, put=other)
    code, said = finish(tree, start(tree, hosts, *hosts.flags()))
    assert code == 12
    assert "error: host2: its host key has CHANGED" in said


def test_a_host_that_is_down_is_named_within_its_time(tree: Tree, hosts: SshHosts) -> None:
    hosts.cut_off(3)
    code, said = finish(tree, start(tree, hosts, *hosts.flags()))
    assert code == 12
    assert "error: host3: not to be had: ssh: connect to host" in said
    assert not tree.processes()


def test_other_software_is_refused_by_name(tree: Tree, hosts: SshHosts) -> None:
    changed = hosts.folder / "changed.py"
    changed.write_text((tree.path / "launch" / "console.py").read_text() + "# edited\n")
    hosts.run(2, "mount", "--bind", str(changed), str(tree.path / "launch" / "console.py"))
    code, said = finish(tree, start(tree, hosts, *hosts.flags()))
    assert code == 12
    assert "error: host2: our code " in said
    assert " instead of " in said


def test_another_torch_is_refused_with_both_versions(tree: Tree, hosts: SshHosts) -> None:
    (metadata,) = [f for f in distribution("torch").files or () if f.name == "METADATA"]
    theirs = hosts.folder / "METADATA"
    whole, ours = metadata.locate(), version("torch")
    theirs.write_text(whole.read_text().replace(f"Version: {ours}\n", "Version: 1.0.0\n", 1))
    hosts.run(2, "mount", "--bind", str(theirs), str(whole))
    code, said = finish(tree, start(tree, hosts, *hosts.flags()))
    assert code == 12
    assert f"error: host2: torch 1.0.0 instead of {ours}" in said


def test_a_full_shm_and_a_missing_run_folder_are_both_told(tree: Tree, hosts: SshHosts) -> None:
    hosts.run(1, "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/dev/shm")
    (tree.path / "runs").mkdir()
    hosts.run(2, "mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", str(tree.path / "runs"))
    code, said = finish(tree, start(tree, hosts, *hosts.flags("host2", "host3")))
    assert code == 12
    assert "error: host2: " in said
    assert "shared file system" in said
    code, said = finish(tree, start(tree, hosts, *hosts.flags()))
    assert code == 12
    assert "host1: 1 MiB of /dev/shm are free" in said


def test_a_torn_part_is_a_store_error_of_its_host(tree: Tree, hosts: SshHosts) -> None:
    (tree.path / "store").mkdir()
    hosts.run(2, "mount", "-t", "tmpfs", "tmpfs", str(tree.path / "store"))
    code, said = finish(tree, start(tree, hosts, *hosts.flags()))
    assert code == 13
    assert "error: host2: " in said
    assert "holds no finished partition" in said


def test_a_partition_for_other_hosts_is_refused_before_anything_starts(tree: Tree, hosts: SshHosts) -> None:
    assert finish(tree, start(tree, hosts, *hosts.flags("host1", "host2")))[0] == 0
    before = sorted((tree.path / "runs").iterdir())
    flags = [*hosts.flags(), "--partition", str(tree.path / "store" / "2x2")]
    code, said = finish(tree, start(tree, hosts, *flags))
    assert code == 2
    assert "is cut for 2 hosts, the job has 3" in said
    assert "lmgnn partition build" in said
    assert "--hosts 3 --trainers 2" in said
    assert sorted((tree.path / "runs").iterdir()) == before


def test_a_public_address_needs_a_flag(tree: Tree, hosts: SshHosts) -> None:
    for number in (1, 2):
        hosts.run(number, "ip", "address", "add", f"8.8.8.{number}/24", "dev", "eth0")
    flags = [*hosts.flags("host1", "host2"), "--network", "8.8.8.0/24"]
    code, said = finish(tree, start(tree, hosts, *flags))
    assert code == 12
    assert "host1: 8.8.8.1 is a public address" in said
    code, said = finish(tree, start(tree, hosts, *flags, "--allow-public"))
    assert code == 0, said


def test_hosts_that_do_not_reach_each_other_are_told_apart(tree: Tree, hosts: SshHosts) -> None:
    hosts.run(2, "ip", "route", "add", "blackhole", "10.78.0.3/32")
    code, said = finish(tree, start(tree, hosts, *hosts.flags()))
    assert code == 12
    assert "host2: does not reach host3" in said
    assert "host3: does not reach host2" in said
    assert "host1: does not reach" not in said


def test_secrets_are_in_no_command_line_and_no_file(tree: Tree, hosts: SshHosts) -> None:
    fakes = {"FAKE_FOREVER": "1", "AWS_SECRET_ACCESS_KEY": "planted-secret"}
    job = start(tree, hosts, *hosts.flags("host1", "host2"), **fakes)
    wait_for(lambda: training(tree), seconds=120)
    state = json.loads((tree.latest / "state.json").read_text())
    pid = next(row["pid"] for row in state["processes"] if row["name"] == "trainer-3")
    assert "planted-secret" in hosts.run(2, "cat", f"/proc/{pid}/environ")
    assert not [line for line in tree.processes() if "planted-secret" in line]
    job.send_signal(15)
    assert finish(tree, job)[0] == 143
    found = subprocess.run(
        ["grep", "-rl", "planted-secret", str(tree.path)], stdout=subprocess.PIPE, check=False
    )
    assert found.stdout == b""


def test_kill_9_of_the_head_ends_the_processes_of_all_hosts(
    tree: Tree, hosts: SshHosts, record_property: Callable[[str, object], None]
) -> None:
    job = start(tree, hosts, *hosts.flags("host1", "host2"), FAKE_FOREVER="1")
    wait_for(lambda: training(tree), seconds=120)
    job.kill()
    job.wait()
    record_property("gone_s", wait_for(lambda: not left(tree, hosts, 1, 2), seconds=10))


def test_kill_9_of_a_trainer_is_survived(tree: Tree, hosts: SshHosts) -> None:
    fakes = {"FAKE_trainer_3": "signal=9", "FAKE_ONLY_FIRST": "1"}
    code, said = finish(
        tree, start(tree, hosts, *hosts.flags("host1", "host2"), "--max-restarts", "1", **fakes)
    )
    assert code == 0, said
    assert outcome(tree)["restarts"] == 1
    assert (tree.latest / "resume-2-3").read_text() == "auto"
    wait_for(lambda: not left(tree, hosts, 1, 2), seconds=60)


@pytest.mark.parametrize(
    ("wish", "code"),
    [("exit=2", 2), ("exit=3", 3), ("exit=13", 13), ("exit=14", 14), ("exit=1", 10), ("signal=11", 10)],
)
def test_the_exit_code_is_that_of_the_first_failure_on_any_host(
    tree: Tree, hosts: SshHosts, wish: str, code: int
) -> None:
    job = start(tree, hosts, *hosts.flags("host1", "host2"), FAKE_FOREVER="1", FAKE_trainer_3=wish)
    assert finish(tree, job)[0] == code
    first = outcome(tree)["first_failed"]
    assert (first["host"], first["rank"]) == ("host2", 3)


@pytest.mark.parametrize(("loss", "limit"), [("power", 10), ("network", 45)])
def test_a_spare_host_takes_the_place_of_a_lost_one(
    tree: Tree, hosts: SshHosts, loss: str, limit: float, record_property: Callable[[str, object], None]
) -> None:
    flags = [*hosts.flags(), "--nodes", "2", "--max-restarts", "1"]
    fakes = {"FAKE_FOREVER": "1", "FAKE_ONLY_FIRST": "1"}
    job = start(tree, hosts, *flags, **fakes)
    wait_for(lambda: training(tree), seconds=120)
    hosts.lose_power(2) if loss == "power" else hosts.cut_off(2)
    log = tree.path / "lmgnn.log"
    record_property("detected_s", wait_for(lambda: "host host2 is lost" in log.read_text(), seconds=limit))
    code, said = finish(tree, job)
    assert code == 0, said
    assert "host3 takes the place of host2" in said
    launch = json.loads((tree.latest / "launch.json").read_text())
    assert [h["name"] for h in launch["cluster"]["hosts"]] == ["host1", "host3"]
    # The lost one's agent hears nothing any more and ends what it had started, within its lease of 60 s.
    wait_for(lambda: not left(tree, hosts, 1, 3), seconds=150)


def test_a_spare_host_that_is_dead_is_passed_over(tree: Tree, tmp_path: Path) -> None:
    with ssh_hosts(4, tmp_path / "hosts") as hosts:
        hosts.lose_power(3)
        flags = [*hosts.flags(), "--nodes", "2", "--max-restarts", "1"]
        job = start(tree, hosts, *flags, FAKE_FOREVER="1", FAKE_ONLY_FIRST="1")
        wait_for(lambda: training(tree), seconds=120)
        hosts.lose_power(2)
        code, said = finish(tree, job)
        assert code == 0, said
        assert "host4 takes the place of host3" in said
        launch = json.loads((tree.latest / "launch.json").read_text())
        assert [h["name"] for h in launch["cluster"]["hosts"]] == ["host1", "host4"]
        wait_for(lambda: not left(tree, hosts, 1, 4), seconds=60)


def test_a_lost_host_without_a_spare_ends_the_job_by_its_name(tree: Tree, hosts: SshHosts) -> None:
    job = start(tree, hosts, *hosts.flags(), "--max-restarts", "1", FAKE_FOREVER="1")
    wait_for(lambda: training(tree, trainers=6), seconds=120)
    hosts.lose_power(2)
    code, said = finish(tree, job)
    assert code == 10
    assert "host2: not to be had" in said
    assert "has no spare host" in said
    wait_for(lambda: not left(tree, hosts, 1, 3), seconds=60)


def test_os_environ_of_the_head_stays_at_home(tree: Tree, hosts: SshHosts) -> None:
    job = start(tree, hosts, *hosts.flags("host1", "host2"), FAKE_FOREVER="1", PRIVATE_THING="mine")
    wait_for(lambda: training(tree), seconds=120)
    state = json.loads((tree.latest / "state.json").read_text())
    pid = next(row["pid"] for row in state["processes"] if row["name"] == "trainer-3")
    assert "PRIVATE_THING" not in hosts.run(2, "cat", f"/proc/{pid}/environ")
    os.kill(job.pid, 15)
    assert finish(tree, job)[0] == 143
