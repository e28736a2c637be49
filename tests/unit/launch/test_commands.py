"""The whole command on a job that trains nothing: what is shown, what is written, what is handed on."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path

import pytest

from launch.status import read_status
from tests.launch_tree import Tree, make_tree, wait_for


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return make_tree(tmp_path / "tree")


def test_a_run_ends_with_figures_report_and_outcome(tree: Tree) -> None:
    result = tree.run(FAKE_trainer_1="")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0.5000" in result.stdout
    assert "popularity" in result.stdout
    assert str(tree.latest.resolve() / "report.html") in result.stdout
    outcome = json.loads((tree.latest / "outcome.json").read_text())
    assert (outcome["exit_code"], outcome["class"], outcome["first_failed"]) == (0, "done", None)
    assert not tree.processes()
    assert not tree.segments()


def test_a_run_records_plan_command_versions_and_processes(tree: Tree) -> None:
    assert tree.run("run", "--set", "seed=4").returncode == 0
    assert json.loads((tree.latest / "plan.json").read_text())["seed"] == 4
    launch = json.loads((tree.latest / "launch.json").read_text())
    assert launch["command"] == "lmgnn run --set seed=4"
    assert (launch["hosts"], launch["trainers_per_host"]) == (1, 2)
    assert launch["partition"] == str(tree.path / "store" / "1x2")
    assert "torch" in launch["versions"]
    ports = [int(p["env"]["MASTER_PORT"]) for p in launch["processes"] if p["role"] == "trainer"]
    assert ports[0] == ports[1] > 0


def test_only_the_first_trainer_shows_progress_and_a_warning_is_shown_once(tree: Tree) -> None:
    shown = tree.run("run").stdout
    assert "» joint step 1/3 rank 0" in shown
    assert "rank 1" not in shown
    assert shown.count("WARNING one for all") == 1


def test_status_tells_step_and_processes_at_any_moment(tree: Tree) -> None:
    job = tree.start("run", "--run-dir", str(tree.path / "seen"))
    run = tree.path / "seen"
    seen = []
    wait_for((run / "run.json").exists)
    while job.poll() is None:
        seen.append(read_status(run))
        time.sleep(0.01)
    assert job.returncode == 0
    working = [status for status in seen if status["running"] and status["processes"]]
    assert list(dict.fromkeys(status["phase"] for status in working)) == ["prepare", "train", "finish"]
    assert all({"host", "role", "rank"} <= set(row) for status in working for row in status["processes"])
    steps = [status["step"] for status in seen]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (0, 3)
    roles = {phase: set() for phase in ("prepare", "train", "finish")}
    for status in working:
        roles[status["phase"]] |= {row["role"] for row in status["processes"]}
    assert roles["prepare"] == {"partition", "leaks"}
    assert roles["train"] == {"server", "trainer"}
    assert roles["finish"] == {"server", "trainer", "baselines", "report"}


def test_json_is_the_only_thing_on_stdout(tree: Tree) -> None:
    result = tree.run("run", "--json")
    answer = json.loads(result.stdout)
    assert (answer["exit_code"], answer["run"]) == (0, str(tree.latest.resolve()))
    assert "» joint" in result.stderr


@pytest.mark.parametrize("arguments", [("plan",), ("run", "--dry-run")])
def test_a_dry_run_shows_processes_and_cost_and_trains_nothing(
    tree: Tree, arguments: tuple[str, ...]
) -> None:
    result = tree.run(*arguments, "--trainers-per-node", "3")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "4 processes" in result.stdout
    assert '"rows": 12' in result.stdout
    assert not (tree.path / "runs").exists()


def test_a_dry_run_answers_programs(tree: Tree) -> None:
    answer = json.loads(tree.run("plan", "--json").stdout)
    assert len(answer["launch"]["processes"]) == 3
    assert answer["estimate"] == {"rows": 12, "name": "tiny"}


def test_several_servers_of_a_host_get_neighbouring_ports(tree: Tree) -> None:
    assert tree.run("run", "--servers-per-node", "3").returncode == 0
    launch = json.loads((tree.latest / "launch.json").read_text())
    ports = [p["ports"][0] for p in launch["processes"] if p["role"] == "server"]
    assert ports == list(range(ports[0], ports[0] + 3))


@pytest.mark.parametrize("command", ["report", "baselines"])
def test_a_handed_on_command_finds_runs_by_name(tree: Tree, command: str) -> None:
    assert tree.run("run").returncode == 0
    run = tree.latest.resolve()
    for name in ("latest", run.name):
        made = run / ("report.html" if command == "report" else "metrics.json")
        made.unlink()
        result = tree.run(command, name)
        assert result.returncode == 0, result.stderr
        assert made.exists()
    missing = tree.run(command, "none")
    assert (missing.returncode, missing.stderr.count("no run 'none'")) == (2, 1)


def test_a_run_that_was_cut_off_goes_on_with_the_command_that_it_shows(tree: Tree) -> None:
    result = tree.run("run", "--set", "seed=4", FAKE_trainer_1="exit=14", LMGNN_COMMAND_NAME="my/run.sh")
    assert result.returncode == 14
    (shown,) = [line for line in result.stdout.splitlines() if "go on with: " in line]
    name, *arguments = shlex.split(shown.partition("go on with: ")[2])
    assert name == "my/run.sh"
    again = tree.run(*arguments)
    assert again.returncode == 0, again.stdout
    assert "(going on from the beginning)" in again.stdout
    assert "attempt 2: starting 1 graph server(s), going on from the beginning" in again.stdout


def test_a_run_that_goes_on_says_from_where(tree: Tree) -> None:
    assert tree.run("run", FAKE_trainer_1="exit=14").returncode == 14
    run = tree.latest.resolve()
    progress = {"stage": "joint", "step": 12, "finished": False}
    for name, step in (
        ("000070-warm", 70),
        ("000082-joint", 11),
        ("000082-joint~2", 12),
        ("000090-joint", None),
    ):
        marker = run / "checkpoints" / name / "checkpoint.json"
        marker.parent.mkdir(parents=True)
        state = {"state": {"progress": progress | {"step": step}}}
        marker.write_text(json.dumps(state) if step else "torn")
    again = tree.run("run", "--run-dir", "latest", FAKE_trainer_1="exit=14")
    assert f"run {run} (going on from step 12 of stage joint)" in again.stdout
    assert "attempt 2: starting 1 graph server(s), going on from step 12 of stage joint" in again.stdout
    status = json.loads(tree.run("status", "--json").stdout)
    assert status["start"] == progress


def test_commands_of_the_other_packages_are_handed_on_with_their_exit_code(tree: Tree) -> None:
    folder = str(tree.path / "made")
    (tree.path / "made").mkdir()
    assert tree.run("report", folder).returncode == 0
    assert (tree.path / "made" / "report.html").exists()
    arguments = ("--hosts=1", "--trainers=1", "--store=s", "--method=m")
    arguments += ("--cluster-size=5", "--seed=0", "--tokenizer=t")
    result = tree.run("partition", "build", "graph", *arguments, FAKE_PARTITION_EXIT="3")
    assert result.returncode == 3
