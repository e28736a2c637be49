"""A store on S3 and at any fsspec URL: pushed once, found, listed, pulled by host, checked byte for byte."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from partition_remotes import files_of, objects_at, quiet
from s3_server import FaultyS3

from partition import remote
from partition.errors import StoreError, UsageError
from partition.manifest import PartitionManifest
from partition.objects import Objects
from partition.pull import pull
from partition.store import find, seal, verify, verify_part

ROOT = Path(__file__).parents[3]


@pytest.fixture
def store(s3: FaultyS3, bucket: str) -> Objects:
    return objects_at(f"s3://{bucket}/kept/here")


@pytest.fixture(params=["s3", "file", "memory"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Objects]:
    if request.param == "s3":
        yield request.getfixturevalue("store")
    elif request.param == "file":
        (tmp_path / "there").mkdir()
        yield objects_at(f"file://{tmp_path}/there")
    else:
        yield objects_at("memory://there/store")
        fsspec.filesystem("memory").rm("/there", recursive=True)


def test_what_is_pushed_is_found_listed_verified_and_pulled(
    any_store: Objects, two_parts: Path, tmp_path: Path
) -> None:
    assert remote.finished(any_store, say=quiet) == []
    assert remote.find(any_store, two_parts.name) is None
    manifest = remote.push(any_store, two_parts, say=quiet).manifest
    assert remote.finished(any_store, say=quiet) == [manifest]
    assert remote.verify(any_store, two_parts.name) == manifest
    folder = pull(any_store, two_parts.name, tmp_path / "store", say=quiet)
    assert verify(folder) == manifest
    assert files_of(folder) == files_of(two_parts)
    assert find(tmp_path / "store", two_parts.name) == folder


def test_a_large_object_goes_in_pieces_both_ways(
    s3: FaultyS3, bucket: str, store: Objects, tmp_path: Path
) -> None:
    content = os.urandom(40_000_000)
    (tmp_path / "large").write_bytes(content)
    store.put("a/large", tmp_path / "large")
    assert len([request for request in s3.requests if request.startswith("PUT")]) == 3  # of 16 MiB at most
    s3.fails("reset", "GET .*a/large", times=1)
    assert b"".join(store.chunks("a/large", len(content))) == content
    assert len([request for request in s3.requests if request.startswith("GET")]) == 5 + 1  # of 8 MiB at most
    s3.direct.put_object(Bucket=bucket, Key="kept/here/a/large", Body=content[:-1])
    assert b"".join(store.chunks("a/large", len(content))) == content[:-1]


def test_an_object_is_created_once(any_store: Objects) -> None:
    assert any_store.create("a/marker", b"first")
    assert not any_store.create("a/marker", b"second")
    assert any_store.read("a/marker") == b"first"


def test_the_marker_is_the_last_object_and_created_with_if_none_match(
    s3: FaultyS3, store: Objects, two_parts: Path
) -> None:
    remote.push(store, two_parts, say=quiet)
    puts = [request for request in s3.requests if request.startswith("PUT")]
    assert puts[-1].endswith(f"{two_parts.name}/manifest.sha256")
    assert puts[-2].rpartition("/")[2].startswith("manifest.json.")


def test_who_comes_second_takes_what_was_published(store: Objects, two_parts: Path) -> None:
    first = remote.push(store, two_parts, say=quiet)
    said: list[str] = []
    assert remote.push(store, two_parts, say=said.append) == first
    assert said == []


def test_a_host_pulls_its_own_part_and_no_file_of_others_but_id_maps(
    s3: FaultyS3, store: Objects, two_parts: Path, tmp_path: Path
) -> None:
    remote.push(store, two_parts, say=quiet)
    s3.requests.clear()
    folder = pull(store, two_parts.name, tmp_path, say=quiet, host=1)
    assert verify_part(folder, 1, checksums=True)
    assert not any("/part0/" in request and "/part0/ids/" not in request for request in s3.requests)
    assert [path.name for path in (folder / "part0").iterdir()] == ["ids"]  # far ends of links have names
    with pytest.raises(StoreError, match=r"not whole: part0/.* is missing"):
        find(tmp_path, two_parts.name)
    pull(store, two_parts.name, tmp_path, say=quiet, host=0)
    assert find(tmp_path, two_parts.name) == folder
    assert verify(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == [two_parts.name, f"{two_parts.name}.lock"]


def test_a_host_that_the_partition_does_not_have_is_refused(
    store: Objects, two_parts: Path, tmp_path: Path
) -> None:
    remote.push(store, two_parts, say=quiet)
    with pytest.raises(UsageError, match="host 2"):
        pull(store, two_parts.name, tmp_path, say=quiet, host=2)


def test_what_is_there_and_as_it_should_be_is_not_pulled_again(
    s3: FaultyS3, store: Objects, two_parts: Path, tmp_path: Path
) -> None:
    remote.push(store, two_parts, say=quiet)
    folder = pull(store, two_parts.name, tmp_path, say=quiet)
    damaged = folder / "part0/graph.dgl"
    damaged.write_bytes(bytes(damaged.stat().st_size))
    s3.requests.clear()
    pull(store, two_parts.name, tmp_path, say=quiet)
    got = [request for request in s3.requests if "/part" in request or "graph.json" in request]
    assert [request.rpartition("/")[2].rpartition(".")[0] for request in got] == ["graph.dgl"]
    assert verify(folder)


def test_a_flipped_byte_in_the_bucket_is_named_and_nothing_is_published(
    s3: FaultyS3, bucket: str, store: Objects, two_parts: Path, tmp_path: Path
) -> None:
    info = remote.push(store, two_parts, say=quiet).manifest.files["part1/graph.dgl"]
    key = "kept/here/" + remote.key_of(two_parts.name, "part1/graph.dgl", info)
    good = bytearray((two_parts / "part1/graph.dgl").read_bytes())
    good[len(good) // 2] ^= 1
    s3.direct.put_object(Bucket=bucket, Key=key, Body=bytes(good))
    for read in (
        lambda: remote.verify(store, two_parts.name),
        lambda: pull(store, two_parts.name, tmp_path, say=quiet),
    ):
        with pytest.raises(StoreError) as caught:
            read()
        for words in (f"s3://{bucket}/{key}: sha256 is ", f"expected {info.sha256}", "build or push"):
            assert words in str(caught.value)
    assert len([request for request in s3.requests if key in request and request.startswith("GET")]) == 3
    assert not (tmp_path / two_parts.name).exists()
    pull(store, two_parts.name, tmp_path, say=quiet, host=0)  # which reads other objects


def test_an_object_of_another_size_is_named_with_both_sizes(
    s3: FaultyS3, bucket: str, store: Objects, two_parts: Path, tmp_path: Path
) -> None:
    info = remote.push(store, two_parts, say=quiet).manifest.files["graph.json"]
    key = "kept/here/" + remote.key_of(two_parts.name, "graph.json", info)
    s3.direct.put_object(Bucket=bucket, Key=key, Body=b"{}")
    with pytest.raises(StoreError, match=rf"graph\.json\.\w+: 2 bytes, expected {info.size}"):
        pull(store, two_parts.name, tmp_path, say=quiet)
    s3.direct.delete_object(Bucket=bucket, Key=key)
    with pytest.raises(StoreError, match=r"graph\.json\.\w+: the file is missing"):
        pull(store, two_parts.name, tmp_path, say=quiet)


def test_content_that_arrived_wrong_once_is_read_once_more(
    s3: FaultyS3, store: Objects, two_parts: Path, tmp_path: Path
) -> None:
    remote.push(store, two_parts, say=quiet)
    fault = s3.fails("flip", r"GET .*part0/graph\.dgl", times=1)
    said: list[str] = []
    assert verify(pull(store, two_parts.name, tmp_path, say=said.append))
    assert fault.met == 1
    assert [line for line in said if "part0/graph.dgl" in line and "once more" in line]


@pytest.mark.parametrize("name", ["manifest.sha256", "manifest.json"])
def test_a_damaged_manifest_is_named(
    name: str, s3: FaultyS3, bucket: str, store: Objects, two_parts: Path
) -> None:
    remote.push(store, two_parts, say=quiet)
    [key] = [key for key in s3.keys(bucket) if f"/{name}" in key]
    body = bytearray(s3.direct.get_object(Bucket=bucket, Key=key)["Body"].read())
    body[20] ^= 1
    s3.direct.put_object(Bucket=bucket, Key=key, Body=bytes(body))
    with pytest.raises(StoreError, match=r"manifest\.json\.\w+: sha256 is \w+, expected"):
        remote.find(store, two_parts.name)


def test_of_two_that_publish_at_once_the_second_takes_the_firsts_bytes(
    store: Objects, two_parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = shutil.copytree(two_parts, tmp_path / "other" / two_parts.name)
    graph = other / "part0/graph.dgl"
    graph.write_bytes(graph.read_bytes()[:-4] + b"mine")  # of the same size
    (other / "manifest.json").unlink()
    (other / "manifest.sha256").unlink()
    seal(other, PartitionManifest.load(two_parts))
    first = remote.push(store, two_parts, say=quiet)
    look, looks = remote.find, itertools.count()
    # The other one looked before the first had published.
    monkeypatch.setattr(remote, "find", lambda *which: look(*which) if next(looks) else None)
    said: list[str] = []
    assert remote.push(store, other, say=said.append) == first
    assert any("was published by another process" in line for line in said)
    assert remote.verify(store, two_parts.name) == first.manifest
    pull(store, two_parts.name, other.parent, say=quiet, host=1)
    assert not graph.exists()  # it would belong to no manifest
    assert verify(pull(store, two_parts.name, other.parent, say=quiet, checksums=False)) == first.manifest


def test_a_killed_push_goes_on_where_it_was(s3: FaultyS3, store: Objects, two_parts: Path) -> None:
    fault = s3.fails(403, r"PUT .*part1/graph\.dgl")
    with pytest.raises(StoreError, match="access denied"):
        remote.push(store, two_parts, say=quiet)
    assert remote.find(store, two_parts.name) is None
    fault.times = 0
    sent = {request for request in s3.requests if request.startswith("PUT") and "/part0/" in request}
    assert sent
    s3.requests.clear()
    remote.push(store, two_parts, say=quiet)
    assert not sent & set(s3.requests)
    assert remote.verify(store, two_parts.name)
