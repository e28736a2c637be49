"""The run record: what is written can be read back, by people and by machines."""

from __future__ import annotations

import io
import json
import math
import os
import re
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from partition.errors import DiskFullError, StoreError
from pipeline import events
from pipeline.events import PROGRESS_MARK, RunRecord, clock, events_path, read_events
from pipeline.lm_work import LMWork


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(events.time, "monotonic", lambda: self.now)


def record(folder: Path, **options: Any) -> RunRecord:
    defaults: dict[str, Any] = {"run": "r", "attempt": 0, "rank": 0, "heartbeat": None}
    return RunRecord(folder, **{**defaults, "console": io.StringIO(), **options})


def test_every_line_says_which_run_attempt_rank_stage_and_step(tmp_path: Path) -> None:
    with record(tmp_path, attempt=2, rank=1) as run:
        run.event("run_start", world=4)
        run.stage("joint", kind="joint", steps=9, targets=100)
        run.step(3, loss=0.5)
    start, stage, step = read_events(tmp_path, rank=1)
    common = {"v": 1, "run": "r", "attempt": 2, "rank": 1}
    assert start.items() >= {**common, "event": "run_start", "stage": "", "step": 0, "world": 4}.items()
    fields = {
        "event": "stage_start",
        "stage": "joint",
        "step": 0,
        "kind": "joint",
        "steps": 9,
        "targets": 100,
    }
    assert stage.items() >= {**common, **fields}.items()
    assert step.items() >= {**common, "event": "step", "stage": "joint", "step": 3, "loss": 0.5}.items()
    assert start["time"] <= stage["time"] <= step["time"]


def test_each_line_can_be_read_before_the_record_is_closed(tmp_path: Path) -> None:
    with record(tmp_path, rank=1) as run:
        run.event("run_end")
        assert [event["event"] for event in read_events(tmp_path, 1)] == ["run_end"]


