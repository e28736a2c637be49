"""`lmgnn partition` with a store on S3: built once, pulled afterwards, listed, shown, verified, cleaned."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from partition_remotes import files_of, objects_at, quiet
from s3_server import FaultyS3

from partition import collect, remote
from partition.__main__ import main
from partition.build import BuildOptions, build
from partition.collect import Limits, Removal, collect_local, collect_remote
from partition.errors import StoreError
from partition.objects import ObjectInfo, Objects
from partition.store import verify
from partition.usage import in_use

ROOT = Path(__file__).parents[3]
DAY_S = 86400.0


@pytest.fixture
def store(s3: FaultyS3, bucket: str) -> str:
    return f"s3://{bucket}/kept"


def build_arguments(graph: Path, store: str, cache: Path) -> list[str]:
    return ["build", str(graph), "--store", store, "--cache", str(cache), "--hosts", "2", "--json"]


def built(capsys: pytest.CaptureFixture[str], graph: Path, store: str, cache: Path) -> dict[str, Any]:
    capsys.readouterr()
    assert main(build_arguments(graph, store, cache)) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return answer


def test_a_partition_is_built_once_and_pulled_by_others(
    small_graph: Path, store: str, tmp_path: Path, s3: FaultyS3, capsys: pytest.CaptureFixture[str]
) -> None:
    first = built(capsys, small_graph, store, tmp_path / "one")
    assert not first["found"]
    assert remote.verify(objects_at(store), first["id"])
    again = built(capsys, small_graph, store, tmp_path / "one")
    other = built(capsys, small_graph, store, tmp_path / "two")
    assert (again["found"], other["found"]) == (True, True)
    assert again["path"] == first["path"] == str(tmp_path / "one" / first["id"])
    assert verify(other["path"]) == verify(first["path"])
    assert not any(request.startswith("PUT") and "/part" in request for request in s3.requests[-8:])


def test_what_the_cache_has_and_the_store_lost_is_sent_and_not_built(
    small_graph: Path, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = built(capsys, small_graph, store, tmp_path)
    written = (Path(first["path"]) / "graph.json").stat().st_mtime_ns
    objects = objects_at(store)
    for key in objects.listing(first["id"]):
        objects.remove(f"{first['id']}/{key}")
    assert not built(capsys, small_graph, store, tmp_path)["found"]
    assert (Path(first["path"]) / "graph.json").stat().st_mtime_ns == written
    assert remote.verify(objects, first["id"])


@pytest.mark.parametrize("shared_cache", [False, True], ids=["two machines", "one machine"])
def test_of_two_builders_at_once_both_end_with_what_one_published(
    shared_cache: bool, small_graph: Path, store: str, tmp_path: Path, s3: FaultyS3
) -> None:
    caches = [tmp_path / "c0", tmp_path / ("c0" if shared_cache else "c1")]
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "partition", *build_arguments(small_graph, store, cache)],
            cwd=ROOT,
            env={**os.environ, **s3.environment()},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for cache in caches
    ]
    outputs = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    answers = [json.loads(out.splitlines()[-1]) for out, _ in outputs]
    assert answers[0]["id"] == answers[1]["id"]
    published = remote.verify(objects_at(store), answers[0]["id"])
    for answer in answers:
        assert verify(answer["path"]) == published
    said = "".join(err for _, err in outputs)
    assert said.count("is ready in s3://") == 1
    if shared_cache:
        assert said.count("writing 2 hosts") <= 1


def test_a_store_that_may_not_be_written_to_is_known_before_the_work(
    small_graph: Path, store: str, tmp_path: Path, s3: FaultyS3, capsys: pytest.CaptureFixture[str]
) -> None:
    s3.fails(403, "^PUT")
    assert main(build_arguments(small_graph, store, tmp_path / "cache")) == 13
    error = capsys.readouterr().err
    assert "access denied" in error
    assert "cutting" not in error
    assert not (tmp_path / "cache").exists()


def test_who_may_only_read_pulls_with_a_warning(
    two_parts: Path, store: str, tmp_path: Path, s3: FaultyS3, capsys: pytest.CaptureFixture[str]
) -> None:
    remote.push(objects_at(store), two_parts, say=quiet)
    s3.fails(403, "^PUT")
    assert main(["pull", two_parts.name, "--store", store, "--cache", str(tmp_path), "--host", "1"]) == 0
    output = capsys.readouterr()
    assert "warning: not marked as used" in output.err
    assert output.out.strip() == str(tmp_path / two_parts.name)
    names = files_of(tmp_path / two_parts.name)
    assert {name.split("/")[0] for name in names if "/" in name and "/ids/" not in name} == {"part1"}


def test_push_ls_show_and_verify_take_urls(
    two_parts: Path, store: str, s3: FaultyS3, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{store}/{two_parts.name}"
    assert main(["push", str(two_parts), "--store", f"{store}/"]) == 0
    assert capsys.readouterr().out.strip() == url
    assert main(["ls", "--store", store, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"id": two_parts.name, "path": url}]
    assert main(["show", url]) == 0
    assert "relation cites: paper -> paper" in capsys.readouterr().out
    assert main(["verify", url]) == 0
    assert "files are as written" in capsys.readouterr().out
    assert main(["show", f"{store}/0123456789"]) == 13
    assert "no finished partition" in capsys.readouterr().err


@pytest.fixture
def aged(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Makes `gc` believe that so many seconds have gone by."""
    real = time.time

    def later(seconds: float) -> None:
        monkeypatch.setattr(collect.time, "time", lambda: real() + seconds)

    return later


