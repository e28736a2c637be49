"""The smoke job over real ssh hosts: the numbers of a job on this machine, whatever happens to a host."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kills import processes_of

from tests.hosts.smoke_job import REPO, Figures, figures, run_here, smoke
from tests.hosts.ssh_hosts import SshHosts, can_make_hosts, environment, ssh_hosts
from tests.launch_tree import wait_for

pytestmark = [
    pytest.mark.drill,
    pytest.mark.root,
    pytest.mark.timeout(1500, func_only=True),
    pytest.mark.skipif(not can_make_hosts(), reason="needs root, iproute2 and openssh-server"),
]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("smoke")


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[SshHosts]:
    with ssh_hosts(3, tmp_path / "hosts") as made:
        yield made


@pytest.fixture(scope="module")
def local(work: Path) -> Figures:
    """Figures of the undisturbed job, on two hosts simulated on this machine."""
    run_here(smoke(work, work / "local"))
    return figures(work / "local")


def start(hosts: SshHosts, argv: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            hosts.on_head(argv), env=environment(REPO), stdout=output, stderr=output, start_new_session=True
        )


def in_warm_up(run: Path) -> bool:
    """Whether the third stage is past a checkpoint of its own."""
    return len(list(run.glob("checkpoints/*-warm/checkpoint.json"))) > 0


def nothing_left(hosts: SshHosts, run: Path, *numbers: int) -> bool:
    return not processes_of(run) and not any(hosts.listeners(k) + hosts.segments(k) for k in numbers)


def check_end(job: subprocess.Popen[bytes], run: Path, local: Figures) -> str:
    code = job.wait(timeout=600)
    said = run.with_suffix(".log").read_text()
    assert code == 0, said[-3000:]
    assert figures(run) == pytest.approx(local, abs=1e-6)
    return said


def test_by_hostfile_the_figures_are_those_of_this_machine(
    work: Path, local: Figures, hosts: SshHosts
) -> None:
    run = work / "ssh"
    job = start(hosts, smoke(work, run, *hosts.flags("host1", "host2")), work / "ssh.log")
    check_end(job, run, local)
    wait_for(lambda: nothing_left(hosts, run, 1, 2), seconds=60)


def recovered(run: Path) -> bool:
    """Whether the second attempt is past a step."""
    beat = run / "live" / "a2" / "trainer-0.json"
    try:
        return json.loads(beat.read_text())["phase"] == "train"
    except (OSError, ValueError):
        return False


@pytest.mark.parametrize(("victim", "told"), [("trainer-3", "trainer 3"), ("server-1", "server 1")])
def test_kill_9_of_a_process_on_host_2_changes_no_figure(
    work: Path,
    local: Figures,
    hosts: SshHosts,
    victim: str,
    told: str,
    record_property: Callable[[str, object], None],
) -> None:
    run = work / f"killed-{victim}"
    flags = [*hosts.flags("host1", "host2"), "--max-restarts", "1"]
    log = run.with_suffix(".log")
    job = start(hosts, smoke(work, run, *flags), log)
    wait_for(lambda: in_warm_up(run), seconds=300)
    state = json.loads((run / "state.json").read_text())
    pid = next(row["pid"] for row in state["processes"] if row["name"] == victim)
    subprocess.run(hosts.in_processes_of(2, ["kill", "-9", str(pid)]), check=True)
    record_property("detected_s", wait_for(lambda: "failed: SIGKILL" in log.read_text(), seconds=10))
    record_property("recovered_s", wait_for(lambda: recovered(run), seconds=200))
    said = check_end(job, run, local)
    assert f"{told} @ host2 failed: SIGKILL" in said
    assert json.loads((run / "outcome.json").read_text())["restarts"] == 1
    wait_for(lambda: nothing_left(hosts, run, 1, 2), seconds=60)


def test_a_spare_host_goes_on_with_the_same_figures(
    work: Path, local: Figures, hosts: SshHosts, record_property: Callable[[str, object], None]
) -> None:
    run = work / "spare"
    job = start(hosts, smoke(work, run, *hosts.flags(), "--max-restarts", "1"), work / "spare.log")
    wait_for(lambda: in_warm_up(run), seconds=300)
    hosts.lose_power(2)
    record_property("detected_s", wait_for(lambda: "is lost" in (work / "spare.log").read_text(), seconds=10))
    record_property("recovered_s", wait_for(lambda: recovered(run), seconds=200))
    assert "host3 takes the place of host2" in check_end(job, run, local)
    wait_for(lambda: nothing_left(hosts, run, 1, 3), seconds=60)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "part1/graph.dgl": lambda whole: _flipped(whole),
    "part1/node_feat.dgl": lambda whole: _flipped(whole),
    "part1/edge_feat.dgl": lambda whole: _flipped(whole),
    "part1/tokens/note.values.npy": lambda whole: whole[: len(whole) // 2],
    "part1/tokens/note.offsets.npy": lambda whole: _flipped(whole),
    "part1/ids/note.parquet": lambda whole: whole[:-1],
    "part1/targets/edges/cites.parquet": lambda whole: b"",
    "graph.json": lambda whole: _flipped(whole),
    "manifest.json": lambda whole: _flipped(whole),
}
"""A file of each class that host 2 reads, and what becomes of it there."""


def _flipped(whole: bytes) -> bytes:
    """One bit of the middle byte turned over."""
    middle = len(whole) // 2
    return whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :]


def test_a_damaged_file_on_a_host_is_refused_with_its_name_and_checksum(
    work: Path, local: Figures, hosts: SshHosts
) -> None:
    (partition,) = [path.parent for path in (work / "store").glob("*/manifest.json")]
    listed = json.loads((partition / "manifest.json").read_text())["files"]
    (hosts.folder / "damaged").mkdir()
    for number, (name, damage) in enumerate(DAMAGES.items()):
        whole = (partition / name).read_bytes()
        damaged = hosts.folder / "damaged" / str(number)
        damaged.write_bytes(damage(whole))
        hosts.run(2, "mount", "--bind", str(damaged), str(partition / name))
        log = work / f"damaged-{number}.log"
        run = work / f"damaged-{number}"
        job = start(hosts, smoke(work, run, *hosts.flags("host1", "host2")), log)
        assert job.wait(timeout=120) == 13, f"{name}: {log.read_text()}"
        (error,) = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
        assert f"error: host2: {partition / name}: " in error
        if len(damaged.read_bytes()) == len(whole):
            whole_sum = hashlib.sha256(whole).hexdigest()
            assert listed.get(name, {"sha256": whole_sum})["sha256"] == whole_sum
            assert f"sha256 is {hashlib.sha256(damage(whole)).hexdigest()}, expected {whole_sum}" in error
        else:
            assert f"{len(damage(whole))} bytes, expected {len(whole)}" in error
        # umount reads its own mounts in /proc, which has the host's processes alone.
        subprocess.run(hosts.in_processes_of(2, ["umount", str(partition / name)]), check=True)
        assert not processes_of(run)


def test_each_host_brings_its_own_part_from_s3(work: Path, local: Figures, hosts: SshHosts) -> None:
    cache = REPO / "store"
    cache.mkdir(exist_ok=True)
    private = ["mount", "-t", "tmpfs", "tmpfs", str(cache)]
    subprocess.run(hosts.on_head(private), check=True)
    for number in (1, 2):
        hosts.run(number, *private)
    secret = {
        "AWS_SECRET_ACCESS_KEY": "planted-secret",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_REGION": "us-east-1",
    }
    env = {
        **environment(REPO),
        **secret,
        "AWS_ENDPOINT_URL": "http://10.78.0.254:5000",
        "NO_PROXY": "10.78.0.254",
    }
    run = work / "s3"
    flags = [*hosts.flags("host1", "host2"), "--set", "partition.store=s3://kept/store"]
    with s3_on_head(hosts), (work / "s3.log").open("wb") as output:
        argv = hosts.on_head(smoke(work, run, *flags))
        job = subprocess.Popen(argv, env=env, stdout=output, stderr=output, start_new_session=True)
        check_end(job, run, local)
    for number in (1, 2):
        names = hosts.run(number, "find", str(cache), "-name", "graph.dgl").split()
        assert [Path(name).parent.name for name in names] == [f"part{number - 1}"]
    found = subprocess.run(["grep", "-rl", "planted-secret", str(run)], stdout=subprocess.PIPE, check=False)
    assert found.stdout == b""


@contextmanager
def s3_on_head(hosts: SshHosts) -> Iterator[None]:
    """An S3 server that all hosts reach, with an empty bucket `kept`."""
    server = [sys.executable, "-P", "-m", "moto.server", "-H", "10.78.0.254", "-p", "5000"]
    ask = (
        "from urllib import request as r; r.urlopen(r.Request('http://10.78.0.254:5000/kept', method='PUT'))"
    )
    make = [sys.executable, "-c", ask]
    quiet, direct = subprocess.DEVNULL, {**os.environ, "no_proxy": "*"}
    process = subprocess.Popen(hosts.on_head(server), env=environment(REPO), stdout=quiet, stderr=quiet)
    try:
        wait_for(
            lambda: subprocess.run(hosts.on_head(make), env=direct, stderr=quiet).returncode == 0, seconds=60
        )
        yield
    finally:
        process.terminate()
        process.wait()
