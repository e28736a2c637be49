"""Paths, run folders, outcomes and the command line."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from launch import runs, status
from launch.__main__ import main
from launch.cluster import local_cluster
from launch.outcome import FirstFailed, Outcome, exit_code_of, shell_code
from launch.reading import reading_of
from launch.steps import last_json, partition_arguments
from partition.errors import LockedError, UsageError
from pipeline.config import TrainPlan, load_plan

ROOT = Path(__file__).parents[3]
PLAN = ROOT / "tests" / "data" / "fake_job" / "plan.toml"


@pytest.fixture
def plan() -> TrainPlan:
    return load_plan(PLAN)


def test_paths_of_a_plan_are_found_beside_it_first_then_at_home(tmp_path: Path, plan: TrainPlan) -> None:
    beside, home = tmp_path / "plans", tmp_path / "home"
    (beside / "graph").mkdir(parents=True)
    home.mkdir()
    found = runs.resolve_plan(plan, beside, home)
    assert found.graph.path == str(beside / "graph")
    assert found.partition.store == str(home / "store")
    (beside / "graph").rmdir()
    assert runs.resolve_plan(plan, beside, home).graph.path == str(home / "graph")


@pytest.mark.parametrize("path", ["s3://bucket/graph", "/data/graph", "memory://graph"])
def test_urls_and_absolute_paths_stay(tmp_path: Path, plan: TrainPlan, path: str) -> None:
    asked = replace(plan, graph=replace(plan.graph, path=path))
    assert runs.resolve_plan(asked, tmp_path, tmp_path).graph.path == path


def test_a_hub_name_of_a_model_stays_a_name(tmp_path: Path, plan: TrainPlan) -> None:
    asked = replace(plan, model=replace(plan.model, lm="org/encoder"))
    assert runs.resolve_plan(asked, tmp_path, tmp_path).model.lm == "org/encoder"
    (tmp_path / "org" / "encoder").mkdir(parents=True)
    assert runs.resolve_plan(asked, tmp_path, tmp_path).model.lm == str(tmp_path / "org" / "encoder")


def test_a_missing_builder_is_named(tmp_path: Path, plan: TrainPlan) -> None:
    asked = replace(plan, graph=replace(plan.graph, builder="build.py"))
    with pytest.raises(UsageError, match=r"graph\.builder.*build\.py"):
        runs.resolve_plan(asked, tmp_path, tmp_path)


def test_paths_on_the_command_line_are_the_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = runs.absolute_overrides(["graph.path=mine", "seed=3", "graph.path=s3://b/g", "model.lm=hub/name"])
    assert asked == [f'graph.path="{tmp_path}/mine"', "seed=3", "graph.path=s3://b/g", "model.lm=hub/name"]
    assert load_plan(PLAN, asked[:1]).graph.path == str(tmp_path / "mine")


def test_an_empty_path_on_the_command_line_stays_empty() -> None:
    assert runs.absolute_overrides(["graph.builder="]) == ["graph.builder="]


def test_a_store_is_a_folder_or_a_file_url(tmp_path: Path, plan: TrainPlan) -> None:
    for store, folder in (("s", tmp_path / "s"), ("file:///s/t", Path("/s/t")), ("~/s", Path.home() / "s")):
        asked = replace(plan, partition=replace(plan.partition, store=store))
        assert runs.resolve_plan(asked, tmp_path, tmp_path).partition.store == str(folder)


def test_a_store_at_a_url_stays_one(tmp_path: Path, plan: TrainPlan) -> None:
    asked = replace(plan, partition=replace(plan.partition, store="s3://bucket/store/"))
    assert runs.resolve_plan(asked, tmp_path, tmp_path).partition.store == "s3://bucket/store"


def test_a_store_with_a_password_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "home", lambda: tmp_path)
    asked = ["run", "--config", str(PLAN), "--set", "partition.store=s3://me:hunter2@bucket/store"]
    assert main(asked) == 2
    error = capsys.readouterr().err
    assert "partition.store holds a name or password" in error
    assert "hunter2" not in error
    assert not list(tmp_path.iterdir())


def test_a_partition_elsewhere_is_refused_with_the_command_that_brings_it() -> None:
    with pytest.raises(UsageError, match="lmgnn partition pull"):
        runs.partition_folder("s3://bucket/store/0123")


def test_a_builder_with_a_graph_elsewhere_is_refused(tmp_path: Path, plan: TrainPlan) -> None:
    (tmp_path / "build.py").touch()
    asked = replace(plan, graph=replace(plan.graph, path="s3://bucket/g", builder="build.py"))
    with pytest.raises(UsageError, match=r"graph\.path = 's3://bucket/g'"):
        runs.resolve_plan(asked, tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("typed", "again"),
    [
        ("lmgnn run", "lmgnn run --run-dir /r"),
        ("launch/run.sh run --config a.toml --json", "launch/run.sh run --config a.toml --json --run-dir /r"),
        ("lmgnn run --run-dir latest --set seed=1", "lmgnn run --set seed=1 --run-dir /r"),
        ("lmgnn run --run-dir=x --resume never --nodes 2", "lmgnn run --nodes 2 --run-dir /r"),
        ("'my tools/run.sh' run --resume=never", "'my tools/run.sh' run --run-dir /r"),
    ],
)
def test_the_command_to_go_on_is_the_typed_one_with_the_runs_folder(typed: str, again: str) -> None:
    assert runs.command_to_go_on(typed, Path("/r")) == again


def test_a_run_is_taken_up_by_name_and_a_new_folder_is_the_callers(
    tmp_path: Path, plan: TrainPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "home", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    made = runs.create(plan, path=None, name="n", command="", versions={})
    assert runs.run_dir(made.path.name) == runs.run_dir("latest") == made.path
    assert runs.run_dir("fresh") == tmp_path / "fresh"


def test_latest_without_a_run_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "home", lambda: tmp_path)
    with pytest.raises(UsageError, match="no run 'latest'"):
        runs.run_dir("latest")


def test_a_run_folder_is_made_once_and_held_by_one(tmp_path: Path, plan: TrainPlan) -> None:
    folder = runs.create(plan, path=tmp_path / "run", name="", command="lmgnn run", versions={})
    assert TrainPlan.from_json((folder.path / "plan.json").read_text()) == plan
    assert runs.is_alive(folder.path)
    with pytest.raises(LockedError, match="in use"):
        runs.reopen(folder.path, plan, hosts=1, trainers_per_host=2)
    folder.lock.close()
    assert not runs.is_alive(folder.path)
    again = runs.reopen(folder.path, plan, hosts=1, trainers_per_host=2)
    assert again.run_id == folder.run_id
    again.lock.close()


def test_a_run_of_another_host_is_not_stopped_from_here(tmp_path: Path, plan: TrainPlan) -> None:
    folder = runs.create(plan, path=tmp_path / "run", name="", command="lmgnn run", versions={})
    assert runs.supervisor_of(folder.path) == (os.getpid(), socket.gethostname())
    (folder.path / ".lock").write_text(f"{2**22 + 1} elsewhere")  # no process has such a number
    with pytest.raises(UsageError, match=f"process {2**22 + 1} on elsewhere .*stop"):
        status.stop(folder.path, now=False)
    with pytest.raises(LockedError, match=f"process {2**22 + 1} on elsewhere"):
        runs.reopen(folder.path, plan, hosts=1, trainers_per_host=2)
    folder.lock.close()


def test_latest_is_the_newest_run(tmp_path: Path, plan: TrainPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "home", lambda: tmp_path)
    made = [runs.create(plan, path=None, name="n", command="", versions={}) for _ in range(3)]
    assert len({f.path for f in made}) == 3
    assert runs.find("latest") == made[-1].path
    assert runs.find(made[0].path.name) == made[0].path
    with pytest.raises(UsageError, match="no run 'other'"):
        runs.find("other")


def test_the_partition_command_carries_every_choice_of_the_plan(plan: TrainPlan) -> None:
    asked = replace(
        plan,
        graph=replace(plan.graph, relations=("uses", "imports")),
        partition=replace(
            plan.partition,
            keep_eval_edges=True,
            reverse=False,
            seed=5,
            store="/s",
            memory="4GiB",
            even=True,
            bad_rows="quarantine",
            bad_rows_cap=0.25,
        ),
    )
    cluster = local_cluster(nodes=2, trainers_per_host=3, servers_per_host=1)
    line = " ".join(partition_arguments(asked, cluster))
    for part in (
        "--hosts 2 --trainers 3",
        "--method auto --cluster-size 500 --seed 5 --memory 4GiB --even",
        "--keep-eval-edges --bad-rows quarantine --bad-rows-cap 0.25 --no-reverse",
        "--relations uses --relations imports",
        f"--tokenizer {plan.model.lm} --trainable --max-length 64",
        "--store /s",
    ):
        assert part in line


def test_the_result_of_a_step_is_the_json_of_its_last_line() -> None:
    assert last_json('noise\n{"path": "/p"}\n') == {"path": "/p"}
    assert last_json("") == last_json("words\n") == last_json("3\n") == {}


@pytest.mark.parametrize(
    ("returncode", "job", "shell", "words"),
    [
        (2, 2, 2, "usage"),
        (14, 14, 14, "disk full"),
        (5, 10, 5, "exit code 5"),
        (1, 10, 1, "exit code 1"),
        (-9, 10, 137, "SIGKILL.*memory"),
        (-7, 10, 135, "SIGBUS.*/dev/shm"),
        (-11, 10, 139, "SIGSEGV.*crash"),
        (-15, 10, 143, "SIGTERM"),
    ],
)
def test_return_codes_have_a_class_a_shell_code_and_words(
    returncode: int, job: int, shell: int, words: str
) -> None:
    assert exit_code_of(returncode) == job
    assert shell_code(returncode) == shell
    assert re.search(words, reading_of(returncode))


@pytest.mark.parametrize(
    ("returncode", "tail", "kernel", "words"),
    [
        (-9, "", True, "SIGKILL: killed by the kernel because memory ran out; it held 3.0 GiB"),
        (-9, "", None, "SIGKILL: killed, most likely because memory ran out; it held 3.0 GiB"),
        (-9, "", False, "SIGKILL: killed by someone or by a batch system; the kernel knows of no lack"),
        (-6, "after throwing 'std::bad_alloc'", False, "SIGABRT: memory ran out; it held 3.0"),
        (1, "RuntimeError: [enforce fail] can't allocate memory: you tried", False, "code 1: memory ran out"),
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried", False, "exit code 1: memory ran out"),
        (1, "numpy._core._exceptions._ArrayMemoryError: Unable", False, "exit code 1: memory ran out"),
        (-11, "MemoryErrors are no matter here", False, "SIGSEGV: crashed"),
    ],
)
def test_a_lack_of_memory_is_told_with_what_the_process_held(
    returncode: int, tail: str, kernel: bool | None, words: str
) -> None:
    told = reading_of(returncode, tail=tail, peak_bytes=3 << 30, kernel_out_of_memory=kernel)
    assert words in told


def test_an_outcome_is_written_whole(tmp_path: Path) -> None:
    failed = FirstFailed("node-1", "trainer", 3, 137, "SIGKILL", "/log", "tail")
    Outcome(10, "trainer 3 @ node-1 failed", failed, 12.5, 100, 1).write(tmp_path)
    found = json.loads((tmp_path / "outcome.json").read_text())
    assert found["class"] == "worker failed"
    assert found["first_failed"]["host"] == "node-1"
    assert [p.name for p in tmp_path.iterdir()] == ["outcome.json"]


def test_an_unknown_command_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "partition" in capsys.readouterr().err


def test_a_missing_plan_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--config", str(tmp_path / "none.toml")]) == 2
    assert "no such plan" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "0s", "fast", "5d"])
def test_a_hang_limit_is_a_positive_time(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--hang-timeout", text])
    assert "expected a time" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "plan", "status", "stop"])
def test_help_has_an_example_and_the_defaults(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main([command, "--help"])
    assert leaving.value.code == 0
    assert f"example: lmgnn {command}" in capsys.readouterr().out


def test_importing_the_command_takes_no_training_library_and_no_time() -> None:
    script = (
        "import sys, time; start = time.process_time(); import launch.__main__; "
        "print(time.process_time() - start, *{m.split('.')[0] for m in sys.modules})"
    )
    times = []
    for _ in range(5):
        result = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
        )
        seconds, *modules = result.stdout.split()
        times.append(float(seconds))
        assert not {"torch", "dgl", "transformers", "deepspeed", "numpy", "pyarrow"} & set(modules)
    assert min(times) < 0.15
