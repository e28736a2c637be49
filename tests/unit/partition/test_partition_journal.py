"""Builds that are killed: what is done is not done again, and the end is as if nothing had happened."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from partition_graphs import communities, write_graph
from partition_parts import Parts, check_parts, contents
from test_partition_extend import add_papers

from partition import refusals
from partition.build import BuildOptions, build
from partition.errors import DiskFullError
from partition.journal import Journal
from partition.manifest import PartitionManifest

ROOT = Path(__file__).parents[3]
KILLED = """
import os, signal, sys
from partition import store
from partition.__main__ import main
from partition.journal import Journal

point = sys.argv[1]
keep_cut, keep_part, seal = Journal.keep_cut, Journal.keep_part, store.seal

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def cut(*arguments):
    keep_cut(*arguments)
    if point == "cut":
        die()

def part(self, host, **known):
    if point == f"before part {host} is noted":
        die()
    keep_part(self, host, **known)
    if point == f"after part {host}":
        die()

def sealed(*arguments, **options):
    result = seal(*arguments, **options)
    if point == "sealed":
        die()
    return result

Journal.keep_cut, Journal.keep_part, store.seal = cut, part, sealed
sys.exit(main(sys.argv[2:]))
"""
POINTS = {
    "cut": 0,
    "before part 0 is noted": 0,
    "after part 0": 1,
    "before part 1 is noted": 1,
    "sealed": 2,
}
"""Where a build for two hosts is killed -> hosts that need not be written again."""


def kill_at(point: str, folder: Path, store: Path, tokenizer: str) -> None:
    arguments = ["build", str(folder), "--store", str(store), "--hosts", "2", "--tokenizer", tokenizer]
    run = subprocess.run(
        [sys.executable, "-c", KILLED, point, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == -signal.SIGKILL, run.stderr


def build_on(folder: Path, store: Path, tokenizer: str) -> tuple[Path, list[str]]:
    said: list[str] = []
    options = BuildOptions(hosts=2, tokenizer=tokenizer)
    return build(str(folder), options, store=str(store), say=said.append), said


def content(path: Path) -> Any:
    """Bytes; of DGL's files, which hold addresses of memory, what they load as."""
    if path.name == "manifest.json":
        manifest = json.loads(path.read_text())
        own = {name: info for name, info in manifest.pop("files").items() if not name.endswith(".dgl")}
        del manifest["seconds"]
        return manifest, own
    if path.suffix == ".dgl":
        return contents(path)
    return path.read_bytes()


def contents_of(partition: Path) -> dict[str, Any]:
    paths = (path for path in partition.rglob("*") if path.is_file() and path.name != "manifest.sha256")
    return {path.relative_to(partition).as_posix(): content(path) for path in paths}


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_build_goes_on_and_ends_with_the_same_files(
    point: str, small_graph: Path, tokenizer: str, tmp_path: Path
) -> None:
    undisturbed, _ = build_on(small_graph, tmp_path / "whole", tokenizer)
    store = tmp_path / "store"
    kill_at(point, small_graph, store, tokenizer)
    draft = store / f"{undisturbed.name}.building"
    written = {path.name: (path / "graph.dgl").stat().st_ino for path in sorted(draft.glob("part*"))}
    path, said = build_on(small_graph, store, tokenizer)
    assert f"going on with a build that was stopped: cut, and {POINTS[point]} hosts written" in said
    assert not [line for line in said if line.startswith("cutting")]
    assert contents_of(path) == contents_of(undisturbed)
    kept = [f"part{host}" for host in range(POINTS[point])]
    assert [(path / name / "graph.dgl").stat().st_ino for name in kept] == [written[name] for name in kept]
    assert sorted(left.name for left in store.iterdir()) == [path.name, f"{path.name}.lock"]


