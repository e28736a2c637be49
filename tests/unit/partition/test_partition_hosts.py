"""Hosts of a job bring their own part from a store on S3 while they are looked at."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from partition_remotes import objects_at, quiet
from s3_server import FaultyS3

from launch import steps
from launch.cluster import local_cluster
from launch.preflight import Probe
from partition import remote
from partition.store import verify_part
from pipeline.config import load_plan

ROOT = Path(__file__).parents[3]


@pytest.fixture
def store(s3: FaultyS3, bucket: str, two_parts: Path) -> str:
    """URL of a store that holds the partition."""
    url = f"s3://{bucket}/kept"
    remote.push(objects_at(url), two_parts, say=quiet)
    s3.requests.clear()
    return url


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch, s3: FaultyS3, store: str) -> Probe:
    """One on a host that knows nothing of S3."""
    for name in s3.environment():
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Probe([sys.executable, "-P", "-m", "launch.probe"])


def test_a_host_brings_its_part_with_the_credentials_it_is_sent(
    probe: Probe, store: str, s3: FaultyS3, two_parts: Path, tmp_path: Path
) -> None:
    folder = tmp_path / two_parts.name
    question = {"partition": str(folder), "part": 1, "store": store, "environment": s3.environment()}
    try:
        answer = probe.ask("part", checksums=True, **question)
        assert answer == {"files": verify_part(folder, 1, checksums=True)}
        assert not any("/part0/" in request and "/ids/" not in request for request in s3.requests)
        damaged = folder / "part1/graph.dgl"
        damaged.write_bytes(bytes(damaged.stat().st_size))
        assert probe.ask("part", checksums=True, **question) == answer
        # A restart looks at sizes alone; a spare host in another's place brings that one's part.
        assert "files" in probe.ask("part", checksums=False, **{**question, "part": 0})
        assert verify_part(folder, 0, checksums=True)
    finally:
        probe.hang_up()
        probe.close(0)


def test_a_host_that_cannot_bring_its_part_says_why(
    probe: Probe, store: str, s3: FaultyS3, two_parts: Path, tmp_path: Path
) -> None:
    s3.fails(403, "GET .*part1/graph")
    question = {"partition": str(tmp_path / two_parts.name), "part": 1, "store": store}
    try:
        answer = probe.ask("part", checksums=True, environment=s3.environment(), **question)
    finally:
        probe.hang_up()
        probe.close(0)
    assert f"{store}/{two_parts.name}/part1/graph.dgl." in answer["error"]
    assert "access denied (403 AccessDenied)" in answer["error"]


def test_a_host_with_another_build_of_the_partition_is_refused(probe: Probe, two_parts: Path) -> None:
    question = {"partition": str(two_parts), "part": 1, "checksums": True}
    checksum = (two_parts / "manifest.sha256").read_text().strip()
    try:
        assert "files" in probe.ask("part", manifest=checksum, **question)
        answer = probe.ask("part", manifest="0" * 64, **question)
    finally:
        probe.hang_up()
        probe.close(0)
    assert answer == {"error": f"{two_parts} is not the head's: another build of the same request"}


def test_the_partition_command_of_a_plan_with_a_url_names_the_cache(tmp_path: Path) -> None:
    plan = load_plan(
        ROOT / "examples/smoke.toml", ["partition.store=s3://bucket/kept", f"graph.path={tmp_path}"]
    )
    cluster = local_cluster(nodes=2, trainers_per_host=1, servers_per_host=1)
    arguments = list(steps.partition_arguments(plan, cluster))
    assert arguments[arguments.index("--store") + 1] == "s3://bucket/kept"
    assert arguments[arguments.index("--cache") + 1] == str(ROOT / "store")
    assert "planted-secret" not in " ".join(arguments)