def swept(objects: Objects, *, dry_run: bool = False, **limits: Any) -> list[tuple[str, str]]:
    return [(r.id, r.why) for r in collect_remote(objects, Limits(**limits), dry_run=dry_run)]


def test_gc_removes_old_unfinished_pushes_and_spares_young_ones(
    two_parts: Path, store: str, s3: FaultyS3, aged: Callable[[float], None]
) -> None:
    objects = objects_at(store)
    s3.fails(403, "PUT .*manifest.sha256")
    with pytest.raises(StoreError):
        remote.push(objects, two_parts, say=quiet)
    s3.reset()
    assert swept(objects, unused_days=30) == []
    aged(2 * DAY_S)
    assert swept(objects, dry_run=True) == [(two_parts.name, "unfinished")]
    assert swept(objects, keep=[two_parts.name]) == []
    assert objects.listing(two_parts.name)
    assert swept(objects) == [(two_parts.name, "unfinished")]
    assert objects.listing(two_parts.name) == {}


def test_gc_removes_partitions_that_nobody_used_for_long(
    two_parts: Path, store: str, tmp_path: Path, s3: FaultyS3, aged: Callable[[float], None]
) -> None:
    objects = objects_at(store)
    remote.push(objects, two_parts, say=quiet)
    aged(31 * DAY_S)
    assert swept(objects) == []  # finished ones stay unless a limit is given
    assert swept(objects, unused_days=32) == []
    assert swept(objects, unused_days=30, keep=[two_parts.name]) == []
    assert swept(objects, unused_days=30, dry_run=True) == [(two_parts.name, "not used for 30 days")]
    assert remote.verify(objects, two_parts.name)
    assert swept(objects, unused_days=30) == [(two_parts.name, "not used for 30 days")]
    assert objects.folders() == []


def test_gc_puts_back_what_somebody_took_at_the_last_moment(
    two_parts: Path, store: str, s3: FaultyS3, monkeypatch: pytest.MonkeyPatch, aged: Callable[[float], None]
) -> None:
    objects = objects_at(store)
    remote.push(objects, two_parts, say=quiet)
    aged(31 * DAY_S)
    real, looks = objects.listing, itertools.count()

    def listing(under: str) -> dict[str, ObjectInfo]:
        found = real(under)
        if next(looks):  # the second look is after the marker is gone
            found["used"] = ObjectInfo(1, collect.time.time())
        return found

    monkeypatch.setattr(objects, "listing", listing)
    assert swept(objects, unused_days=30) == []
    assert remote.verify(objects, two_parts.name)


