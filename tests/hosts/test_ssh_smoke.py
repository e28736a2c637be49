"""The smoke job over real ssh hosts: the numbers of a job on this machine, whatever happens to a host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.hosts.ssh_hosts import SshHosts, can_make_hosts, environment, ssh_hosts
from tests.launch_tree import wait_for

Figures = dict[tuple[str, str, int, str], float]
"""(event, stage, step, metric) -> what was measured."""
REPO = Path(__file__).resolve().parents[2]
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


def smoke(work: Path, run: Path, *flags: str) -> list[str]:
    """The command of the smoke job over two hosts, with graph and store in `work`."""
    settings = {"graph.path": work / "graph", "partition.store": work / "store"}
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-P", "-m", "launch", "run", "--config", str(REPO / "examples" / "smoke.toml")]
    return [*command, *sets, "--nodes", "2", "--run-dir", str(run), *flags]


@pytest.fixture(scope="module")
def local(work: Path) -> Figures:
    """Figures of the undisturbed job, on two hosts simulated on this machine."""
    result = subprocess.run(
        smoke(work, work / "local"),
        env=environment(REPO),
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return figures(work / "local")


def figures(run: Path) -> Figures:
    """Everything measured: losses of all steps, validation at every evaluation, the test figure."""
    found: Figures = {}
    for line in (run / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        what = {"step": "loss", "eval": "value"}.get(event["event"])
        if what:
            found[event["event"], event["stage"], event["step"], event.get("metric", "")] = event[what]
    kinds = [kind for kind, *_ in found]
    assert kinds.count("step") > 10
    assert kinds.count("eval") > 2
    found["test", "", 0, ""] = json.loads((run / "metrics.json").read_text())["tasks"]["cites"]["test"]
    return found


def start(hosts: SshHosts, argv: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            hosts.on_head(argv), env=environment(REPO), stdout=output, stderr=output, start_new_session=True
        )


def processes_of(run: Path) -> list[str]:
    """Command lines of processes that work for a run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if f"LMGNN_RUN={run}\0".encode() in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
    return found


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


def test_kill_9_of_a_trainer_on_host_2_changes_no_figure(work: Path, local: Figures, hosts: SshHosts) -> None:
    run = work / "killed"
    flags = [*hosts.flags("host1", "host2"), "--max-restarts", "1"]
    job = start(hosts, smoke(work, run, *flags), work / "killed.log")
    wait_for(lambda: in_warm_up(run), seconds=300)
    state = json.loads((run / "state.json").read_text())
    pid = next(row["pid"] for row in state["processes"] if row["name"] == "trainer-3")
    subprocess.run(hosts.in_processes_of(2, ["kill", "-9", str(pid)]), check=True)
    said = check_end(job, run, local)
    assert "trainer 3 @ host2 failed: SIGKILL" in said
    assert json.loads((run / "outcome.json").read_text())["restarts"] == 1
    wait_for(lambda: nothing_left(hosts, run, 1, 2), seconds=60)


def test_a_spare_host_goes_on_with_the_same_figures(work: Path, local: Figures, hosts: SshHosts) -> None:
    run = work / "spare"
    job = start(hosts, smoke(work, run, *hosts.flags(), "--max-restarts", "1"), work / "spare.log")
    wait_for(lambda: in_warm_up(run), seconds=300)
    hosts.lose_power(2)
    wait_for(lambda: "is lost" in (work / "spare.log").read_text(), seconds=120)
    assert "host3 takes the place of host2" in check_end(job, run, local)
    wait_for(lambda: nothing_left(hosts, run, 1, 3), seconds=60)


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
