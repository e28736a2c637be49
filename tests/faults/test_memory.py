"""What a job says when its memory runs out: by a limit on a process, by the kernel over a control group."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch_tree import Tree, make_tree

LIMIT_MB = 400
ROOTS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.swap.max"),  # version 2
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),  # version 1
)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return make_tree(tmp_path / "tree")


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group that may hold LIMIT_MB."""
    for root, limit, swap in ROOTS:
        folder = root / f"lmgnn-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            if (folder / limit).exists():
                (folder / limit).write_text(str(LIMIT_MB << 20))
                if (folder / swap).exists():
                    (folder / swap).write_text("0" if swap == "memory.swap.max" else str(LIMIT_MB << 20))
                yield folder
                return
        finally:
            folder.rmdir()
    pytest.skip("no control group with a memory limit can be made here")


def first_failed(tree: Tree) -> dict:
    return json.loads((tree.latest / "outcome.json").read_text())["first_failed"]


def held_gib(reading: str) -> float:
    found = re.search(r"it held ([\d.]+) GiB at most: fewer trainers per host or smaller batches", reading)
    assert found is not None, reading
    return float(found[1])


def test_a_process_at_its_own_limit_is_told_as_a_lack_of_memory(tree: Tree) -> None:
    result = tree.run("run", FAKE_FOREVER="1", FAKE_trainer_1="memory=900")
    assert result.returncode == 10
    failed = first_failed(tree)
    assert (failed["role"], failed["rank"], failed["returncode"]) == ("trainer", 1, 1)
    assert failed["reading"].startswith("exit code 1: memory ran out; ")
    assert 0.5 < held_gib(failed["reading"]) < 0.95


@pytest.mark.root
def test_the_kernels_end_of_a_process_is_told_as_such(tree: Tree, group: Path) -> None:
    command = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh", *tree.command("run")]
    wishes = {"FAKE_FOREVER": "1", "FAKE_trainer_1": "memory=0"}
    result = subprocess.run(
        command, env=tree.environment(wishes), cwd=tree.path, capture_output=True, timeout=120, check=False
    )
    assert result.returncode == 10, result.stderr
    failed = first_failed(tree)
    assert (failed["role"], failed["rank"], failed["returncode"]) == ("trainer", 1, 137)
    assert failed["reading"].startswith("SIGKILL: killed by the kernel because memory ran out; ")
    assert 0.2 < held_gib(failed["reading"]) < 0.45
