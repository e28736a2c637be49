"""A machine with an empty cache goes on with a partition that only the store has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from partition_foreseen import foreseen, told
from partition_graphs import communities, write_graph
from partition_parts import contents
from partition_remotes import objects_at, quiet
from s3_server import FaultyS3

from partition import build
from partition.build import BuildOptions, find_or_build
from partition.errors import StoreError
from partition.manifest import PartitionManifest
from partition.objects import Objects
from partition.parents import published
from partition.pull import pull
from partition.remote import verify
from partition.storage import locked

OPTIONS: dict[str, Any] = {"hosts": 2, "trainers": 2, "cluster_size": 10, "max_length": 8}


class Machine:
    """With a cache of its own, and what its builds said."""

    def __init__(self, folder: Path, store: str, tokenizer: str) -> None:
        self.cache, self.store, self.said = folder / "cache", store, list[str]()
        self._tokenizer = tokenizer

    def builds(self, graph: Path, **options: Any) -> Path:
        given = BuildOptions(**{**OPTIONS, "tokenizer": self._tokenizer, **options})
        found = find_or_build(
            str(graph), given, store=self.store, cache=str(self.cache), say=self.said.append
        )
        return found.path

    def says(self, words: str) -> bool:
        return any(words in line for line in self.said)


@pytest.fixture
def first(bucket: str, tmp_path: Path, tokenizer: str) -> Machine:
    """The machine that has built the parent and pushed it."""
    machine = Machine(tmp_path / "first", f"s3://{bucket}/first", tokenizer)
    machine.builds(write_graph(tmp_path / "before", communities()))
    return machine


@pytest.fixture
def second(first: Machine, s3: FaultyS3, bucket: str, tmp_path: Path, tokenizer: str) -> Machine:
    """One with an empty cache, and a store that has the parent as well."""
    for key in s3.keys(bucket):
        other = f"second/{key.removeprefix('first/')}"
        s3.direct.copy_object(Bucket=bucket, Key=other, CopySource={"Bucket": bucket, "Key": key})
    return Machine(tmp_path / "second", f"s3://{bucket}/second", tokenizer)


@pytest.fixture
def relabelled(tmp_path: Path) -> Path:
    tables = communities()
    tables["paper"]["columns"]["label"][:3] = [2, None, 0]
    return write_graph(tmp_path / "after", tables)


def only(folder: Path) -> str:
    (name,) = [path.name for path in folder.iterdir() if path.is_dir()]
    return name


@pytest.mark.parametrize(("how", "options"), [("kept", {}), ("regrouped", {"hosts": 4, "trainers": 1})])
def test_the_second_machine_makes_what_the_first_does(
    how: str, options: dict[str, Any], first: Machine, second: Machine, relabelled: Path
) -> None:
    parent = only(first.cache)
    here, there = first.builds(relabelled, **options), second.builds(relabelled, **options)
    mine, theirs = PartitionManifest.load(there), PartitionManifest.load(here)
    assert (mine.reuse.how, mine.parent, mine.id) == (how, parent, theirs.id)
    assert mine.stats["methods"] == theirs.stats["methods"]
    assert (mine.numbering, mine.offsets) == (theirs.numbering, theirs.offsets)
    assert set(mine.files) == set(theirs.files)
    for name in mine.files:
        assert str(contents(there / name)) == str(contents(here / name)), name
    assert (second.cache / parent / "manifest.json").is_file()
    assert second.says(f"{parent} of {second.store} has the same nodes")
    assert not first.says("comes first")


@pytest.mark.parametrize("gone", [False, True])
def test_files_that_the_parent_has_are_copied_within_the_store(
    gone: bool, first: Machine, s3: FaultyS3, bucket: str, relabelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for one that is gone there."""
    parent, sent = PartitionManifest.load(first.cache / only(first.cache)), []
    if gone:
        (key,) = [key for key in s3.keys(bucket) if f"{parent.id}/part1/graph.dgl" in key]
        s3.direct.delete_object(Bucket=bucket, Key=key)

    class Recorded(Objects):
        def put(self, key: str, path: Path) -> None:
            sent.append(key.partition("/")[2].rpartition(".")[0])
            super().put(key, path)

    monkeypatch.setattr(build, "Objects", Recorded)
    made = PartitionManifest.load(first.builds(relabelled))
    known = {info.sha256 for info in parent.files.values()}
    new = {name for name, info in made.files.items() if info.sha256 not in known}
    assert set(sent) == {*new, "manifest.json", *(["part1/graph.dgl"] if gone else [])}
    assert "part0/graph.dgl" not in new
    assert verify(objects_at(first.store), made.id).files == made.files


