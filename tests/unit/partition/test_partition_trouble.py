"""A store that refuses, stalls or breaks: repeated within limits, then one line that names the object."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from partition_remotes import SHORT, SHORT_S, objects_at, quiet
from s3_server import CREDENTIALS, FaultyS3

from partition import remote
from partition.__main__ import main
from partition.errors import StoreError
from partition.manifest import PartitionManifest
from partition.objects import Objects, Patience
from partition.pull import pull
from partition.store import verify


@pytest.fixture
def store(s3: FaultyS3, bucket: str, two_parts: Path) -> Objects:
    """A store that holds the partition, and little patience with it."""
    url = f"s3://{bucket}/kept"
    remote.push(objects_at(url), two_parts, say=quiet)
    s3.requests.clear()
    return objects_at(url, SHORT)


def refused(act: Callable[[], object]) -> str:
    """The words of the StoreError that an act must end with in bounded time."""
    start = time.monotonic()
    with pytest.raises(StoreError) as caught:
        act()
    assert time.monotonic() - start < SHORT_S
    assert caught.value.exit_code == 13
    assert "planted-secret" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "words", "requests"),
    [
        (403, ("access denied (403 AccessDenied)", "may you read and write s3://", "AWS_PROFILE"), 1),
        ("403 RequestTimeTooSkewed", ("clock differs from the store's (403 Request", "set the clock"), 1),
        (500, ("the store answers 500 InternalError", "goes on later"), 4),
        (503, ("the store answers 503 SlowDown", "goes on later"), 4),
        ("stall", ("no answer in time, tried for", "goes on later"), 4),
        ("reset", ("graph.dgl", "goes on later where it stopped"), 2),
    ],
)
def test_a_pull_that_fails_for_good_names_the_object_and_publishes_nothing(
    kind: str | int, words: tuple[str, ...], requests: int, s3: FaultyS3, store: Objects, two_parts: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    fault = s3.fails(kind, r"GET .*part1/graph\.dgl")
    message = refused(lambda: pull(store, two_parts.name, tmp_path, say=quiet))
    assert f"{store.url}/{two_parts.name}/part1/graph.dgl." in message
    for word in words:
        assert word in message
    assert fault.met == requests
    assert not (tmp_path / two_parts.name).exists()
    assert not list(tmp_path.rglob("*.half"))
    fault.times = 0
    assert verify(pull(store, two_parts.name, tmp_path, say=quiet))


@pytest.mark.parametrize("kind", [500, 503, "stall", "reset"])
def test_trouble_that_passes_is_outlasted(
    kind: str | int, s3: FaultyS3, store: Objects, two_parts: Path, tmp_path: Path
) -> None:
    fault = s3.fails(kind, r"GET .*part1/graph\.dgl", times=1)
    assert verify(pull(store, two_parts.name, tmp_path, say=quiet))
    assert fault.met == 1


@pytest.mark.parametrize("kind", [403, 503, "stall"])
def test_a_push_that_fails_publishes_nothing(
    kind: str | int, s3: FaultyS3, bucket: str, two_parts: Path
) -> None:
    objects = objects_at(f"s3://{bucket}/other", SHORT)
    s3.fails(kind, r"PUT .*part1/graph\.dgl")
    message = refused(lambda: remote.push(objects, two_parts, say=quiet))
    assert f"s3://{bucket}/other/{two_parts.name}/part1/graph.dgl." in message
    assert remote.finished(objects, say=print) == []


@pytest.mark.parametrize("name", ["graph.json", "manifest.sha256"])
def test_an_answer_that_gets_lost_leaves_a_whole_partition(
    name: str, s3: FaultyS3, bucket: str, two_parts: Path
) -> None:
    objects = objects_at(f"s3://{bucket}/other", SHORT)
    fault = s3.fails("lost", f"PUT .*/{name}", times=1)
    assert remote.push(objects, two_parts, say=quiet).manifest == PartitionManifest.load(two_parts)
    assert fault.met == 1
    assert remote.verify(objects, two_parts.name)


def test_a_large_object_whose_completion_is_not_heard_of_is_there(
    s3: FaultyS3, bucket: str, tmp_path: Path
) -> None:
    content = os.urandom(40_000_000)
    (tmp_path / "large").write_bytes(content)
    s3.fails("none", "POST .*/large", times=1)  # which begins the upload
    fault = s3.fails("lost", "POST .*/large", times=1)
    s3.fails("404 NoSuchUpload", "POST .*/large", times=1)  # as S3 answers to the client's repeat
    objects = objects_at(f"s3://{bucket}/kept", SHORT)
    objects.put("large", tmp_path / "large")
    assert fault.met == 1
    assert b"".join(objects.chunks("large", len(content))) == content


def test_repeats_are_told(s3: FaultyS3, store: Objects, two_parts: Path) -> None:
    s3.fails(503, "GET .*manifest.sha256", times=SHORT.requests)
    said: list[str] = []
    assert remote.find(Objects(store.url, say=said.append, patience=SHORT), two_parts.name)
    assert len(said) == 1
    assert f"{store.url}/{two_parts.name}/manifest.sha256: the store answers 503 SlowDown" in said[0]
    assert "trying again in 0.05 s" in said[0]


def test_one_operation_ends_at_its_limit_whatever_its_repeats_would_take(
    s3: FaultyS3, store: Objects, two_parts: Path
) -> None:
    s3.fails("stall", "GET .*manifest.sha256")
    hasty = Patience(connect_s=1, read_s=30, requests=9, attempts=9, wait_s=0.05, operation_s=2)
    message = refused(lambda: remote.find(objects_at(store.url, hasty), two_parts.name))
    assert "manifest.sha256: no answer in time, tried for 2 s" in message


def test_a_missing_bucket_is_told_from_a_missing_partition(s3: FaultyS3, store: Objects) -> None:
    assert remote.find(store, "0123456789") is None
    assert "there is no bucket s3://no-such-bucket" in refused(
        lambda: remote.find(objects_at("s3://no-such-bucket/kept", SHORT), "0123456789")
    )
    assert "no such bucket" not in refused(lambda: remote.get(store, "0123456789"))


def test_a_server_that_is_not_there_is_named(
    s3: FaultyS3, two_parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    message = refused(lambda: remote.find(objects_at("s3://bucket/kept", SHORT), two_parts.name))
    assert "s3://bucket/kept" in message
    assert f"127.0.0.1:{port}" in message


def test_missing_credentials_are_called_so(s3: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert name in CREDENTIALS
        monkeypatch.delenv(name)
    message = refused(lambda: remote.find(objects_at("s3://bucket/kept", SHORT), "0123456789"))
    assert "AWS_PROFILE" in message


def test_a_url_with_a_password_is_refused_without_repeating_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "--store", "s3://me:planted-secret@bucket/kept"]) == 2
    assert "planted-secret" not in capsys.readouterr().err


def test_the_command_ends_with_the_stores_code(
    s3: FaultyS3, store: Objects, capsys: pytest.CaptureFixture[str]
) -> None:
    s3.fails(403)
    assert main(["ls", "--store", store.url]) == 13
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert error[0].startswith(f"error: {store.url}: access denied (403 AccessDenied)")
