"""Stages that start from another run: its folder is found before anything starts, and stays so later."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from launch import runs
from launch.__main__ import main
from launch.starts import kept_plan, resolve_starts
from partition.errors import UsageError
from pipeline.config import TrainPlan, load_plan

PLAN = Path(__file__).parents[3] / "tests" / "data" / "fake_job" / "plan.toml"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a run `old`, which `latest` leads to."""
    (tmp_path / "home/runs/old/stages/warm/000001-best").mkdir(parents=True)
    (tmp_path / "home/runs/latest").symlink_to("old")
    monkeypatch.setattr(runs, "home", lambda: tmp_path / "home")
    return tmp_path / "home"


def starting(start: str) -> TrainPlan:
    plan = load_plan(PLAN)
    return replace(plan, stages=(replace(plan.stages[0], start=start), *plan.stages[1:]))


def resolved(start: str, home: Path, kept: TrainPlan | None = None) -> str:
    return resolve_starts(starting(start), home.parent / "plans", home, kept).stages[0].start


@pytest.mark.parametrize("start", ["runs/old:warm", "runs/latest:warm", "latest:warm", "old:warm"])
def test_a_run_is_found_in_the_home_folder_by_path_and_name(start: str, home: Path) -> None:
    assert resolved(start, home) == f"{home}/runs/old:warm"


def test_a_run_beside_the_plan_comes_first_and_an_absolute_one_stays(home: Path) -> None:
    (home.parent / "plans/runs/old/stages/warm").mkdir(parents=True)
    assert resolved("runs/old:warm", home) == f"{home.parent}/plans/runs/old:warm"
    assert resolved(f"{home}/runs/old:warm", home) == f"{home}/runs/old:warm"


def test_stages_of_the_run_itself_stay_names(home: Path) -> None:
    plan = load_plan(PLAN)
    second = replace(plan.stages[0], name="again", start="joint")
    plan = replace(plan, stages=(*plan.stages, second))
    assert resolve_starts(plan, home, home) == plan


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ("runs/none:warm", r"\.start = 'runs/none:warm': there is no run 'runs/none' \(looked in .*home"),
        ("runs/latest:worm", r"home/runs/latest has no model of a stage 'worm'; did you mean 'warm'\?"),
        ("s3://bucket/run:warm", "there is no run 's3://bucket/run'"),
    ],
)  # fmt: skip
def test_a_run_or_stage_that_is_not_there_is_named_before_anything_is_made(
    start: str, said: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=said):
        resolved(start, home)
    stage = load_plan(PLAN).stages[0].name
    before = sorted((home / "runs").iterdir())
    assert main(["run", "--config", str(PLAN), "--set", f"stages.{stage}.start={start}"]) == 2
    assert f"stages.{stage}.start" in capsys.readouterr().err
    assert sorted((home / "runs").iterdir()) == before


def test_a_run_that_is_taken_up_keeps_the_run_that_a_link_led_to(home: Path) -> None:
    began = resolve_starts(starting("runs/latest:warm"), home, home)
    new = runs.create(began, path=home / "runs/new", name="", command="", versions={})
    (new.path / "stages/warm").mkdir(parents=True)
    new.lock.close()
    assert (home / "runs/latest").resolve() == new.path
    kept = kept_plan(new.path)
    again = resolve_starts(starting("runs/latest:warm"), home, home, kept)
    assert again.stages[0].start == f"{home}/runs/old:warm"
    runs.reopen(new.path, again, hosts=1, trainers_per_host=1).lock.close()
    other = resolve_starts(starting("runs/new:warm"), home, home, kept)
    with pytest.raises(UsageError, match="belongs to another plan"):
        runs.reopen(new.path, other, hosts=1, trainers_per_host=1)


def test_a_run_that_is_taken_up_needs_no_run_that_is_gone(home: Path) -> None:
    kept = resolve_starts(starting("runs/old:warm"), home, home)
    (home / "runs/old").rename(home / "archived")
    assert resolved("runs/old:warm", home, kept) == f"{home}/runs/old:warm"


def test_a_run_on_the_command_line_is_the_callers(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    asked = ["stages.warm.start=runs/old:warm", "stages.warm.start=graph_lm", "stages.warm.start=latest:warm"]
    first, *others = runs.absolute_overrides(asked)
    assert first == f'stages.warm.start="{home}/runs/old:warm"'
    assert others == asked[1:]


def test_a_job_of_slurm_is_told_where_latest_led_to_when_it_was_submitted(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = load_plan(PLAN).stages[0].name
    asked = ["--config", str(PLAN), "--set", f"stages.{stage}.start=runs/latest:warm"]
    assert main(["submit", "--dry-run", *asked]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if f"stages.{stage}.start" in line]
    words = shlex.split(line)
    assert [word for word in words if ".start=" in word][-1] == f'stages.{stage}.start="{home}/runs/old:warm"'


def test_a_job_of_slurm_may_start_from_a_run_that_is_to_come(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = load_plan(PLAN).stages[0].name
    asked = ["--config", str(PLAN), "--set", f"stages.{stage}.start=runs/to-come:warm"]
    assert main(["submit", "--dry-run", *asked]) == 0
    assert "runs/to-come:warm" in capsys.readouterr().out


def test_a_run_that_is_taken_up_does_not_take_another_for_a_wrong_name(home: Path) -> None:
    kept = resolve_starts(starting("runs/old:warm"), home, home)
    with pytest.raises(UsageError, match="there is no run 'runs/odl'"):
        resolved("runs/odl:warm", home, kept)


def test_a_home_folder_behind_a_link_changes_nothing(home: Path, tmp_path: Path) -> None:
    kept = resolve_starts(starting("runs/old:warm"), home, home)
    (home / "runs/new/stages/warm").mkdir(parents=True)
    (tmp_path / "linked").symlink_to(home)
    assert resolved("runs/new:warm", tmp_path / "linked", kept) == f"{home}/runs/new:warm"
