"""Several hosts on one machine: really separate, really connected, gone afterwards."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launch.backends import LocalBackend
from launch.cluster import local_cluster
from launch.console import Console
from launch.plan import Paths, make_plan
from launch.supervisor import Supervisor
from launch.watch import Interrupts
from partition.errors import PreflightError
from pipeline.config import load_plan
from tests.launch_tree import Tree, make_tree, wait_for


def _can_make_namespaces(*user: str) -> bool:
    command = ["unshare", *user, "--net", "--mount", "true"]
    return shutil.which("unshare") is not None and subprocess.run(command, check=False).returncode == 0


AS_USER = pytest.param(
    True,
    id="user namespace",
    marks=pytest.mark.skipif(
        not _can_make_namespaces("--user", "--map-root-user"), reason="users may not make namespaces here"
    ),
)
AS_ROOT = pytest.param(
    False, id="root", marks=pytest.mark.skipif(os.geteuid() != 0, reason="needs root: no user namespace")
)
EITHER = pytest.mark.skipif(
    not _can_make_namespaces(*([] if os.geteuid() == 0 else ["--user", "--map-root-user"])),
    reason="this machine lets nobody make namespaces",
)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return make_tree(tmp_path / "tree")


@pytest.mark.parametrize("user_namespace", [AS_USER, AS_ROOT])
def test_hosts_reach_each_other_and_share_nothing_else(tree: Tree, user_namespace: bool) -> None:
    plan = load_plan(tree.path / "examples" / "python_packages" / "plan.toml")
    cluster = local_cluster(nodes=2, trainers_per_host=2, servers_per_host=1)
    paths = Paths(str(tree.path), str(tree.path), str(tree.path / "run"), str(tree.path))
    (tree.path / "run").mkdir()
    backend = LocalBackend(user_namespace=user_namespace)
    try:
        links = backend.start(cluster, run_id="0123abcd", paths=paths, logs=tree.path / "logs")
        console = Console(io.StringIO())
        supervisor = Supervisor(links, cluster, console=console, interrupts=Interrupts(), hang_timeout_s=60)
        ports = supervisor.hold_ports(1)
        launch = make_plan(plan, cluster, ports, paths, run_id="0123abcd")
        supervisor.run_job(launch.of_role("server"), launch.of_role("trainer"))
    finally:
        backend.close()
    facts = [json.loads((tree.path / "run" / f"facts-{k}.json").read_text()) for k in range(2)]
    assert [f["name"] for f in facts] == ["node-0", "node-1"]
    assert len({f["shm"] for f in facts}) == 2
    assert len({f["net"] for f in facts} | {os.readlink("/proc/self/ns/net")}) == 3
    assert all(len(f["segments"]) == 1 for f in facts)  # same name on both, one each: not shared
    assert all(f["interface"] is True for f in facts)
    assert len(list((tree.path / "run").glob("resume-1-*"))) == 4
    wait_for(lambda: not tree.processes(), seconds=10)
    assert not [n for n in os.listdir("/dev/shm") if "0123abcd" in n]


@EITHER
def test_a_failure_on_one_host_ends_all_hosts(tree: Tree) -> None:
    result = tree.run("run", "--nodes", "2", FAKE_FOREVER="1", FAKE_trainer_3="signal=9")
    assert result.returncode == 10
    first = json.loads((tree.latest / "outcome.json").read_text())["first_failed"]
    assert (first["host"], first["rank"], first["returncode"]) == ("node-1", 3, 137)
    wait_for(lambda: not tree.processes(), seconds=10)


@EITHER
def test_kill_9_of_the_supervisor_ends_all_hosts(tree: Tree) -> None:
    job = tree.start("run", "--nodes", "2", FAKE_FOREVER="1")
    wait_for(lambda: len(list(tree.latest.glob("live/a1/trainer-*.json"))) == 4)
    job.kill()
    job.wait()
    wait_for(lambda: not tree.processes(), seconds=10)


@EITHER
def test_ctrl_c_reaches_the_trainers_of_all_hosts(tree: Tree) -> None:
    job = tree.start("run", "--nodes", "2", FAKE_FOREVER="1")
    wait_for(lambda: len(list(tree.latest.glob("live/a1/trainer-*.json"))) == 4)
    job.send_signal(2)
    assert job.wait(timeout=30) == 130
    assert len(list(tree.latest.glob("saved-*"))) == 4
    wait_for(lambda: not tree.processes(), seconds=10)


@pytest.mark.drill
@EITHER
def test_eight_hosts_come_up_and_finish(tree: Tree) -> None:
    result = tree.run("run", "--nodes", "8", "--trainers-per-node", "2")
    assert result.returncode == 0, result.stdout
    assert len(list(tree.latest.glob("facts-*.json"))) == 8
    wait_for(lambda: not tree.processes(), seconds=10)


@pytest.mark.root
def test_an_ordinary_user_gets_hosts_too(tree: Tree) -> None:
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    shell = ["sh", "-c", '"$0" -c "import psutil"', sys.executable]  # the shell has no capability left
    probe = subprocess.run([*as_nobody, *shell], check=False, cwd="/")
    if probe.returncode != 0:
        pytest.skip("user nobody cannot read this Python interpreter")
    for folder in (tree.path, *tree.path.parents):
        folder.chmod(folder.stat().st_mode | 0o055)
        if folder.name == "tmp":
            break
    tree.path.chmod(0o777)
    result = subprocess.run(
        [*as_nobody, *tree.command("run", "--nodes", "2")],
        env=tree.environment({"HOME": str(tree.path)}),
        cwd=tree.path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_missing_tools_are_named_with_their_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    paths = Paths(str(tmp_path), str(tmp_path), str(tmp_path))
    cluster = local_cluster(nodes=2, trainers_per_host=1, servers_per_host=1)
    with pytest.raises(PreflightError, match=r"apt-get install .*iproute2"):
        LocalBackend().start(cluster, run_id="0123abce", paths=paths, logs=tmp_path)


@EITHER
def test_a_network_that_cannot_be_made_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "ip"
    broken.write_text("#!/bin/sh\necho 'Operation not supported' >&2\nexit 2\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    code = str(Path(__file__).parents[2])
    backend = LocalBackend()
    cluster = local_cluster(nodes=2, trainers_per_host=1, servers_per_host=1)
    with pytest.raises(PreflightError, match=r"cannot make 2 hosts.*Operation not supported"):
        backend.start(cluster, run_id="0123abcf", paths=Paths(code, code, code), logs=tmp_path / "logs")
    backend.close()