def test_a_torn_note_is_no_note(small_graph: Path, tokenizer: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    kill_at("after part 0", small_graph, store, tokenizer)
    (notes,) = store.glob("*.building-journal")
    for name in ("cut", "part0"):
        note = notes / f"{name}.json"
        note.write_text(note.read_text()[:-20])
    path, said = build_on(small_graph, store, tokenizer)
    assert [line for line in said if line.startswith("cutting")]
    assert contents_of(path) == contents_of(build_on(small_graph, tmp_path / "whole", tokenizer)[0])


def test_a_file_of_a_noted_part_that_is_short_is_written_again(
    small_graph: Path, tokenizer: str, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    kill_at("after part 1", small_graph, store, tokenizer)
    (draft,) = store.glob("*.building")
    graph = draft / "part0" / "graph.dgl"
    graph.write_bytes(graph.read_bytes()[:-1])
    path, said = build_on(small_graph, store, tokenizer)
    assert "going on with a build that was stopped: cut, and 1 hosts written" in said
    assert contents_of(path) == contents_of(build_on(small_graph, tmp_path / "whole", tokenizer)[0])


def test_what_is_done_outlasts_a_disk_without_room(
    small_graph: Path, tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    kill_at("after part 0", small_graph, store, tokenizer)
    with monkeypatch.context() as patched:
        patched.setattr(refusals, "free_bytes", lambda folder: 0)
        with pytest.raises(DiskFullError, match=r"0\.0 KiB of the disk are free"):
            build_on(small_graph, store, tokenizer)
    _, said = build_on(small_graph, store, tokenizer)
    assert "going on with a build that was stopped: cut, and 1 hosts written" in said


def test_parts_of_another_cut_are_not_gone_on_with(small_graph: Path, tokenizer: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    kill_at("after part 0", small_graph, store, tokenizer)
    journal = Journal(store, next(store.glob("*.building")).name.partition(".")[0])
    (note,) = store.glob("*/cut.json")
    keys = json.loads(note.read_text().partition("\n")[2])["keys"]
    kept = journal.cut(keys)
    assert kept is not None
    assert journal.hosts == {0}
    assert journal.cut({**keys, "structure": "another"}) is None
    journal.keep_cut({**keys, "structure": "another"}, kept)
    assert journal.hosts == frozenset()
    assert not list(journal.draft.iterdir())
    assert np.array_equal(kept.assignment.part, np.load(note.with_suffix(".npz"))["part"])


def test_a_cut_that_came_from_a_parent_built_otherwise_since_is_not_gone_on_with(
    tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: Journal, host: int, **known: Any) -> None:
        raise KeyboardInterrupt

    def made(tables: dict[str, Any], **options: Any) -> Parts:
        write_graph(tmp_path / "graph", tables)
        return Parts(tables, tmp_path, 2, 1, cluster_size=10, tokenizer=tokenizer, **options)

    made(communities(groups=4))
    tables = communities(groups=4)
    add_papers(tables, 10, ["p3", "p40"])
    parent = made(tables)
    relabelled = copy.deepcopy(tables)
    relabelled["paper"]["columns"]["label"][:20] = [1] * 20
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "keep_part", stop)
        with pytest.raises(KeyboardInterrupt):
            made(relabelled)
    shutil.rmtree(parent.path)
    again = made(tables, reuse=False)
    assert again.ids != parent.ids
    child = made(relabelled)
    assert (child.manifest.parent, child.ids) == (again.manifest.id, again.ids)
    check_parts(child)


def test_a_build_that_is_interrupted_keeps_what_is_done(
    small_graph: Path, tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: Journal, host: int, **known: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "keep_part", stop)
        with pytest.raises(KeyboardInterrupt):
            build_on(small_graph, tmp_path / "store", tokenizer)
    left = sorted(path.suffix for path in (tmp_path / "store").iterdir())
    assert left == [".building", ".building-journal", ".lock"]
    path, said = build_on(small_graph, tmp_path / "store", tokenizer)
    assert not [line for line in said if line.startswith("cutting")]
    assert PartitionManifest.load(path).hosts == 2
