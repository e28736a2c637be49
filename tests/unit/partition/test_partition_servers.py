"""A store's whole life on two S3 servers that have nothing in common: moto and SeaweedFS."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from partition_graphs import communities, write_graph
from partition_parts import LENGTH, Parts, check_parts
from partition_remotes import files_of, objects_at
from s3_server import FaultyS3
from test_partition_extend import add_papers
from weed_server import WeedS3, weed_s3

from partition import collect
from partition.__main__ import main
from partition.errors import StoreError
from partition.store import verify, verify_part

ROOT = Path(__file__).parents[3]
DAY_S = 86400.0


@pytest.fixture(scope="session")
def weed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WeedS3]:
    with weed_s3(tmp_path_factory.mktemp("weed")) as server:
        yield server


@pytest.fixture(params=["moto", "seaweedfs"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FaultyS3 | WeedS3:
    """A server whose clients' environment is this process's."""
    if request.param == "moto":
        moto: FaultyS3 = request.getfixturevalue("s3")
        return moto
    weed: WeedS3 = request.getfixturevalue("weed_server")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in weed.environment().items():
        monkeypatch.setenv(name, value)
    return weed


@pytest.fixture
def store(server: FaultyS3 | WeedS3, request: pytest.FixtureRequest) -> str:
    bucket = f"flow-{abs(hash(request.node.name))}"
    server.direct.create_bucket(Bucket=bucket)
    return f"s3://{bucket}/kept/here"


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """What a command answers as JSON."""
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_built_pushed_pulled_checked_and_collected(
    store: str,
    tmp_path: Path,
    tokenizer: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = str(write_graph(tmp_path / "graph", communities()))
    build = ["build", graph, "--store", store, "--hosts", "2", "--tokenizer", tokenizer, "--cache"]
    first = ran(capsys, *build, str(tmp_path / "one"))
    assert not first["found"]
    url = f"{store}/{first['id']}"
    assert ran(capsys, "ls", "--store", store) == [{"id": first["id"], "path": url}]
    assert ran(capsys, "verify", url)["ok"]
    assert ran(capsys, "push", first["path"], "--store", store)["path"] == url  # it is there already
    assert ran(capsys, *build, str(tmp_path / "two"))["found"]
    assert files_of(tmp_path / "two" / first["id"]) == files_of(Path(first["path"]))
    assert verify(tmp_path / "two" / first["id"]) == verify(first["path"])
    pulled = ran(
        capsys, "pull", first["id"], "--store", store, "--host", "1", "--cache", str(tmp_path / "three")
    )
    assert verify_part(pulled["path"], 1, checksums=True)
    with pytest.raises(StoreError):
        verify(pulled["path"])
    objects = objects_at(store)
    objects.write("0" * 20 + "/part0/graph.dgl.0123456789abcdef", b"of a push that was killed")
    real = time.time
    monkeypatch.setattr(collect.time, "time", lambda: real() + 31 * DAY_S)
    gone = ran(capsys, "gc", "--store", store, "--keep", first["id"], "--unused-days", "30")["removed"]
    assert [removal["id"] for removal in gone] == ["0" * 20]
    gone = ran(capsys, "gc", "--store", store, "--unused-days", "30")["removed"]
    assert [(removal["id"], removal["why"]) for removal in gone] == [(first["id"], "not used for 30 days")]
    assert ran(capsys, "gc", "--store", store, "--unused-days", "30")["removed"] == []
    assert ran(capsys, "ls", "--store", store) == []


def test_what_is_reused_is_published_whole_for_machines_that_have_nothing(
    store: str,
    tmp_path: Path,
    tokenizer: str,
    capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> None:
    tables = communities()
    relabelled = copy.deepcopy(tables)
    relabelled["paper"]["columns"]["label"][:99] = [1] * 99
    grown = copy.deepcopy(relabelled)
    add_papers(grown, 20, ["p3", "p4", "p5"])
    steps = [("", tables, 2), ("kept", relabelled, 2), ("extended", grown, 2), ("regrouped", grown, 1)]
    parent = ""
    for how, now, trainers in steps:
        graph = write_graph(tmp_path / "there" / "graph", now)
        options = ["--trainers", str(trainers), "--cluster-size", "10", "--max-length", str(LENGTH)]
        capsys.readouterr()
        build = ["build", str(graph), "--store", store, "--hosts", "2", "--tokenizer", tokenizer, *options]
        assert main([*build, "--cache", str(tmp_path / "here"), "--json"]) == 0
        output = capsys.readouterr()
        record_property(how or "afresh", [line for line in output.err.splitlines() if " s" in line])
        part_id = json.loads(output.out.splitlines()[-1])["id"]
        ran(capsys, "pull", part_id, "--store", store, "--cache", str(tmp_path / "there" / "store"))
        pulled = Parts(now, tmp_path / "there", 2, trainers, tokenizer=tokenizer, cluster_size=10)
        assert pulled.manifest.id == part_id  # found, not built
        assert (pulled.manifest.reuse.how, pulled.manifest.parent) == (how, parent)
        check_parts(pulled)
        parent = part_id


def test_of_two_builders_at_once_one_publishes(
    server: FaultyS3 | WeedS3, store: str, small_graph: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-P", "-m", "partition", "build", str(small_graph), "--store", store, "--json"]
    both = [
        subprocess.Popen(
            [*command, "--hosts", "2", "--cache", str(tmp_path / name)],
            cwd=ROOT,
            env={**os.environ, **server.environment(), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    outputs = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    paths = [json.loads(out.splitlines()[-1])["path"] for out, _ in outputs]
    assert verify(paths[0]) == verify(paths[1])
    assert sum(err.count("is ready in s3://") for _, err in outputs) == 1


def test_an_object_is_created_once(store: str) -> None:
    objects = objects_at(store)
    assert objects.create("a/marker", b"first")
    assert not objects.create("a/marker", b"second")
    assert objects.read("a/marker") == b"first"


def test_a_large_object_goes_in_pieces_both_ways(store: str, tmp_path: Path) -> None:
    content = os.urandom(40_000_000)
    (tmp_path / "large").write_bytes(content)
    objects = objects_at(store)
    objects.put("a/large", tmp_path / "large")
    assert b"".join(objects.chunks("a/large", len(content))) == content
