"""Two processes, or two machines, with one request: if the first dies or hangs, the second has its way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from partition_remotes import objects_at
from s3_server import FaultyS3

from partition import remote
from partition.collect import Limits, collect_remote
from partition.store import verify

ROOT = Path(__file__).parents[3]
BUILDER = """
import os, signal, sys
from partition import storage
from partition.__main__ import main
from partition.journal import Journal
from partition.objects import Objects

point, silent = sys.argv[1], float(sys.argv[2])
storage.SILENT_S = silent or storage.SILENT_S
keep_part, create = Journal.keep_part, Objects.create

def part(self, host, **known):
    keep_part(self, host, **known)
    if point == "stops after part 0" and host == 0:
        os.kill(os.getpid(), signal.SIGSTOP)

def created(self, *arguments):
    if point == "dies before it publishes":
        os.kill(os.getpid(), signal.SIGKILL)
    return create(self, *arguments)

Journal.keep_part, Objects.create = part, created
sys.exit(main(sys.argv[3:]))
"""
DEADLINE_S = 240
TAKE_OVER_S = 60
"""From the death of a builder to the words of the one that goes on, on a busy machine."""


@pytest.fixture
def builder() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `lmgnn partition build --json` for two hosts, which does something at a point."""
    started: list[subprocess.Popen[str]] = []

    def start(graph: Path, *arguments: str, point: str = "", silent_s: float = 0) -> subprocess.Popen[str]:
        command = ["build", str(graph), "--hosts", "2", "--json", *arguments]
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", BUILDER, point, str(silent_s), *command],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def heard(process: subprocess.Popen[str], words: str) -> re.Match[str]:
    """The first line of stderr with these words."""
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(words, line):
            return found
    raise AssertionError(f"{words!r} was not said")


@contextmanager
def stopped(process: subprocess.Popen[str]) -> Iterator[None]:
    """A block in which a process that has stopped itself stands still."""
    deadline = time.monotonic() + DEADLINE_S
    status = Path(f"/proc/{process.pid}/status")
    while "State:\tT" not in status.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield
    process.send_signal(signal.SIGCONT)


def test_who_waits_takes_over_from_a_builder_that_dies(
    small_graph: Path,
    tmp_path: Path,
    builder: Callable[..., subprocess.Popen[str]],
    record_property: Callable[[str, object], None],
) -> None:
    store = tmp_path / "store"
    first = builder(small_graph, "--store", str(store), point="stops after part 0")
    with stopped(first):
        second = builder(small_graph, "--store", str(store))
        assert int(heard(second, r"being built by process (\d+) on .*waiting")[1]) == first.pid
        first.kill()
        killed = time.monotonic()
    heard(second, "going on with a build that was stopped: cut, and 1 hosts written")
    record_property("take_over_s", round(time.monotonic() - killed, 2))
    assert time.monotonic() - killed < TAKE_OVER_S
    answer = json.loads(second.communicate(timeout=DEADLINE_S)[0])
    assert (second.returncode, answer["found"]) == (0, False)
    assert verify(answer["path"])
    assert sorted(path.name for path in store.iterdir()) == [answer["id"], f"{answer['id']}.lock"]


def test_who_waits_for_a_builder_that_hangs_leaves_and_says_whose_lock_it_is(
    small_graph: Path, tmp_path: Path, builder: Callable[..., subprocess.Popen[str]]
) -> None:
    store = tmp_path / "store"
    first = builder(small_graph, "--store", str(store), point="stops after part 0")
    with stopped(first):
        second = builder(small_graph, "--store", str(store), silent_s=2)
        error = second.communicate(timeout=DEADLINE_S)[1].splitlines()[-1]
        assert second.returncode == 5
        assert re.search(rf"\.lock is held by process {first.pid} on .*shown no life for 2 s", error)
        assert [path for path in store.iterdir() if "." not in path.name] == []
    answer = json.loads(first.communicate(timeout=DEADLINE_S)[0])
    assert verify(answer["path"])


def test_a_builder_that_dies_before_it_publishes_leaves_the_store_to_another_machine(
    small_graph: Path,
    tmp_path: Path,
    bucket: str,
    s3: FaultyS3,
    builder: Callable[..., subprocess.Popen[str]],
) -> None:
    url = f"s3://{bucket}/kept"
    one, two = (("--store", url, "--cache", str(tmp_path / name)) for name in ("one", "two"))
    first = builder(small_graph, *one, point="dies before it publishes")
    assert first.wait(DEADLINE_S) == -signal.SIGKILL
    objects = objects_at(url)
    assert remote.finished(objects, say=print) == []
    assert list(objects.listing(""))  # all but the object that makes a partition exist
    second = builder(small_graph, *two)
    answer = json.loads(second.communicate(timeout=DEADLINE_S)[0])
    assert (second.returncode, answer["found"]) == (0, False)
    again = builder(small_graph, *one)
    found = json.loads(again.communicate(timeout=DEADLINE_S)[0])
    assert (found["id"], found["found"]) == (answer["id"], True)
    published = remote.verify(objects, answer["id"])
    assert verify(answer["path"]) == verify(found["path"]) == published
    collect_remote(objects, Limits(unfinished_s=0), dry_run=False)
    assert remote.verify(objects, answer["id"]) == published


def test_who_looks_in_the_meantime_sees_a_whole_partition_or_none(
    small_graph: Path,
    tmp_path: Path,
    bucket: str,
    s3: FaultyS3,
    builder: Callable[..., subprocess.Popen[str]],
) -> None:
    url, cache = f"s3://{bucket}/kept", tmp_path / "cache"
    objects, seen = objects_at(url), {"here": 0, "there": 0}
    process = builder(small_graph, "--store", url, "--cache", str(cache))
    while process.poll() is None or (process.returncode == 0 and not all(seen.values())):
        for folder in cache.glob("*"):
            if folder.is_dir() and "." not in folder.name:
                seen["here"] += bool(verify(folder))
        for manifest in remote.finished(objects, say=print):
            seen["there"] += bool(remote.verify(objects, manifest.id))
        time.sleep(0.02)
    assert process.returncode == 0
