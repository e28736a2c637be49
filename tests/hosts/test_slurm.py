"""Jobs in a real Slurm's queue: submitted, run on its nodes, saved before the time is up, taken up again."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.slurm_queue import Queue, can_queue
from tests.hosts.ssh_hosts import ssh_hosts
from tests.launch_tree import ROOT, make_tree, wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        not can_queue(),
        reason="needs root, iproute2, openssh-server, slurm-wlm and munge",
    ),
]


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    tree = make_tree(tmp_path / "tree")
    shutil.copytree(ROOT / "deploy", tree.path / "deploy")
    with ssh_hosts(2, tmp_path / "hosts") as hosts:
        queue = Queue(tree, hosts)
        try:
            yield queue
        finally:
            queue.close()


def test_a_submitted_job_runs_on_the_nodes_of_its_allocation(queue: Queue) -> None:
    job, run = queue.submit("--trainers-per-node", "2")
    wait_for(lambda: queue.state(job) not in ("PENDING", "RUNNING", "COMPLETING"), seconds=120)
    log = (run / f"slurm-{job}.log").read_text()
    assert queue.state(job) == "COMPLETED", log
    assert json.loads((run / "outcome.json").read_text())["class"] == "done"
    facts = [json.loads((run / f"facts-{k}.json").read_text()) for k in range(2)]
    assert [f["name"] for f in facts] == ["host1", "host2"]
    assert len({f["net"] for f in facts}) == 2


def test_the_end_of_the_time_saves_a_checkpoint_and_queues_the_job_again(queue: Queue) -> None:
    job, run = queue.submit("--trainers-per-node", "2", FAKE_FOREVER="1")
    wait_for(lambda: len(list(run.glob("live/a1/trainer-*.json"))) == 4, seconds=120)
    queue.on_head("scancel", "--batch", "--signal=TERM", job)  # what --signal=B:TERM@120 sends
    wait_for(lambda: len(list(run.glob("saved-*"))) == 4, seconds=60)
    wait_for(lambda: "queued again, for the time 1" in (run / f"slurm-{job}.log").read_text(), seconds=60)
    # Slurm keeps a requeued job back for a while: that it may start now is the scheduler's own decision.
    wait_for(lambda: queue.state(job) == "PENDING", seconds=60)
    queue.on_head("scancel", job)


def test_a_cancelled_job_stays_cancelled(queue: Queue) -> None:
    job, run = queue.submit("--trainers-per-node", "2", FAKE_FOREVER="1")
    wait_for(lambda: len(list(run.glob("live/a1/trainer-*.json"))) == 4, seconds=120)
    queue.on_head("scancel", job)
    wait_for(lambda: "ended with 143" in (run / f"slurm-{job}.log").read_text(), seconds=60)
    wait_for(lambda: queue.state(job) == "CANCELLED", seconds=60)
    assert "not queued again by this script: Slurm has the job" in (run / f"slurm-{job}.log").read_text()


def test_a_node_that_is_told_to_end_lets_all_trainers_save(queue: Queue) -> None:
    job, run = queue.submit("--trainers-per-node", "2", FAKE_FOREVER="1")
    wait_for(lambda: len(list(run.glob("live/a1/trainer-*.json"))) == 4, seconds=120)
    queue.on_head("scancel", "--signal=TERM", job)  # to the steps, as preemption does
    wait_for(lambda: len(list(run.glob("saved-*"))) == 4, seconds=60)
    wait_for(lambda: queue.state(job) not in ("RUNNING", "COMPLETING"), seconds=60)
    assert json.loads((run / "outcome.json").read_text())["exit_code"] == 143


def test_a_failure_that_no_retry_mends_is_not_queued_again(queue: Queue) -> None:
    job, run = queue.submit("--trainers-per-node", "2", FAKE_trainer_3="exit=3")
    wait_for(lambda: queue.state(job) not in ("PENDING", "RUNNING", "COMPLETING"), seconds=120)
    assert queue.state(job) == "FAILED"
    assert json.loads((run / "outcome.json").read_text())["exit_code"] == 3
    assert "ended with 3; not queued again" in (run / f"slurm-{job}.log").read_text()


def test_more_nodes_than_the_allocation_has_are_refused(queue: Queue) -> None:
    command = queue.tree.command("run", "--nodes", "3")
    allocation = ["salloc", "--nodes=2", "--quiet", *command]
    result = subprocess.run(
        queue._hosts.on_head(allocation), env=queue.environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2, result.stderr
    assert "--nodes 3: the allocation has 2" in result.stderr
