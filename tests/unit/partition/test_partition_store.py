"""A finished partition is checked byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from partition_graphs import SMALL, write_graph

from partition.build import BuildOptions, build
from partition.errors import StoreError
from partition.manifest import PartitionManifest
from partition.store import verify, verify_part

FILE_CLASSES = (
    "manifest.json",
    "manifest.sha256",
    "graph.json",
    "part1/graph.dgl",
    "part0/node_feat.dgl",
    "part1/edge_feat.dgl",
    "part0/tokens/paper.values.npy",
    "part1/tokens/paper.offsets.npy",
    "part0/tokens/paper.hashes.npy",
    "part0/ids/author.parquet",
    "part1/targets/nodes/paper.parquet",
    "part0/targets/edges/cites.parquet",
)


@pytest.fixture(scope="module")
def partition(tmp_path_factory: pytest.TempPathFactory, tokenizer: str) -> Path:
    folder = tmp_path_factory.mktemp("store")
    graph = write_graph(folder / "graph", SMALL)
    options = BuildOptions(hosts=2, tokenizer=tokenizer)
    return build(str(graph), options, store=str(folder / "store"), say=lambda line: None)


@pytest.mark.parametrize("name", FILE_CLASSES)
def test_one_flipped_bit_is_found_and_its_file_named(name: str, partition: Path) -> None:
    path = partition / name
    good = path.read_bytes()
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 1
    try:
        path.write_bytes(bad)
        with pytest.raises(StoreError) as caught:
            verify(partition)
    finally:
        path.write_bytes(good)
    wanted = "manifest.json" if name == "manifest.sha256" else name
    assert wanted in str(caught.value)
    assert "expected" in str(caught.value)


@pytest.mark.parametrize("name", ["part0/graph.dgl", "manifest.sha256"])
def test_a_missing_file_is_named(name: str, partition: Path) -> None:
    good = (partition / name).read_bytes()
    try:
        (partition / name).unlink()
        with pytest.raises(StoreError, match=f"{name}: the file is missing"):
            verify(partition)
    finally:
        (partition / name).write_bytes(good)


def test_a_file_cut_short_is_named_with_both_sizes(partition: Path) -> None:
    path = partition / "part0/graph.dgl"
    good = path.read_bytes()
    try:
        path.write_bytes(good[:-1])
        with pytest.raises(StoreError, match=f"{len(good) - 1} bytes, expected {len(good)}"):
            verify(partition)
    finally:
        path.write_bytes(good)


def test_a_host_looks_at_its_own_part_and_what_all_share(partition: Path) -> None:
    own = {path for path in (partition / "part1").rglob("*") if path.is_file()}
    shared = {partition / "graph.json", *(partition / "part0/ids").iterdir()}
    assert verify_part(partition, 1, checksums=True) == len(own | shared)
    path = partition / "part0/graph.dgl"
    good = path.read_bytes()
    try:
        path.write_bytes(bytes(len(good)))
        assert verify_part(partition, 1, checksums=True)
        assert verify_part(partition, 0, checksums=False)  # presence and size alone
        with pytest.raises(StoreError, match=r"part0/graph\.dgl: sha256"):
            verify_part(partition, 0, checksums=True)
        path.unlink()
        with pytest.raises(StoreError, match=r"part0/graph\.dgl: the file is missing"):
            verify_part(partition, 0, checksums=False)
    finally:
        path.write_bytes(good)


def test_every_file_is_in_the_manifest(partition: Path) -> None:
    files = {path.relative_to(partition).as_posix() for path in partition.rglob("*") if path.is_file()}
    assert set(verify(partition).files) == files - {"manifest.json", "manifest.sha256"}


def test_a_folder_without_manifest_is_no_partition(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no finished partition"):
        verify(tmp_path)


def test_the_manifest_reads_back_as_it_was(partition: Path) -> None:
    manifest = PartitionManifest.load(partition)
    assert PartitionManifest.from_json(manifest.to_json()) == manifest
