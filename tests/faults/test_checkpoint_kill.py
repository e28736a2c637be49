"""kill -9 while checkpoints are written: the old or the new one is there whole, never neither."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.checkpoint import Checkpoint, CheckpointStore, newest_whole, verify

SAVER = r"""
import builtins, itertools, os, shutil, signal, sys, threading
from pathlib import Path
from pipeline.checkpoint import CheckpointStore

folder, mode, world, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
slots, meet = [None] * world, threading.Barrier(world)

def gather(rank, value):
    slots[rank] = value
    meet.wait()
    everything = list(slots)
    meet.wait()
    return everything

def fill(step):
    def write(to):
        for index in range(3):
            (to / f"file-{index}").write_bytes(bytes([step % 251]) * size)
        (to / "deep").mkdir()
        (to / "deep" / "position").write_text(str(step))
    return write

calls, kill_at = itertools.count(1), 0
def counted(module, name):
    real = getattr(module, name)
    def wrapper(*args, **kwargs):
        number = next(calls)
        if number == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    setattr(module, name, wrapper)

def say(text):
    os.write(1, (text + "\n").encode())

def work(rank):
    global kill_at
    store = CheckpointStore(folder, keep=1, rank=rank, gather=lambda v: gather(rank, v), barrier=meet.wait)
    meet.wait()
    store.save("000001-s", fill(1), {"step": 1})
    if rank == 0:
        say("saved 1")
        if mode.startswith("call-"):
            for module, name in [(os, "fsync"), (os, "rename"), (os, "replace"), (os, "open"), (os, "mkdir"),
                                 (os, "unlink"), (os, "rmdir"), (builtins, "open")]:
                counted(module, name)
            kill_at = int(mode[5:])
    meet.wait()
    for step in (itertools.count(2) if mode == "loop" else [2]):
        store.save(f"{step:06}-s", fill(step), {"step": step})
        if rank == 0:
            say(f"saved {step}")
    if rank == 0 and mode.startswith("call-"):
        say(f"calls {next(calls) - 1}")

threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@pytest.fixture
def saver(tmp_path: Path) -> Path:
    path = tmp_path / "saver.py"
    path.write_text(SAVER)
    return path


def start(saver: Path, folder: Path, mode: str, *, world: int = 1, size: int = 2000) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(saver), str(folder), mode, str(world), str(size)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def last_saved(output: str) -> int:
    return max((int(line.split()[1]) for line in output.splitlines() if line.startswith("saved ")), default=0)


def check_old_or_new(folder: Path, saved: int, *, world: int, size: int) -> Checkpoint:
    """The newest whole checkpoint is the last one reported or the one under way, with its own bytes."""
    for committed in folder.glob("[0-9]*"):
        verify(committed)  # nothing torn goes by a checkpoint's name, not even one being deleted
    found = newest_whole(folder)
    assert found is not None
    step = found.state["step"]
    assert step in (saved, saved + 1)
    assert found.name == f"{step:06}-s"
    for rank in range(world):
        for index in range(3):
            data = (found.rank_folder(rank) / f"file-{index}").read_bytes()
            assert data == bytes([step % 251]) * size
        assert (found.rank_folder(rank) / "deep" / "position").read_text() == str(step)
    return found


def check_it_goes_on(folder: Path, step: int) -> None:
    """The next start clears the leftovers and saves again."""
    store = CheckpointStore(folder, keep=1, rank=0, gather=lambda v: [v], barrier=lambda: None)
    assert not list(folder.glob(".tmp-*"))
    store.save(f"{step:06}-s", lambda to: to.joinpath("x").touch(), {"step": step})
    assert os.listdir(folder) == [f"{step:06}-s"]


@pytest.mark.parametrize("world", [1, 2])
def test_a_kill_at_every_system_call_of_a_save_leaves_the_old_or_the_new(
    saver: Path, tmp_path: Path, world: int
) -> None:
    unharmed = start(saver, tmp_path / "count", "call-0", world=world)
    output = unharmed.communicate(timeout=30)[0]
    assert unharmed.returncode == 0
    calls = int(output.split("calls ")[1])
    assert calls > 20
    outcomes = set()
    # One rank: every call. Two: the calls interleave anew in every run, so a third of them is a fair sample.
    for number in range(1, calls + 1, 1 if world == 1 else 3):
        folder = tmp_path / f"at-{number}"
        process = start(saver, folder, f"call-{number}", world=world)
        output = process.communicate(timeout=30)[0]
        assert process.returncode == -signal.SIGKILL
        found = check_old_or_new(folder, last_saved(output), world=world, size=2000)
        outcomes.add(found.state["step"])
        check_it_goes_on(folder, 3)
    assert outcomes == {1, 2}


def test_twenty_kills_at_random_moments_leave_the_old_or_the_new(saver: Path, tmp_path: Path) -> None:
    random_delays = random.Random(20)
    size = 300_000
    for number in range(20):
        folder = tmp_path / f"kill-{number}"
        process = start(saver, folder, "loop", world=2, size=size)
        assert process.stdout is not None
        first = process.stdout.readline()
        timer = threading.Timer(random_delays.uniform(0, 0.25), process.kill)
        timer.start()
        output = first + process.communicate(timeout=30)[0]
        timer.join()
        assert process.returncode == -signal.SIGKILL
        found = check_old_or_new(folder, last_saved(output), world=2, size=size)
        check_it_goes_on(folder, found.state["step"] + 2)
