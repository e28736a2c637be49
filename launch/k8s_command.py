"""`lmgnn plan --backend k8s`: from flags and plan to manifests on stdout."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from launch import runs
from launch.k8s_manifests import MAX_NAME, PodWishes, plan_source, render, to_yaml
from partition.errors import UsageError
from pipeline.config import load_plan

RESTARTS = 3
"""Of a job in pods, unless --max-restarts says otherwise: there a lost host is nothing unusual."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of `lmgnn plan` that only manifests know."""
    wishes = PodWishes()
    group = parser.add_argument_group("with --backend k8s")
    add = group.add_argument
    add("--image", default=wishes.image, help="what the pods run")
    add("--cpus", type=int, default=wishes.cpus, metavar="N", help="cores of a pod")
    add("--memory-gib", type=int, default=wishes.memory_gib, metavar="N", help="memory of a pod")
    add("--shm-gib", type=int, default=wishes.shm_gib, metavar="N", help="of it for /dev/shm")
    add("--gpus", type=int, default=wishes.gpus, metavar="N", help="GPUs of a pod; each gets a trainer")
    add("--storage-gib", type=int, default=wishes.storage_gib, metavar="N", help="of the volume they share")


def show_manifests(options: argparse.Namespace, command: str) -> int:
    """Print the manifests of the job that the flags describe; reads the plan, builds nothing."""
    config = Path(options.config)
    plan = load_plan(config, options.overrides)
    source = plan_source(config, runs.CODE)
    if source.text and plan.graph.builder:
        raise UsageError(
            f"graph.builder = {plan.graph.builder!r}: pods get the plan file alone",
            hint="build the graph into the volume or a bucket; --set graph.builder= and graph.path",
        )
    useless = [flag for flag, given in _of_no_use(options) if given]
    if useless:
        raise UsageError(f"{', '.join(useless)}: of no use in pods", hint="leave it out")
    if options.run_dir:
        raise UsageError("--run-dir: in pods it is runs/NAME in the volume", hint="give --name")
    wishes = PodWishes(
        image=options.image,
        cpus=options.cpus,
        memory_gib=options.memory_gib,
        shm_gib=options.shm_gib,
        storage_gib=options.storage_gib,
        gpus=options.gpus,
    )
    nodes = 1 if options.nodes is None else options.nodes
    if nodes < 1:
        raise UsageError(f"--nodes {nodes}: expected at least 1")
    manifests = render(
        options.name or plan.name, source, wishes, nodes=nodes, arguments=_run_arguments(options)
    )
    asked, name = options.name or plan.name, manifests[-1]["metadata"]["name"]
    if name != asked:
        rule = f"Kubernetes takes a-z, 0-9 and -, and {MAX_NAME} of them leave room for the pods' own names"
        sys.stderr.write(f"note: {asked!r} is called {name!r} in pods: {rule}\n")
    sys.stdout.write(to_yaml(manifests, command=command))
    return 0


def _of_no_use(options: argparse.Namespace) -> list[tuple[str, object]]:
    """Flags of `run` that mean nothing in pods, or the opposite of what a replaced pod 0 must do."""
    return [
        ("--partition", options.partition),
        ("--hostfile", options.hostfile),
        ("--ssh-config", options.ssh_config),
        ("--network", options.network),
        ("--allow-public", options.allow_public),
        ("--export", options.export),
        ("--resume never", options.resume == "never"),
        ("--json", options.json),
    ]


def _run_arguments(options: argparse.Namespace) -> list[str]:
    """The flags that the pods' own `lmgnn run` gets."""
    restarts = RESTARTS if options.max_restarts is None else options.max_restarts
    arguments = ["--max-restarts", str(restarts)]
    for flag, value, usual in (
        ("--trainers-per-node", options.trainers_per_node, None),
        ("--servers-per-node", options.servers_per_node, 1),
        ("--hang-timeout", options.hang_timeout, 900.0),
    ):
        arguments += [flag, str(value)] if value != usual else []
    for text in options.overrides:
        arguments += ["--set", text]
    return arguments
