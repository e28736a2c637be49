"""What the launcher does when something dies, hangs or is stopped. Real processes, no training."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.launch_tree import Tree, make_tree, wait_for


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return make_tree(tmp_path / "tree")


def outcome(tree: Tree) -> dict[str, object]:
    return json.loads((tree.latest / "outcome.json").read_text())


def nothing_left(tree: Tree) -> bool:
    return not tree.processes() and not tree.segments()


def start_training(tree: Tree, *arguments: str, trainers: int = 2, **fakes: str) -> subprocess.Popen[str]:
    """A job in the middle of its training."""
    job = tree.start("run", *arguments, FAKE_FOREVER="1", **fakes)
    wait_for(lambda: len(list(tree.latest.glob("live/a1/trainer-*.json"))) == trainers)
    return job


@pytest.mark.parametrize(
    ("wish", "exit_code", "reading"),
    [
        ("exit=2", 2, "usage"),
        ("exit=3", 3, "data"),
        ("exit=12", 12, "preflight"),
        ("exit=13", 13, "store"),
        ("exit=14", 14, "disk full"),
        ("exit=1", 10, "exit code 1"),
        ("exit=77", 10, "exit code 77"),
        ("signal=9", 10, "memory"),
        ("signal=7", 10, "/dev/shm"),
        ("signal=11", 10, "crash"),
    ],
)
def test_the_first_failure_decides_the_exit_code(tree: Tree, wish: str, exit_code: int, reading: str) -> None:
    started = time.monotonic()
    result = tree.run("run", FAKE_FOREVER="1", FAKE_trainer_1=wish)
    assert result.returncode == exit_code
    found = outcome(tree)
    first = found["first_failed"]
    assert found["exit_code"] == exit_code
    assert isinstance(first, dict)
    assert (first["host"], first["role"], first["rank"]) == ("node-0", "trainer", 1)
    kind, _, number = wish.partition("=")
    assert first["returncode"] == (128 if kind == "signal" else 0) + int(number)
    assert reading in first["reading"]
    assert f"about to {wish}" in result.stdout
    assert time.monotonic() - started < 15
    assert nothing_left(tree)


def test_a_dead_server_ends_the_job(tree: Tree) -> None:
    result = tree.run("run", FAKE_FOREVER="1", FAKE_server_0="signal=9")
    assert result.returncode == 10
    assert outcome(tree)["first_failed"]["role"] == "server"  # type: ignore[index]
    assert nothing_left(tree)


def test_a_failed_step_passes_its_class_on(tree: Tree) -> None:
    result = tree.run("run", FAKE_PARTITION_EXIT="3")
    assert result.returncode == 3
    assert result.stderr == "error: nodes/paper.parquet: row 7 has no id\n"
    assert "error" not in result.stdout
    assert outcome(tree)["class"] == "data"


def test_kill_9_of_the_supervisor_leaves_no_process_and_no_segment(tree: Tree) -> None:
    job = start_training(tree)
    assert tree.segments()
    job.kill()
    job.wait()
    wait_for(lambda: nothing_left(tree), seconds=10)


def test_kill_9_of_an_agent_ends_its_processes_and_the_job(tree: Tree) -> None:
    job = start_training(tree)
    children = subprocess.run(["pgrep", "-P", str(job.pid)], capture_output=True, text=True, check=True)
    (agent,) = children.stdout.split()
    os.kill(int(agent), signal.SIGKILL)
    assert job.wait(timeout=20) == 10
    assert "host node-0 is lost" in (tree.path / "lmgnn.log").read_text()
    wait_for(lambda: not tree.processes(), seconds=5)
    leftover = tree.segments()
    assert leftover
    assert tree.run("run").returncode == 0  # the next start sweeps what the dead run left
    assert not set(leftover) & set(os.listdir("/dev/shm"))


def test_ctrl_c_lets_trainers_save_and_leaves_nothing(tree: Tree) -> None:
    job = start_training(tree)
    job.send_signal(signal.SIGINT)
    assert job.wait(timeout=30) == 130
    assert {p.name for p in tree.latest.glob("saved-*")} == {"saved-0", "saved-1"}
    assert outcome(tree)["class"] == "interrupted"
    assert nothing_left(tree)


def test_a_second_ctrl_c_does_not_wait_for_the_checkpoint(tree: Tree) -> None:
    job = start_training(tree, FAKE_SLOW_SAVE="1")
    job.send_signal(signal.SIGINT)
    wait_for(lambda: "stopping" in (tree.path / "lmgnn.log").read_text())
    assert job.poll() is None
    job.send_signal(signal.SIGINT)
    assert job.wait(timeout=10) == 130
    assert not list(tree.latest.glob("saved-*"))
    assert nothing_left(tree)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_terminated_run_saves_and_ends_with_143(tree: Tree, number: signal.Signals) -> None:
    job = start_training(tree)
    job.send_signal(number)
    assert job.wait(timeout=30) == 143
    assert (tree.latest / "saved-0").exists()
    assert nothing_left(tree)


def test_ctrl_c_while_servers_load_ends_at_once(tree: Tree) -> None:
    job = tree.start("run", FAKE_server_0="hang")
    wait_for(lambda: list(tree.latest.glob("facts-0.json")))
    job.send_signal(signal.SIGINT)
    assert job.wait(timeout=15) == 130
    assert nothing_left(tree)


def test_a_hang_is_noticed_and_leaves_every_stack_in_the_logs(tree: Tree) -> None:
    result = tree.run("run", "--hang-timeout", "2s", FAKE_FOREVER="1", FAKE_trainer_1="hang")
    assert result.returncode == 11
    assert outcome(tree)["first_failed"]["rank"] == 1  # type: ignore[index]
    for name in ("trainer-0", "trainer-1", "server-0"):
        assert "most recent call first" in (tree.latest / "logs" / "a1" / f"node-0-{name}.log").read_text()
    assert nothing_left(tree)


def test_a_stopped_process_counts_as_a_hang(tree: Tree) -> None:
    job = start_training(tree, "--hang-timeout", "2s")
    state = json.loads((tree.latest / "state.json").read_text())
    pid = next(row["pid"] for row in state["processes"] if row["name"] == "trainer-0")
    os.kill(pid, signal.SIGSTOP)
    assert job.wait(timeout=20) == 11
    assert nothing_left(tree)


def test_a_stopped_server_is_the_hang_of_the_trainers_that_wait_for_it(tree: Tree) -> None:
    job = start_training(tree, "--hang-timeout", "4s", FAKE_ASK_SERVERS="1")
    state = json.loads((tree.latest / "state.json").read_text())
    os.kill(next(row["pid"] for row in state["processes"] if row["name"] == "server-0"), signal.SIGSTOP)
    stopped = time.monotonic()
    assert job.wait(timeout=30) == 11
    assert time.monotonic() - stopped < 4 + 10
    first = outcome(tree)["first_failed"]
    assert isinstance(first, dict)
    assert (first["role"], first["rank"]) == ("server", 0)
    assert "stopped by a signal" in first["reading"]
    for name in ("trainer-0", "trainer-1", "server-0"):
        assert "most recent call first" in (tree.latest / "logs" / "a1" / f"node-0-{name}.log").read_text()
    assert nothing_left(tree)


def test_servers_that_never_listen_are_a_hang(tree: Tree) -> None:
    result = tree.run("run", "--hang-timeout", "2s", FAKE_server_0="hang")
    assert result.returncode == 11
    assert "server-0" in result.stdout


def test_a_restart_takes_new_processes_and_resumes(tree: Tree) -> None:
    result = tree.run("run", "--max-restarts", "1", FAKE_trainer_0="signal=9", FAKE_ONLY_FIRST="1")
    assert result.returncode == 0, result.stdout
    assert outcome(tree)["restarts"] == 1
    assert (tree.latest / "resume-2-0").read_text() == "auto"
    assert (tree.latest / "logs" / "a2" / "node-0-server-0.log").exists()
    assert nothing_left(tree)


def test_the_restart_budget_is_kept(tree: Tree) -> None:
    result = tree.run("run", "--max-restarts", "2", FAKE_trainer_0="exit=1")
    assert result.returncode == 10
    assert outcome(tree)["restarts"] == 2
    assert len(list((tree.latest / "logs").glob("a*"))) == 3


def test_a_data_error_is_never_tried_again(tree: Tree) -> None:
    assert tree.run("run", "--max-restarts", "2", FAKE_trainer_0="exit=3").returncode == 3
    assert outcome(tree)["restarts"] == 0


def test_a_port_that_was_taken_is_tried_once_more_without_budget(tree: Tree) -> None:
    result = tree.run("run", FAKE_server_0="port", FAKE_ONLY_FIRST="1")
    assert result.returncode == 0, result.stdout
    assert outcome(tree)["restarts"] == 0


def test_two_jobs_at_once_do_not_meet(tree: Tree) -> None:
    first = start_training(tree)
    second = tree.run("run", "--run-dir", "other")
    assert second.returncode == 0, second.stdout
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=30) == 143


def test_stop_now_does_not_wait_for_the_checkpoint(tree: Tree) -> None:
    job = start_training(tree, FAKE_SLOW_SAVE="1")
    assert tree.run("stop", "latest", "--now").returncode == 0
    assert job.wait(timeout=30) == 143
    assert not list(tree.latest.glob("saved-*"))
    assert nothing_left(tree)


def test_stop_ends_a_run_and_status_says_so(tree: Tree) -> None:
    job = start_training(tree)
    running = json.loads(tree.run("status", "--json").stdout)
    assert running["running"]
    assert {p["name"]: p["alive"] for p in running["processes"]} == {
        "server-0": True,
        "trainer-0": True,
        "trainer-1": True,
    }
    assert tree.run("stop", "latest").returncode == 0
    assert job.wait(timeout=5) == 143
    after = json.loads(tree.run("status", "--json").stdout)
    assert not after["running"]
    assert after["outcome"]["class"] == "terminated"
    assert "terminated" in tree.run("status").stdout


def test_a_run_folder_belongs_to_one_supervisor(tree: Tree) -> None:
    job = start_training(tree)
    second = tree.run("run", "--run-dir", "latest")
    assert second.returncode == 5
    assert str(job.pid) in second.stderr
    job.send_signal(signal.SIGTERM)
    job.wait(timeout=30)


def test_an_ended_run_goes_on_in_its_folder(tree: Tree) -> None:
    assert tree.run("run", FAKE_trainer_0="exit=1").returncode == 10
    folder = tree.latest.resolve()
    again = tree.run("run", "--run-dir", "latest")
    assert again.returncode == 0, again.stdout
    assert tree.latest.resolve() == folder
    assert (folder / "resume-2-0").read_text() == "auto"
    assert (folder / "logs" / "a1").is_dir()


def test_another_plan_does_not_go_on_in_a_run_folder(tree: Tree) -> None:
    assert tree.run("run").returncode == 0
    other = tree.run("run", "--run-dir", "latest", "--set", "seed=7")
    assert other.returncode == 2
    assert "another plan" in other.stderr