def test_ranks_write_files_of_their_own(tmp_path: Path) -> None:
    for rank in (0, 1):
        with record(tmp_path, rank=rank) as run:
            run.event("run_end")
    assert sorted(p.name for p in tmp_path.glob("*.jsonl")) == ["events-1.jsonl", "events.jsonl"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks_come_back_through_float(tmp_path: Path, value: float) -> None:
    with record(tmp_path, rank=1) as run:
        run.event("eval", value=value, nested={"list": [value]})

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    json.loads(events_path(tmp_path, 1).read_text(), parse_constant=refuse)
    read = read_events(tmp_path, 1)[0]
    for stored in (read["value"], read["nested"]["list"][0]):
        assert np.array_equal(float(stored), value, equal_nan=True)


def test_numbers_of_numpy_and_torch_are_written_as_numbers(tmp_path: Path) -> None:
    with record(tmp_path, rank=1) as run:
        run.step(1, loss=torch.tensor(0.5), targets=np.int64(7), nodes=np.float32(2))  # type: ignore[arg-type]
    step = read_events(tmp_path, 1)[0]
    assert (step["loss"], step["targets"], step["nodes"]) == (0.5, 7, 2.0)


def test_a_field_that_would_hide_a_common_one_is_refused(tmp_path: Path) -> None:
    with record(tmp_path, rank=1) as run, pytest.raises(ValueError, match="time"):
        run.event("eval", time=3)


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_torn_last_line_is_left_out(tmp_path: Path, cut: int) -> None:
    with record(tmp_path, rank=1) as run:
        run.event("run_start", host="a" * 50)
        run.event("run_end")
    path = events_path(tmp_path, 1)
    os.truncate(path, path.stat().st_size - cut)
    read = [event["event"] for event in read_events(tmp_path, 1)]
    assert read == (["run_start", "run_end"] if cut == 1 else ["run_start"])


def test_damage_in_the_middle_is_an_error_that_names_the_line(tmp_path: Path) -> None:
    with record(tmp_path, rank=1) as run:
        run.event("run_start")
        run.event("run_end")
    path = events_path(tmp_path, 1)
    path.write_bytes(path.read_bytes().replace(b'"run_start"', b'"run_sta', 1))
    with pytest.raises(StoreError, match="line 1"):
        read_events(tmp_path, 1)


def test_a_later_attempt_continues_after_the_torn_line_of_a_killed_one(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from pipeline.events import RunRecord\n"
        "run = RunRecord(Path(sys.argv[1]), run='r', attempt=0, rank=1, heartbeat=None)\n"
        "run.event('run_start')\n"
        "run._file.write(b'{\"half\": ')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=environment)
    assert done.returncode == -signal.SIGKILL
    with record(tmp_path, rank=1, attempt=1) as run:
        run.event("run_end")
    assert [(e["event"], e["attempt"]) for e in read_events(tmp_path, 1)] == [
        ("run_start", 0),
        ("run_end", 1),
    ]


def test_a_run_without_events_reads_as_empty(tmp_path: Path) -> None:
    assert read_events(tmp_path) == []


def test_tensorboard_holds_the_scalars_of_steps_and_evaluations(tmp_path: Path) -> None:
    with record(tmp_path) as run:
        run.stage("warm", kind="gnn_warm", steps=2, targets=10)
        run.step(1, loss=0.75, targets=5)
        run.step(2, loss=0.25, targets=5)
        run.event("eval", split="valid", metric="mrr", value=0.5, seconds=1.0, best=True)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(e.step, e.value) for e in board.Scalars("warm/loss")] == [(1, 0.75), (2, 0.25)]
    assert [(e.step, e.value) for e in board.Scalars("warm/valid_mrr")] == [(2, 0.5)]


def test_only_rank_0_writes_tensorboard_and_progress(tmp_path: Path) -> None:
    console = io.StringIO()
    with record(tmp_path, rank=1, console=console) as run:
        run.stage("s", kind="mlm", steps=1, targets=1)
        run.step(1, loss=1.0)
    assert console.getvalue() == ""
    assert not (tmp_path / "tensorboard").exists()


def test_the_heartbeat_is_rewritten_once_a_second_or_when_the_phase_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monotonic = Clock(monkeypatch)
    beat = tmp_path / "beat.json"

    def written() -> tuple[str, str, int]:
        content = json.loads(beat.read_text())
        assert content["time"] > 1e9
        return content["phase"], content["stage"], content["step"]

    with record(tmp_path, rank=1, heartbeat=beat) as run:
        run.heartbeat("load")
        assert written() == ("load", "", 0)
        run.stage("s", kind="mlm", steps=9, targets=1)
        run.step(1)
        assert written() == ("train", "s", 1)
        monotonic.now += 0.5
        run.step(2)
        assert written() == ("train", "s", 1)
        monotonic.now += 0.6
        run.step(3)
        assert written() == ("train", "s", 3)
        run.heartbeat("save")
        assert written() == ("save", "s", 3)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_progress_is_one_line_at_the_start_every_two_seconds_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monotonic = Clock(monkeypatch)
    console = io.StringIO()
    with record(tmp_path, console=console) as run:
        run.stage("joint", kind="joint", steps=100, targets=1)
        for step in range(1, 101):
            monotonic.now += 0.1
            run.step(step, loss=1.0)
    lines = console.getvalue().splitlines()
    assert all(line.startswith(PROGRESS_MARK) for line in lines)
    shown = [int(re.search(r"joint (\d+)/100", line)[1]) for line in lines]  # type: ignore[index]
    assert shown[0] == 1
    assert shown[-1] == 100
    assert {b - a for a, b in pairwise(shown[:-1])} <= {20, 21}


def test_the_progress_line_gives_pace_rates_and_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monotonic = Clock(monkeypatch)
    console = io.StringIO()
    work = LMWork(tokens_trained=1000, tokens_forward=1000, padding_trained=150, padding_forward=50)
    with record(tmp_path, console=console, world=4) as run:
        run.stage("joint", kind="joint", steps=400, targets=1)
        monotonic.now += 30  # the first step warms up
        run.step(1, loss=2.0, rate=1e-3, lm_rate=2e-5, targets=50, **work.scalars())
        for step in range(2, 102):
            monotonic.now += 0.5
            run.step(step, loss=0.12345, rate=1e-3, lm_rate=2e-5, targets=50, **work.scalars())
    last = console.getvalue().splitlines()[-1]
    for part in (
        "joint 101/400 25%",
        "loss 0.1235",
        "lr 1.0e-03/2.0e-05",
        "500 ms/step",
        "100 targets/s ×4",
        "8.0k LM tokens/s ×4 · 10% padding",
        "1:20 elapsed",
        "ETA 2:30",  # 299 steps of half a second
    ):
        assert part in last


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599, "59:59"), (36061, "10:01:01")]
)
def test_durations_read_as_clocks(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is not on this system")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    events_path(tmp_path, 1).symlink_to("/dev/full")
    run = record(tmp_path, rank=1)
    with pytest.raises(DiskFullError, match=r"events-1\.jsonl"):
        run.event("run_start")


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    run = record(tmp_path)
    run.event("run_end")
    run.close()
    run.close()
    assert [event["event"] for event in read_events(tmp_path)] == ["run_end"]
