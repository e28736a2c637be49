"""The smoke job in a real Slurm's queue: the figures of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from kills import processes_of

from tests.hosts.slurm_queue import Queue, can_queue
from tests.hosts.smoke_job import REPO, arguments, figures, run_here, smoke
from tests.hosts.ssh_hosts import ssh_hosts
from tests.launch_tree import Tree, wait_for

pytestmark = [
    pytest.mark.drill,
    pytest.mark.root,
    pytest.mark.timeout(1500, func_only=True),
    pytest.mark.skipif(not can_queue(), reason="needs root, iproute2, openssh-server, slurm-wlm and munge"),
]


def test_in_a_queue_the_figures_are_those_of_this_machine(tmp_path: Path) -> None:
    run_here(smoke(tmp_path, tmp_path / "local"))
    run = tmp_path / "queued"
    with ssh_hosts(2, tmp_path / "hosts") as hosts:
        queue = Queue(Tree(REPO), hosts)
        try:
            job, _ = queue.submit(*arguments(tmp_path, run, "--trainers-per-node", "2"))
            wait_for(lambda: queue.state(job) not in ("PENDING", "RUNNING", "COMPLETING"), seconds=600)
            assert queue.state(job) == "COMPLETED"
        finally:
            queue.close()
    assert figures(run) == pytest.approx(figures(tmp_path / "local"), abs=1e-6)
    wait_for(lambda: not processes_of(run), seconds=60)
