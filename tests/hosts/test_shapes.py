"""Two trainers are two trainers, on one host or on two: the same figures."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.hosts.smoke_job import figures, run_here, smoke

NAMESPACES = [
    "unshare",
    *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]),
    "--net",
    "--mount",
    "true",
]


@pytest.mark.drill
@pytest.mark.timeout(1500)
@pytest.mark.skipif(
    subprocess.run(NAMESPACES, check=False).returncode != 0, reason="this machine lets nobody make namespaces"
)
def test_two_hosts_of_one_trainer_and_one_host_of_two_agree(tmp_path: Path) -> None:
    found = []
    for nodes, trainers in ((2, 1), (1, 2)):
        run = tmp_path / f"{nodes}x{trainers}"
        run_here(smoke(tmp_path, run, "--trainers-per-node", str(trainers), nodes=nodes))
        found.append(figures(run))
    assert found[0] == pytest.approx(found[1], abs=1e-6)
