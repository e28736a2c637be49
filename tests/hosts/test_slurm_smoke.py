"""The smoke job in a real Slurm's queue: the figures of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from kills import processes_of

from tests.hosts.slurm_queue import Queue, can_queue
from tests.hosts.smoke_job import REPO, arguments, figures, run_here, smoke
from tests.hosts.ssh_hosts import ssh_hosts
from tests.launch_tree import Tree, wait_for

UNDER_WAY = ("PENDING", "RUNNING", "COMPLETING", "REQUEUED")
pytestmark = [
    pytest.mark.drill,
    pytest.mark.root,
    pytest.mark.timeout(1500, func_only=True),
    pytest.mark.skipif(not can_queue(), reason="needs root, iproute2, openssh-server, slurm-wlm and munge"),
]


def test_in_a_queue_the_figures_are_those_of_this_machine_also_when_requeued(tmp_path: Path) -> None:
    run_here(smoke(tmp_path, tmp_path / "local"))
    with ssh_hosts(2, tmp_path / "hosts") as hosts:
        queue = Queue(Tree(REPO), hosts)
        try:
            for name in ("queued", "requeued"):
                run = tmp_path / name
                job, _ = queue.submit(*arguments(tmp_path, run, "--trainers-per-node", "2"))
                if name == "requeued":
                    wait_for(
                        lambda run=run: list(run.glob("checkpoints/*-warm/checkpoint.json")), seconds=300
                    )
                    queue.on_head("scontrol", "requeue", job)
                    wait_for(lambda run=run: "stopped by a signal" in _outcome(run), seconds=60)
                wait_for(lambda job=job: queue.state(job) not in UNDER_WAY, seconds=600)
                assert queue.state(job) == "COMPLETED"
                assert figures(run) == pytest.approx(figures(tmp_path / "local"), abs=1e-6)
                assert not [f for f in run.glob("logs/*/*.log") if "Aborted" in f.read_text()]
                wait_for(lambda run=run: not processes_of(run), seconds=60)
        finally:
            queue.close()


def _outcome(run: Path) -> str:
    path = run / "outcome.json"
    return path.read_text() if path.exists() else ""
