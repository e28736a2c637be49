"""Runs of one stage each on one host with one trainer, under the project's own supervisor, for their curves.

Owns the start of the graph server and of curve_trainer.py in the place of the usual trainer. A run whose
curve lies in its folder is not repeated; one that was interrupted, or whose plan has changed, begins anew.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from curve_trainer import CURVE, RUNS

from launch.backends import LocalBackend
from launch.cluster import local_cluster, new_run_id
from launch.console import Console
from launch.plan import Paths, ProcessSpec, make_plan
from launch.supervisor import Supervisor
from launch.watch import Interrupts
from pipeline.config import TrainPlan

_HERE = Path(__file__).resolve().parent
_CODE = str(_HERE.parent)


@dataclass(frozen=True)
class Run:
    """A stage to run."""

    name: str
    """Of its folder; and of its stage, where other runs start from it."""
    plan: TrainPlan
    """With this stage alone."""
    start: str = ""
    """Run of the same folder, before this one, whose model it starts from; empty: the pretrained one."""


def run_all(runs: Sequence[Run], partition: Path, folder: Path) -> None:
    """Make those runs that have no curve yet; each one's lies in `folder`/NAME then."""
    missing: list[Run] = []
    for run in runs:
        if not _is_done(run, folder) or run.start in {other.name for other in missing}:
            missing.append(run)
    if not missing:
        return
    for run in missing:
        shutil.rmtree(folder / run.name, ignore_errors=True)
        (folder / run.name).mkdir(parents=True)
        (folder / run.name / "plan.json").write_text(run.plan.to_json())
    (folder / "logs").mkdir(exist_ok=True)
    (folder / RUNS).write_text(json.dumps([{"name": run.name, "start": run.start} for run in missing]))
    _start(missing[0].plan, partition.resolve(), folder.resolve())


def _is_done(run: Run, folder: Path) -> bool:
    path = folder / run.name
    return (path / CURVE).exists() and (path / "plan.json").read_text() == run.plan.to_json()


def _start(plan: TrainPlan, partition: Path, folder: Path) -> None:
    cluster = local_cluster(nodes=1, trainers_per_host=1, servers_per_host=1)
    run_id, paths, backend = new_run_id(), Paths(_CODE, _CODE, str(folder), str(partition)), LocalBackend()
    interrupts = Interrupts()
    interrupts.install()
    supervisor = None
    try:
        links = backend.start(cluster, run_id=run_id, paths=paths, logs=folder / "logs")
        console = Console(sys.stderr)
        supervisor = Supervisor(links, cluster, console=console, interrupts=interrupts, hang_timeout_s=900)
        ports = supervisor.hold_ports(1)
        launch = make_plan(plan, cluster, ports, paths, run_id=run_id, resume="never")
        supervisor.run_job(launch.of_role("server"), [_ours(spec) for spec in launch.of_role("trainer")])
    finally:
        if supervisor:
            supervisor.stop()
        backend.close()


def _ours(spec: ProcessSpec) -> ProcessSpec:
    return replace(spec, argv=(spec.argv[0], "-P", str(_HERE / "curve_trainer.py")))