def test_gc_removes_the_objects_of_a_build_that_came_too_late(
    two_parts: Path, store: str, s3: FaultyS3, aged: Callable[[float], None]
) -> None:
    objects = objects_at(store)
    remote.push(objects, two_parts, say=quiet)
    objects.write(f"{two_parts.name}/part0/graph.dgl.0123456789abcdef", b"another")
    assert swept(objects) == []
    aged(2 * DAY_S)
    assert swept(objects) == [(two_parts.name, "1 objects of another build")]
    assert remote.verify(objects, two_parts.name)


def test_gc_passes_a_damaged_partition_over_and_removes_it_when_unused(
    two_parts: Path, store: str, s3: FaultyS3, aged: Callable[[float], None]
) -> None:
    objects = objects_at(store)
    remote.push(objects, two_parts, say=quiet)
    objects.write(f"{two_parts.name}/manifest.sha256", b"0" * 64)
    aged(31 * DAY_S)
    assert swept(objects) == []
    assert swept(objects, unused_days=30) == [(two_parts.name, "not used for 30 days")]


def test_gc_leaves_alone_what_is_no_partition(
    store: str, tmp_path: Path, s3: FaultyS3, aged: Callable[[float], None]
) -> None:
    objects = objects_at(store)
    objects.write("tables/papers.parquet", b"somebody's")
    for name in ("tables", "tables.building-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    aged(99 * DAY_S)
    assert swept(objects, unused_days=1) == []
    assert objects.read("tables/papers.parquet")
    assert collect_local(tmp_path, Limits(unused_days=1), dry_run=False) == []
    assert len(list(tmp_path.iterdir())) == 2


def test_gc_of_a_local_store_spares_what_is_used_and_what_is_being_made(
    small_graph: Path, tmp_path: Path, aged: Callable[[float], None]
) -> None:
    store = tmp_path / "store"
    part = build(str(small_graph), BuildOptions(), store=str(store), say=quiet)
    for left in (f"{part.name}.building-1", f"{part.name}.pulling"):
        (store / left / "part0").mkdir(parents=True)
        (store / left / "part0" / "graph.dgl").write_bytes(b"half")

    def cleaned(**limits: Any) -> list[Removal]:
        return collect_local(store, Limits(**limits), dry_run=False)

    assert cleaned(unused_days=30) == []
    aged(31 * DAY_S)
    with in_use(part):
        assert [r.id for r in cleaned(unused_days=30)] == [f"{part.name}.building-1", f"{part.name}.pulling"]
        assert verify(part)
    assert [asdict(r)["why"] for r in cleaned(unused_days=30)] == ["not used for 31 days"]
    assert [path.name for path in store.iterdir()] == [f"{part.name}.lock"]


def test_gc_tells_what_it_would_remove(
    small_graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = build(str(small_graph), BuildOptions(), store=str(tmp_path), say=quiet)
    old = time.time() - 5 * DAY_S
    os.utime(part / "manifest.json", (old, old))
    assert main(["gc", "--store", str(tmp_path), "--unused-days", "4", "--dry-run"]) == 0
    assert f"would remove {part.name}: not used for 5 days" in capsys.readouterr().out
    assert main(["gc", "--store", str(tmp_path), "--unused-days", "4", "--keep", part.name]) == 0
    assert "nothing to remove" in capsys.readouterr().out
    build(str(small_graph), BuildOptions(), store=str(tmp_path), say=quiet)  # found, so used now
    assert main(["gc", "--store", str(tmp_path), "--unused-days", "4"]) == 0
    assert verify(part)
