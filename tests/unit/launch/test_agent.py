"""Ports, shared memory and the agent's own life."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch import shm
from launch.agent import PortHolder
from launch.plan import ProcessSpec
from launch.protocol import Order, Report
from tests.launch_tree import wait_for

ROOT = Path(__file__).parents[3]


def test_held_ports_are_neighbours_taken_until_released_and_free_after() -> None:
    holder = PortHolder()
    first = holder.hold(3)
    for port in range(first, first + 3):
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
    holder.release(range(first, first + 3))
    for port in range(first, first + 3):
        with socket.socket() as other:
            other.bind(("127.0.0.1", port))


def test_held_ports_lie_below_those_of_outgoing_connections() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert PortHolder().hold(4) + 3 < max(lowest, 21000)


def test_segments_of_a_dead_run_are_swept_and_those_of_a_living_one_stay(tmp_path: Path) -> None:
    lock = shm.RunLock("aaaaaaaa", tmp_path)
    for name in ("lmgnn-aaaaaaaa-a1_node_feat", "lmgnn-bbbbbbbb-a1_node_feat", "lmgnn-bbbbbbbb-lock"):
        (tmp_path / name).touch()
    assert shm.sweep_dead_runs(tmp_path) == ["lmgnn-bbbbbbbb-a1_node_feat", "lmgnn-bbbbbbbb-lock"]
    assert (tmp_path / "lmgnn-aaaaaaaa-a1_node_feat").exists()
    lock.release()
    assert not list(tmp_path.iterdir())


def test_segments_without_a_lock_file_are_nobodys_business(tmp_path: Path) -> None:
    (tmp_path / "lmgnn-cccccccc-a1_node_feat").touch()
    assert shm.sweep_dead_runs(tmp_path) == []
    assert (tmp_path / "lmgnn-cccccccc-a1_node_feat").exists()


def test_segments_stay_until_the_last_agent_of_a_run_has_left(tmp_path: Path) -> None:
    first, second = shm.RunLock("aaaaaaaa", tmp_path), shm.RunLock("aaaaaaaa", tmp_path)
    (tmp_path / "lmgnn-aaaaaaaa-a1").touch()
    first.release()
    assert (tmp_path / "lmgnn-aaaaaaaa-a1").exists()
    second.release()
    assert not list(tmp_path.iterdir())


@pytest.fixture(params=[()], ids=["for ever"])
def agent(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-P", "-m", "launch.agent", *request.param]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        yield process
        process.kill()


def spec_of(folder: Path, script: str) -> ProcessSpec:
    argv = (sys.executable, "-c", script)
    return ProcessSpec("step", 0, 0, argv, {}, str(folder / "log"), str(folder), show="all")


def order(agent: subprocess.Popen[bytes], what: Order) -> None:
    assert agent.stdin
    agent.stdin.write(what.to_line())
    agent.stdin.flush()


def reports(agent: subprocess.Popen[bytes], until: str) -> list[Report]:
    assert agent.stdout
    found: list[Report] = []
    while not found or found[-1].kind != until:
        found.append(Report.from_line(agent.stdout.readline()))
    return found


def test_an_end_is_reported_with_code_and_last_lines(agent: subprocess.Popen[bytes], tmp_path: Path) -> None:
    order(agent, Order("start", spec=spec_of(tmp_path, "for i in range(99): print(i)\nraise SystemExit(3)")))
    ended = reports(agent, "exit")[-1]
    assert ended.code == 3
    assert ended.text.split("\n") == [str(i) for i in range(59, 99)]


def test_a_command_that_does_not_exist_is_reported(agent: subprocess.Popen[bytes], tmp_path: Path) -> None:
    spec = ProcessSpec("step", 0, 0, ("/no/such/program",), {}, str(tmp_path / "log"), str(tmp_path))
    order(agent, Order("start", spec=spec))
    failed = reports(agent, "failed")[-1]
    assert failed.code == 12
    assert "/no/such/program" in failed.text


GRANDCHILD = """
import pathlib, subprocess, sys, time, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
pathlib.Path("pids").write_text(str(child.pid))
print("there", flush=True)
"""


@pytest.mark.parametrize("way", ["stop", "end of stdin", "SIGTERM"])
def test_grandchildren_that_ignore_sigterm_end_too(
    agent: subprocess.Popen[bytes], tmp_path: Path, way: str
) -> None:
    order(agent, Order("start", spec=spec_of(tmp_path, GRANDCHILD + "time.sleep(1000)")))
    reports(agent, "line")
    pid = int((tmp_path / "pids").read_text())
    if way == "stop":
        order(agent, Order("stop", grace_s=0.2))
        assert reports(agent, "stopped")[-2].code == -signal.SIGKILL
    elif way == "SIGTERM":
        agent.send_signal(signal.SIGTERM)
    else:
        assert agent.stdin
        agent.stdin.close()
    wait_for(lambda: is_gone(pid), seconds=30)


def test_what_a_process_left_running_ends_with_it(agent: subprocess.Popen[bytes], tmp_path: Path) -> None:
    order(agent, Order("start", spec=spec_of(tmp_path, GRANDCHILD)))
    reports(agent, "exit")
    wait_for(lambda: is_gone(int((tmp_path / "pids").read_text())), seconds=30)


def is_gone(pid: int) -> bool:
    """Ended; a zombie that nobody has collected counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_memory_is_that_of_the_process_and_its_children(
    agent: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    inner = "import time; block = b'x' * 150_000_000; time.sleep(2.5)"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    order(agent, Order("start", spec=spec_of(tmp_path, script)))
    assert 150_000_000 < reports(agent, "exit")[-1].peak_bytes < 400_000_000


def test_orders_and_reports_survive_the_way_as_lines() -> None:
    report = Report("heartbeat", "trainer-3", beat={"step": 7})
    assert Report.from_line(report.to_line()) == report
    assert json.loads(Order("finish").to_line())["kind"] == "finish"


@pytest.mark.parametrize("agent", [("--lease", "5")], indirect=True, ids=["five seconds"])
def test_an_agent_with_a_lease_ends_all_when_it_hears_nothing(
    agent: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    order(agent, Order("start", spec=spec_of(tmp_path, GRANDCHILD + "time.sleep(1000)")))
    reports(agent, "line")
    for _ in range(28):  # seven seconds of pings: more than the lease
        order(agent, Order("ping"))
        time.sleep(0.25)
    assert agent.poll() is None
    assert agent.wait(timeout=30) == 0
    wait_for(lambda: is_gone(int((tmp_path / "pids").read_text())), seconds=30)


@pytest.mark.parametrize("agent", [("--lease", "5")], indirect=True, ids=["five seconds"])
def test_an_agent_whose_words_nobody_reads_ends_all_after_its_lease(
    agent: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    flood = "for _ in range(20000): print('x' * 80)\nsys.stdout.flush()\ntime.sleep(1000)"
    order(agent, Order("start", spec=spec_of(tmp_path, GRANDCHILD + flood)))
    pids = tmp_path / "pids"
    while not pids.exists():
        order(agent, Order("ping"))
        time.sleep(0.25)
    assert agent.wait(timeout=60) == 0
    wait_for(lambda: is_gone(int(pids.read_text())))


def test_variables_given_to_an_agent_reach_its_processes(
    agent: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    order(agent, Order("environment", environment={"PLANTED": "value"}))
    order(agent, Order("start", spec=spec_of(tmp_path, "import os; print(os.environ['PLANTED'])")))
    assert reports(agent, "exit")[-1].code == 0
    assert (tmp_path / "log").read_text() == "value\n"
