"""The steps around a job: build the graph, partition it, estimate, baselines, report.

Each is one child process on the head, run under an agent of its own, so that it ends with the
supervisor like everything else. Knows the command lines of `python -m partition` and `python -m
pipeline`; imports neither.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from launch.backends import LocalBackend
from launch.cluster import ClusterSpec, local_cluster
from launch.console import Console
from launch.outcome import JobFailed
from launch.plan import ERROR_MARK, Paths, step_spec
from launch.runs import cache
from launch.supervisor import Supervisor
from launch.watch import Interrupts, Watched
from partition.errors import UsageError
from partition.manifest import PartitionManifest
from partition.paths import is_url
from pipeline.config import TrainPlan
from pipeline.plan_check import check_against


class Steps:
    """Runs steps one after the other; their logs are numbered in `logs`."""

    def __init__(self, supervisor: Supervisor, paths: Paths, logs: Path) -> None:
        self._supervisor = supervisor
        self._paths = paths
        self._logs = logs

    def run(self, name: str, *argv: str) -> str:
        """Run `python -P ARGV` to its end; what it wrote to stdout. JobFailed when it fails."""
        number = len(list(self._logs.glob("*.log")))
        spec = step_spec(self._paths, name, argv, rank=number, log_folder=str(self._logs))
        try:
            self._supervisor.run_step(spec)
        except JobFailed as error:
            raise _in_its_words(error) from None
        return Path(spec.output).read_text()


@contextlib.contextmanager
def on_the_head(
    paths: Paths,
    logs: Path,
    console: Console,
    interrupts: Interrupts,
    *,
    on_change: Callable[[Sequence[Watched], ClusterSpec], None] = lambda *_: None,
) -> Iterator[Steps]:
    """An agent for steps, ended with the block; `on_change` is told of every start and end."""
    logs.mkdir(parents=True, exist_ok=True)
    head = local_cluster(nodes=1, trainers_per_host=1, servers_per_host=1)
    backend = LocalBackend()
    try:
        links = backend.start(head, run_id="", paths=paths, logs=logs / "agent")
        supervisor = Supervisor(
            links,
            head,
            console=console,
            interrupts=interrupts,
            hang_timeout_s=0,
            on_change=lambda watched: on_change(watched, head),
        )
        with contextlib.closing(supervisor):
            yield Steps(supervisor, paths, logs)
    finally:
        backend.close()


def prepare(
    steps: Steps, plan: TrainPlan, cluster: ClusterSpec, console: Console, *, partition: str = ""
) -> Path:
    """Build the graph folder if the plan says how, then the partition unless it is given; its folder."""
    if plan.graph.builder:
        console.say(f"building the graph {plan.graph.path}")
        steps.run("graph", plan.graph.builder, plan.graph.path)
    if partition:
        return Path(partition)
    console.say(f"partitioning for {len(cluster.hosts)} host(s) x {cluster.trainers_per_host} trainer(s)")
    output = steps.run("partition", *partition_arguments(plan, cluster))
    answer = last_json(output)
    if "path" not in answer:
        raise JobFailed("`partition build` named no partition", 70)
    console.say(f"partition {answer['path']} ({'found' if answer.get('found') else 'built'})")
    check_against(plan, PartitionManifest.load(answer["path"]))
    return Path(answer["path"])


def check_partition(plan: TrainPlan, cluster: ClusterSpec, folder: str) -> None:
    """UsageError, with the command that makes the right one, where a partition does not fit the job."""
    manifest = PartitionManifest.load(folder)
    wanted = shlex.join(["lmgnn", *partition_arguments(plan, cluster)[1:-1]])
    hosts, trainers = len(cluster.hosts), cluster.trainers_per_host
    if manifest.hosts != hosts:
        raise UsageError(
            f"{folder} is cut for {manifest.hosts} host{'s' * (manifest.hosts != 1)}, the job has {hosts}",
            hint=f"--nodes {manifest.hosts}, or make another: {wanted}",
        )
    if manifest.trainers % trainers:
        raise UsageError(
            f"{folder} has {manifest.trainers} parts a host, not to be shared by {trainers} trainers",
            hint=f"--trainers-per-node {manifest.trainers}, or make another: {wanted}",
        )
    for key, value in (("tokenizer", plan.model.lm), ("max_length", plan.model.max_length)):
        if manifest.options.get(key, value) != value:
            raise UsageError(
                f"{folder} was made with {key} {manifest.options[key]!r}, the plan has {value!r}",
                hint=f"make another: {wanted}",
            )
    check_against(plan, manifest)


def partition_arguments(plan: TrainPlan, cluster: ClusterSpec) -> tuple[str, ...]:
    """The command line of `partition build` for a plan on a cluster."""
    cut = plan.partition
    parts = cut.parts_per_host or cluster.trainers_per_host
    if parts % cluster.trainers_per_host:
        raise UsageError(
            f"partition.parts_per_host = {parts}: not to be shared by {cluster.trainers_per_host} trainers",
            hint=f"take a multiple of {cluster.trainers_per_host}, or --trainers-per-node {parts}",
        )
    arguments = ["-m", "partition", "build", plan.graph.path, "--store", cut.store]
    arguments += ["--cache", str(cache())] if is_url(cut.store) else []
    arguments += ["--hosts", str(len(cluster.hosts)), "--trainers", str(parts)]
    arguments += ["--method", cut.method, "--cluster-size", str(cut.cluster_size), "--seed", str(cut.seed)]
    arguments += ["--memory", cut.memory] if cut.memory else []
    arguments += ["--even"] if cut.even else []
    arguments += ["--keep-eval-edges"] if cut.keep_eval_edges else []
    if cut.bad_rows != "fail":
        arguments += ["--bad-rows", cut.bad_rows, "--bad-rows-cap", str(cut.bad_rows_cap)]
    arguments += ["--reverse" if cut.reverse else "--no-reverse"]
    for relation in plan.graph.relations:
        arguments += ["--relations", relation]
    arguments += ["--tokenizer", plan.model.lm, "--trainable"]
    arguments += ["--max-length", str(plan.model.max_length), "--json"]
    return tuple(arguments)


def _in_its_words(error: JobFailed) -> JobFailed:
    """The failure of a step as the step told it; what it said before has been on the terminal already."""
    failed = error.first_failed
    if failed is None:
        return error
    last = failed.tail.splitlines()[-1:]
    told = last[0].removeprefix(ERROR_MARK) if last and last[0].startswith(ERROR_MARK) else str(error)
    return JobFailed(told, error.exit_code, dataclasses.replace(failed, tail=""))


def last_json(output: str) -> dict[str, Any]:
    """The JSON object on the last line of a step's stdout; empty when there is none."""
    lines = output.strip().splitlines()
    with contextlib.suppress(ValueError, IndexError):
        answer = json.loads(lines[-1])
        if isinstance(answer, dict):
            return answer
    return {}
