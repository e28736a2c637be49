"""Pods of an indexed Job, started by their own command lines on simulated hosts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from launch_tree import Tree, make_tree, wait_for

from tests.hosts.pods import HIDDEN, ROOT, Pods, pods_of


def _what_lacks() -> str:
    """Why no pods can be simulated here; empty = they can."""
    if missing := [name for name in ("unshare", "nsenter", "ip") if not shutil.which(name)]:
        return f"needs {', '.join(missing)} (util-linux, iproute2)"
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    if subprocess.run(["unshare", *user, "--net", "--mount", "true"], check=False).returncode:
        return "this machine lets nobody make namespaces"
    for path in (Path(sys.base_prefix), Path(sys.prefix), Path(tempfile.gettempdir()), ROOT):
        if hidden := [place for place in HIDDEN if path.resolve().is_relative_to(place)]:
            return f"pods hide {hidden[0]} under mounts of their own, and {path} lies there"
    return ""


pytestmark = pytest.mark.skipif(bool(_what_lacks()), reason=_what_lacks())


def job_of(tree: Tree, *flags: str) -> dict[str, Any]:
    """The Job that `lmgnn plan --backend k8s` prints."""
    result = tree.run("plan", "--backend", "k8s", "--name", "job", "--nodes", "2", *flags)
    assert result.returncode == 0, result.stderr
    return next(m for m in yaml.safe_load_all(result.stdout) if m["kind"] == "Job")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return make_tree(tmp_path / "tree")


@pytest.fixture
def pods(tree: Tree, tmp_path: Path) -> Iterator[Pods]:
    """Two pods of a job of stand-ins."""
    job = job_of(tree, "--trainers-per-node", "2")
    (tree.path / "pyproject.toml").unlink()  # the image has none either
    with pods_of(job, tmp_path / "job", code=tree.path) as started:
        yield started


def test_the_pods_own_command_lines_run_a_job(pods: Pods) -> None:
    both = [pods.start(1), pods.start(0)]
    assert [pod.wait(timeout=120) for pod in both] == [0, 0], pods.log(0).read_text()
    facts = [json.loads((pods.work / "runs/job" / f"facts-{k}.json").read_text()) for k in range(2)]
    assert [f["name"] for f in facts] == ["job-0.job", "job-1.job"]
    assert len({f["net"] for f in facts}) == 2
    assert (pods.work / "runs/job/live/a1/ip_config.txt").read_text().split()[::2] == [
        "10.77.0.1",
        "10.77.0.2",
    ]


@pytest.mark.parametrize(("fake", "code"), [("exit=3", 3), ("exit=2", 2)])
def test_all_pods_end_with_a_code_that_no_retry_mends(pods: Pods, fake: str, code: int) -> None:
    both = [pods.start(0, FAKE_trainer_3=fake), pods.start(1, FAKE_trainer_3=fake)]
    assert [pod.wait(timeout=120) for pod in both] == [code, code], pods.log(0).read_text()


def test_a_pod_without_the_key_is_turned_away(pods: Pods) -> None:
    head, stranger = pods.start(0), pods.start(1, key="x" * 64)
    wait_for(lambda: "hung up" in pods.log(1).read_text(), seconds=120)  # not merely: nobody listens yet
    assert head.poll() is None
    assert not (pods.work / "runs" / "job" / "facts-1.json").exists()
    os.killpg(stranger.pid, signal.SIGKILL)
    assert pods.start(1).wait(timeout=120) == 0
    assert head.wait(timeout=60) == 0
    assert json.loads((pods.work / "runs/job/outcome.json").read_text())["restarts"] == 0


def test_a_pod_that_dies_is_taken_in_again_when_it_was_replaced(pods: Pods) -> None:
    head, other = pods.start(0, FAKE_FOREVER="1"), pods.start(1, FAKE_FOREVER="1")
    live = pods.work / "runs" / "job" / "live"
    wait_for(lambda: len(list(live.glob("a1/trainer-*.json"))) == 4, seconds=120)
    os.killpg(other.pid, signal.SIGKILL)
    other.wait()
    pods.start(1, FAKE_FOREVER="1")
    wait_for(lambda: len(list(live.glob("a2/trainer-*.json"))) == 4, seconds=120)
    pods.signal(head, signal.SIGTERM)
    assert head.wait(timeout=60) == 143


@pytest.mark.parametrize("drained", [0, 1])
def test_a_pod_that_is_drained_lets_all_trainers_save(pods: Pods, drained: int) -> None:
    both = [pods.start(0, FAKE_FOREVER="1"), pods.start(1, FAKE_FOREVER="1")]
    run = pods.work / "runs" / "job"
    wait_for(lambda: len(list(run.glob("live/a1/trainer-*.json"))) == 4, seconds=120)
    pods.signal(both[drained], signal.SIGTERM)
    assert both[0].wait(timeout=60) == 143
    assert len(list(run.glob("saved-*"))) == 4
    if drained:
        assert both[1].wait(timeout=60) == 143
    else:  # the other waits for the pod that takes the place of the drained one, which goes on
        pods.start(0, FAKE_FOREVER="1")
        wait_for(lambda: len(list(run.glob("live/a2/trainer-*.json"))) == 4, seconds=120)
        assert both[1].poll() is None


@pytest.mark.drill
def test_the_smoke_job_runs_in_two_pods(tmp_path: Path) -> None:
    code = tmp_path / "image"
    code.mkdir()
    for name in ("launch", "partition", "pipeline", "examples"):  # what .dockerignore lets into the image
        shutil.copytree(ROOT / name, code / name, ignore=shutil.ignore_patterns("__pycache__"))
    tree = Tree(code)
    job = job_of(tree, "--config", str(code / "examples" / "smoke.toml"), "--trainers-per-node", "1")
    with pods_of(job, tmp_path / "job", code=code) as pods:
        both = [pods.start(0), pods.start(1)]
        assert [pod.wait(timeout=400) for pod in both] == [0, 0], pods.log(0).read_text()
        run = pods.work / "runs" / "job"
        assert json.loads((run / "outcome.json").read_text())["class"] == "done"
        launch = json.loads((run / "launch.json").read_text())
        assert [h["interface"] for h in launch["cluster"]["hosts"]] == ["eth0", "eth0"]
        assert "test" in (run / "metrics.json").read_text()
        assert (run / "report.html").exists()
