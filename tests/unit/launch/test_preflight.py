"""What a preflight makes of hosts: real probes of this machine, and facts that are wrong in one way each."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from launch import shm
from launch.cluster import new_run_id
from launch.hostchecks import Seen, Wish, compare, judge_address, judge_room
from launch.outcome import Interrupted
from launch.preflight import look, refusal
from launch.probe import facts, software
from launch.watch import Interrupts
from partition.errors import PreflightError, StoreError

CODE = str(Path(__file__).parents[3])
GOOD: Mapping[str, Any] = {
    "software": {},
    "reached": "10.0.0.1",
    "addresses": [["lo", "127.0.0.1"], ["eth0", "10.0.0.1"], ["eth1", "192.168.1.1"]],
    "gpus": 0,
    "ports": "",
    "disk_bytes": 1 << 40,
    "shm_bytes": 1 << 33,
    "shm_writable": True,
    "open_files": 4096,
    "run": "",
}


def wish(**changes: Any) -> Wish:
    return Wish(**{"code": CODE, "run": "/r", "software": {}, **changes})


def seen(name: str = "a", *, skew_s: float = 0.0, **changes: Any) -> Seen:
    return Seen(name, facts={**GOOD, **changes}, skew_s=skew_s)


def words(host: Seen) -> str:
    return "; ".join(str(fault) for fault in host.faults)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"disk_bytes": 5 << 20}, "5 MiB of disk are free"),
        ({"shm_bytes": 64 << 20}, "64 MiB of /dev/shm are free"),
        ({"shm_writable": False}, "/dev/shm cannot be written to"),
        ({"open_files": 256}, "ulimit -n is 256"),
        ({"ports": "no 2 free neighbouring ports"}, "no 2 free"),
        ({"run": "/r is not there"}, "/r is not there"),
        ({"skew_s": 90.0}, "its clock is 90 s off"),
    ],
)
def test_what_a_host_lacks_is_said_with_a_way_out(changes: dict[str, Any], said: str) -> None:
    host = seen(**changes)
    judge_room(host)
    assert words(host).startswith(f"a: {said}")
    assert words(host).endswith(")")


def test_a_good_host_has_no_fault_and_unlimited_files_are_enough() -> None:
    host = seen(open_files=-1)
    judge_room(host)
    judge_address(host, wish())
    assert (host.faults, host.address, host.interface) == ([], "10.0.0.1", "eth0")


def test_the_network_chooses_the_address() -> None:
    host = seen()
    judge_address(host, wish(network="192.168.0.0/16"))
    assert (host.address, host.interface, host.faults) == ("192.168.1.1", "eth1", [])
    other = seen()
    judge_address(other, wish(network="172.16.0.0/12"))
    assert "0 addresses in --network 172.16.0.0/12 (it has 127.0.0.1, 10.0.0.1, 192.168.1.1)" in words(other)


def test_a_public_address_is_refused_unless_allowed() -> None:
    public = {"reached": "8.8.8.8", "addresses": [["eth0", "8.8.8.8"]]}
    host = seen(**public)
    judge_address(host, wish())
    assert "8.8.8.8 is a public address" in words(host)
    allowed = seen(**public)
    judge_address(allowed, wish(allow_public=True))
    assert not allowed.faults


@pytest.mark.parametrize("reached", ["fd00::1", "", "10.9.9.9"])
def test_an_address_that_no_interface_has_asks_for_a_network(reached: str) -> None:
    host = seen(reached=reached)
    judge_address(host, wish())
    assert "--network" in words(host)


def test_two_names_of_one_host_and_unequal_gpus_are_found() -> None:
    hosts = [seen("a"), seen("b", gpus=2), seen("c", reached="127.0.0.1")]
    for host in hosts:
        judge_address(host, wish())
    compare(hosts, wish())
    assert not hosts[0].faults
    assert "b: the same host as a (10.0.0.1)" in words(hosts[1])
    assert "b: 2 GPUs, but a has 0" in words(hosts[1])
    assert "c: 127.0.0.1 is not to be reached from other hosts" in words(hosts[2])


def test_all_faults_are_in_one_error_and_missing_things_weigh_more_than_files() -> None:
    a, b, c = seen("a"), seen("b"), seen("c")
    a.fault("part", "part0 is missing", hint="copy it", store=True)
    assert isinstance(refusal([a, c]), StoreError)
    b.fault("disk", "full", hint="make room")
    error = refusal([a, b, c])
    assert isinstance(error, PreflightError)
    assert str(error).startswith("2 of 3 hosts cannot take part:\n  b: full")
    assert "a: part0 is missing (copy it)" in str(error)
    assert refusal([c]) is None


def here(name: str) -> list[str]:
    """A probe of this machine, as if ssh had come by an address of its own; `dead` is a host that is none."""
    if name == "dead":
        return ["sh", "-c", "echo 'ssh: connect to host dead port 22: No route to host' >&2; exit 255"]
    environment = [f"PYTHONPATH={CODE}", "SSH_CONNECTION=127.0.0.1 1 127.0.0.1 22"]
    return ["env", *environment, sys.executable, "-P", "-m", "launch.probe"]


def explain(name: str, words: str) -> tuple[str, str]:
    return words, f"look at {name}"


def test_a_probe_of_this_machine_finds_what_is_here(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"id": "0123abcd"}')
    asked = wish(software=software(CODE), run=str(tmp_path), run_id="0123abcd")
    (host,) = look(["here"], asked, command=here, explain=explain)
    faulty = {column for column, cell in host.cells.items() if cell == "✗"}
    assert faulty <= {"disk", "/dev/shm", "limits"}, words(host)  # a small machine may lack these
    assert (host.address, host.interface) == ("127.0.0.1", "lo")
    assert host.facts["cores"] == len(os.sched_getaffinity(0))
    assert host.skew_s < 1
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_what_a_dead_run_left_in_shm_is_not_counted_as_taken(tmp_path: Path) -> None:
    dead = shm.FOLDER / f"{shm.PREFIX}{new_run_id()}"
    left = [dead.with_name(dead.name + end) for end in ("-a1_node_feat", shm.LOCK_SUFFIX)]
    for path in left:
        path.touch()
    facts({"code": CODE, "run": str(tmp_path), "run_id": "", "servers": 1})
    assert not [path for path in left if path.exists()]


def test_another_run_folder_and_other_versions_are_found(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"id": "0123abcd"}')
    asked = wish(software={**software(CODE), "torch": "0.4"}, run=str(tmp_path), run_id="ffffffff")
    (host,) = look(["here"], asked, command=here, explain=explain)
    assert "another folder here than on the head" in words(host)
    assert "torch " in words(host)
    assert "instead of 0.4" in words(host)


def test_a_host_that_cannot_be_had_does_not_hide_the_others(tmp_path: Path) -> None:
    asked = wish(software=software(CODE), run=str(tmp_path))
    dead, alive = look(["dead", "here"], asked, command=here, explain=explain)
    assert words(dead) == "dead: ssh: connect to host dead port 22: No route to host (look at dead)"
    assert dead.replaceable
    assert alive.facts["hostname"]


def test_a_shell_that_prints_is_a_fault_of_its_host_with_a_way_out() -> None:
    def command(name: str) -> list[str]:
        return ["sh", "-c", 'echo Welcome to host a; exec "$@"', "sh", *here(name)]

    (host,) = look(["a"], wish(), command=command, explain=explain)
    assert words(host).startswith("a: it printed 'Welcome to host a' instead of an answer")
    assert ".bashrc" in words(host)


def test_a_missing_client_is_a_preflight_error_that_names_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PreflightError, match=r"ssh is not there .*openssh-client"):
        look(["a"], wish(), command=lambda _: ["ssh", "a"], explain=explain)


@pytest.fixture
def interrupts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Interrupts]:
    """Signals are counted as while a job runs."""
    monkeypatch.setattr(Interrupts, "current", None)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    installed = Interrupts()
    installed.install()
    yield installed
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_ends_a_preflight_whose_host_is_silent_and_what_waits_for_it(
    interrupts: Interrupts, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    silent = ["sh", "-c", f"echo $$ > {pid}; exec sleep 60"]
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(Interrupted) as caught:
        look(["silent"], wish(), command=lambda _: silent, explain=explain)
    assert caught.value.exit_code == 143
    assert not Path(f"/proc/{int(pid.read_text())}").exists()


def test_a_probe_leaves_by_itself_before_what_carries_its_words(tmp_path: Path) -> None:
    ended = tmp_path / "ended"

    def command(name: str) -> list[str]:
        return ["sh", "-c", f'"$@"; touch {ended}', "sh", *here(name)]

    look(["here"], wish(software=software(CODE), run=str(tmp_path)), command=command, explain=explain)
    assert ended.exists()