def test_new_nodes_join_a_partition_of_the_store(first: Machine, second: Machine, tmp_path: Path) -> None:
    tables = communities()
    tables["author"]["columns"]["id"] += [10_000, 10_001]
    made = PartitionManifest.load(second.builds(write_graph(tmp_path / "after", tables)))
    assert (made.reuse.how, made.parent, made.reuse.new) == ("extended", only(first.cache), 2)


def test_nothing_is_pulled_of_which_nothing_can_be_taken(
    first: Machine, second: Machine, s3: FaultyS3, relabelled: Path
) -> None:
    s3.requests.clear()
    made = PartitionManifest.load(second.builds(relabelled, seed=1, max_length=6))
    assert not made.parent
    parent = only(first.cache)
    assert not [request for request in s3.requests if f"{parent}/part" in request]
    assert only(second.cache) == made.id


def test_tokens_alone_are_worth_it(first: Machine, second: Machine, relabelled: Path) -> None:
    made = PartitionManifest.load(second.builds(relabelled, seed=1))
    assert not made.parent
    assert second.says(f"texts of paper come from {only(first.cache)}")


def test_one_that_is_gone_meanwhile_is_done_without(
    first: Machine, second: Machine, s3: FaultyS3, bucket: str, relabelled: Path
) -> None:
    parent = only(first.cache)
    (gone,) = [key for key in s3.keys(bucket) if key.startswith(f"second/{parent}/part1/graph.dgl")]
    s3.direct.delete_object(Bucket=bucket, Key=gone)
    made = PartitionManifest.load(second.builds(relabelled))
    assert not made.parent
    assert second.says(f"{parent} is not reused, it is gone meanwhile")
    assert second.says("cutting")


def test_wrong_bytes_of_it_end_the_build(
    first: Machine, second: Machine, s3: FaultyS3, bucket: str, relabelled: Path
) -> None:
    before = s3.keys(bucket)
    s3.fails("flip", "GET .*/part1/graph.dgl")
    with pytest.raises(StoreError, match=r"part1/graph\.dgl.*sha256"):
        second.builds(relabelled)
    assert not [path for path in second.cache.iterdir() if path.suffix not in (".lock", ".pulling")]
    assert [key.rpartition("/")[2] for key in set(s3.keys(bucket)) - set(before)] == ["used"]


def test_what_a_host_lacks_of_it_is_brought(first: Machine, second: Machine, relabelled: Path) -> None:
    parent = only(first.cache)
    pull(objects_at(second.store), parent, second.cache, say=quiet, host=0)
    made = PartitionManifest.load(second.builds(relabelled))
    assert (made.reuse.how, made.parent) == ("kept", parent)


def test_one_that_is_being_built_here_is_not_waited_for(
    first: Machine, second: Machine, tmp_path: Path
) -> None:
    objects, parent = objects_at(second.store), only(first.cache)
    (tmp_path / f"{parent}.building-journal").mkdir()
    assert [e.id for e in published(objects, tmp_path, leave_out=set(), say=quiet)] == [parent]
    with locked(tmp_path / f"{parent}.lock", waiting=quiet):
        assert published(objects, tmp_path, leave_out=set(), say=quiet) == []


def test_a_damaged_manifest_is_passed_over(
    first: Machine, second: Machine, s3: FaultyS3, relabelled: Path
) -> None:
    s3.fails("flip", f"GET .*/{only(first.cache)}/manifest.json")
    assert not PartitionManifest.load(second.builds(relabelled)).parent
    assert second.says("is passed over: ")


def test_a_dry_run_tells_what_would_come_first(
    first: Machine, second: Machine, tokenizer: str, relabelled: Path
) -> None:
    options = {**OPTIONS, "tokenizer": tokenizer}
    found = told(foreseen(relabelled, second.store, cache=str(second.cache), **options))
    parent = only(first.cache)
    size = sum(info.size for info in PartitionManifest.load(first.cache / parent).files.values())
    assert (found.likely.how, found.likely.parent, found.pulled_bytes) == ("kept", parent, size)
    assert not second.cache.exists()
