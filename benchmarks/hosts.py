"""Graph servers and trainers on simulated hosts for the benchmarks, the trainers' program replaced."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from launch.backends import LocalBackend
from launch.cluster import local_cluster, new_run_id
from launch.console import Console
from launch.plan import Paths, make_plan
from launch.supervisor import Supervisor
from launch.watch import Interrupts
from pipeline.config import TrainPlan

CODE = Path(__file__).resolve().parents[1]


def run_on_hosts(plan: TrainPlan, partition: Path, folder: Path, *, hosts: int, client: Path) -> None:
    """Run `client` once per host, with that host's graph server, in the run folder `folder`, which is there;
    raises what the supervisor raises where a process fails."""
    (folder / "plan.json").write_text(plan.to_json())
    cluster = local_cluster(nodes=hosts, trainers_per_host=1, servers_per_host=1)
    run_id, paths = new_run_id(), Paths(str(CODE), str(CODE), str(folder.resolve()), str(partition.resolve()))
    backend = LocalBackend()
    try:
        links = backend.start(cluster, run_id=run_id, paths=paths, logs=folder / "logs")
        supervisor = Supervisor(
            links, cluster, console=Console(sys.stderr), interrupts=Interrupts(), hang_timeout_s=1800
        )
        try:
            ports = supervisor.hold_ports(1)
            launch = make_plan(plan, cluster, ports, paths, run_id=run_id, resume="never")
            argv = (sys.executable, str(client.resolve()))
            trainers = [dataclasses.replace(spec, argv=argv) for spec in launch.of_role("trainer")]
            supervisor.run_job(launch.of_role("server"), trainers)
        finally:
            supervisor.stop()
    finally:
        backend.close()
