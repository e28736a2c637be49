"""Sizes as people write them, and the limits of this process."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from partition_graphs import SMALL, write_graph

from partition import memory
from partition.build import BuildOptions, find_or_build
from partition.errors import UsageError
from partition.manifest import PartitionManifest
from partition.memory import memory_bytes, size_words


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4GiB", 4 * 2**30), ("500 MB", 500_000_000), ("1.5kib", 1536), ("2e9", 2_000_000_000), ("7", 7)],
)
def test_a_size_is_read_as_written(text: str, expected: int) -> None:
    assert memory_bytes(text) == expected


@pytest.mark.parametrize("text", ["four", "4 GiBs", "-1", "0", "1.2.3GB", "GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="like 4GiB"):
        memory_bytes(text)


def test_left_out_it_is_most_of_the_machine() -> None:
    assert 0 < memory_bytes("") < psutil.virtual_memory().total


def test_a_control_group_limits_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    old = tmp_path / "memory"
    old.mkdir()
    (old / "memory.limit_in_bytes").write_text("1000000\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory_bytes("") == 800_000


@pytest.mark.parametrize(
    ("size", "words"), [(100, "0.1 KiB"), (3 * 2**20, "3.0 MiB"), (2.5 * 2**30, "2.5 GiB")]
)
def test_sizes_are_told_in_large_units(size: float, words: str) -> None:
    assert size_words(size) == words


def test_the_limit_is_not_part_of_the_id_but_the_methods_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("partition.build.look_at_room", lambda *_, **options: None)  # it would refuse a byte
    folder = str(write_graph(tmp_path / "graph", SMALL))
    found = {}
    for limit in ("1GiB", "1"):
        options = BuildOptions(hosts=2, cluster_size=2)
        result = find_or_build(
            folder, options, store=str(tmp_path / limit), say=lambda line: None, memory=limit
        )
        found[limit] = PartitionManifest.load(result.path)
    assert found["1GiB"].id == found["1"].id
    methods = {limit: {m["method"] for m in manifest.stats["methods"]} for limit, manifest in found.items()}
    assert methods == {"1GiB": {"metis"}, "1": {"semi-external", "label-propagation"}}
    assert all("MiB" in m["why"] for m in found["1GiB"].stats["methods"])
