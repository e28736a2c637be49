"""The most that a build takes of the disk and of memory, beside what is told of it before."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from partition_foreseen import foreseen, told
from partition_graphs import communities, write_graph

from benchmarks.stream_graph import read_edges
from benchmarks.stream_graph import write_graph as draw_graph
from benchmarks.watched import watched
from benchmarks.whole_tables import write_tables
from partition.refusals import DISK_FACTOR, MEMORY_FACTOR

ROOT = Path(__file__).parents[3]
JOB = ROOT / "benchmarks" / "partition_job.py"
BUILD = """
import sys
from partition import build
from partition.__main__ import main

build.look_at_room = lambda *args, **named: None  # which refuses what does not fit before it begins
sys.exit(main(sys.argv[1:]))
"""
SCRIPT = """
mount -t tmpfs -o size="$1" none "$2" && shift 2 && exec "$@"
"""


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ids and texts of strings, features of nodes and edges, held-out edges, reverses."""
    return write_graph(tmp_path_factory.mktemp("rich") / "graph", communities(groups=200))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """(folder with tables of integer ids, 3.4 million edges in one direction; number of nodes)."""
    folder = tmp_path_factory.mktemp("drawn")
    nodes, _ = draw_graph(folder, "community", 4_000_000, seed=0, repeats=False)
    write_tables(folder, nodes, read_edges(folder / "edges.bin"))
    return folder, nodes


def code_on_a_disk_of(size: float, folder: Path, flags: list[str]) -> int:
    """Exit code of a build in an empty file system of so many bytes."""
    folder.mkdir()
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", SCRIPT, "sh"]
    command = [sys.executable, "-c", BUILD, "build", *flags, "--store", str(folder)]
    return subprocess.run([*unshare, str(int(size)), str(folder), *command], cwd=ROOT).returncode


def may_mount() -> bool:
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "true"]
    return bool(shutil.which("unshare")) and not subprocess.run(unshare, capture_output=True).returncode


@pytest.mark.parametrize("texts", [True, False])
@pytest.mark.parametrize("hosts", [1, 8])
def test_the_disk_that_a_build_needs_is_like_the_forecast(
    hosts: int, texts: bool, rich: Path, tmp_path: Path, tokenizer: str
) -> None:
    """By trying: files come and go, and whoever looks now and then misses the most that there is."""
    if not may_mount():
        pytest.skip("this user may not make namespaces (unshare)")
    options = {"hosts": hosts, "tokenizer": tokenizer if texts else ""}
    need = told(foreseen(rich, tmp_path / "store", **options)).peak_disk
    flags = [str(rich), "--hosts", str(hosts), *(["--tokenizer", tokenizer] if texts else [])]
    assert code_on_a_disk_of(need * DISK_FACTOR, tmp_path / "enough", flags) == 0
    assert code_on_a_disk_of(need / DISK_FACTOR, tmp_path / "too_little", flags) == 14


def test_the_disk_that_a_large_build_needs_is_like_the_forecast(
    drawn: tuple[Path, int], tmp_path: Path
) -> None:
    if not may_mount():
        pytest.skip("this user may not make namespaces (unshare)")
    options = {"hosts": 8, "reverse": False, "memory": "150MB"}
    need = told(foreseen(drawn[0] / "tables", tmp_path / "store", **options)).peak_disk
    flags = [str(drawn[0] / "tables"), "--hosts", "8", "--memory", "150MB"]
    assert code_on_a_disk_of(need * DISK_FACTOR, tmp_path / "enough", flags) == 0
    assert code_on_a_disk_of(need / DISK_FACTOR, tmp_path / "too_little", flags) == 14


@pytest.mark.parametrize(("hosts", "memory"), [(1, 150_000_000), (8, 150_000_000), (8, 600_000_000)])
def test_the_memory_that_a_build_takes_is_like_the_forecast(
    hosts: int, memory: int, drawn: tuple[Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one host writing takes most, with 8 the cut: on the disk, or by KaMinPar where that has room."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder, nodes = drawn
    options = {"hosts": hosts, "reverse": False, "memory": str(memory)}
    found = told(foreseen(folder / "tables", folder / "out", **options))
    numbers = map(str, (nodes, hosts, 1, memory))
    command = [sys.executable, "-P", str(JOB), "whole", "auto", str(folder), *numbers]
    done = watched(command, folder / "out")
    shutil.rmtree(folder / "out")
    most = max(found.memory.values())
    assert done.peak_anonymous / MEMORY_FACTOR < most < done.peak_anonymous * MEMORY_FACTOR
