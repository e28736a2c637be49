"""`lmgnn run`: prepare, launch attempts until one succeeds or the budget is spent, finish, sum up.

Owns the order of things and outcome.json. Never touches a process itself: that is the agents' work.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from launch import runs, steps
from launch.attempts import show_tail, start_of, train
from launch.backends import Backend, choose_backend
from launch.cluster import ClusterSpec
from launch.console import Console
from launch.job import Job, RunOptions
from launch.outcome import Interrupted, JobFailed, Outcome
from launch.plan import HostPorts, LaunchPlan, Paths, make_plan
from launch.starts import kept_plan, resolve_starts
from launch.summary import show_results
from launch.watch import STATE_FILE, STEPS_FILE, Interrupts, Watched, write_state
from partition.errors import LMGNNError, UsageError
from partition.paths import is_url
from partition.storage import disk_is_full
from partition.usage import in_use
from pipeline.config import TrainPlan, load_plan


def read_plan(
    options: RunOptions, console: Console, interrupts: Interrupts
) -> tuple[TrainPlan, Backend, ClusterSpec]:
    """The plan with absolute paths, and the hosts that flags or environment speak for."""
    plan = load_plan(options.config, runs.absolute_overrides(options.overrides))
    folder, home = options.config.resolve().parent, runs.home()
    kept = kept_plan(runs.run_dir(options.run_dir)) if options.run_dir else None
    plan = resolve_starts(runs.resolve_plan(plan, folder, home), folder, home, kept)
    backend = choose_backend(options.backend, options.hosts, os.environ)
    paths = Paths(str(runs.CODE), str(runs.home()), str(runs.home() / "runs"))
    cluster = backend.cluster(paths, console)
    if interrupts.count:
        raise Interrupted(interrupts.code)
    if options.partition:
        steps.check_partition(plan, cluster, options.partition)
    return plan, backend, cluster


def run(options: RunOptions) -> int:
    """Run a whole job; the exit code. Whatever happens, outcome.json says how it ended."""
    console, interrupts = _terminal(options)
    plan, backend, cluster = read_plan(options, console, interrupts)
    versions = runs.versions()
    folder = _open_folder(plan, cluster, options, versions)
    job = Job(
        plan=plan,
        backend=backend,
        cluster=cluster,
        options=options,
        folder=folder,
        paths=Paths(str(runs.CODE), str(runs.home()), str(folder.path)),
        console=console,
        interrupts=interrupts,
        versions=versions,
        attempt=folder.attempts + 1,
    )
    going_on = f" (going on {start_of(folder.path).words})" if folder.resumed else ""
    console.say(f"run {folder.path}{going_on}")
    outcome = _written(_complete(job, _outcome_of(job)), folder.path)
    backend.finish(outcome.exit_code)
    _sum_up(job, outcome)
    if options.json:
        sys.stdout.write(json.dumps({"run": str(folder.path), **outcome.to_dict()}) + "\n")
    return outcome.exit_code


def _terminal(options: RunOptions) -> tuple[Console, Interrupts]:
    interrupts = Interrupts()
    interrupts.install()
    return Console(sys.stderr if options.json else sys.stdout), interrupts


def dry_run(options: RunOptions) -> int:
    """Show what would run and what it would cost. Builds graph and partition, since both count."""
    console, interrupts = _terminal(options)
    plan, _, cluster = read_plan(options, console, interrupts)
    with tempfile.TemporaryDirectory(prefix="lmgnn-plan-") as scratch:
        paths = Paths(str(runs.CODE), str(runs.home()), str(runs.home() / "runs" / "RUN"))
        unknown = tuple(HostPorts() for _ in cluster.hosts)
        launch = make_plan(plan, cluster, unknown, paths, run_id="00000000", command=options.command)
        if not options.json:
            _show_processes(console, launch)
        plan_file = Path(scratch) / "plan.json"
        plan_file.write_text(plan.to_json())
        logs = Path(scratch) / "logs"
        try:
            with steps.on_the_head(paths, logs, console, interrupts) as head:
                partition = steps.prepare(head, plan, cluster, console, partition=options.partition)
                arguments = ["-m", "pipeline", "estimate", "--plan", str(plan_file)]
                arguments += ["--partition", str(partition), *(["--json"] if options.json else [])]
                folder = runs.run_dir(options.run_dir) if options.run_dir else runs.home() / "runs"
                arguments += ["--run-dir", str(folder)]
                estimate = head.run("estimate", *arguments)
        except JobFailed as error:
            sys.stderr.write(f"error: {error}\n")
            return error.exit_code
    launch = replace(launch, partition=str(partition))
    if options.json:
        answer = {"launch": json.loads(launch.to_json()), "estimate": steps.last_json(estimate)}
        sys.stdout.write(json.dumps(answer) + "\n")
    else:
        console.plain(estimate)
    return 0


def _open_folder(
    plan: TrainPlan, cluster: ClusterSpec, options: RunOptions, versions: dict[str, str]
) -> runs.RunFolder:
    path = runs.run_dir(options.run_dir) if options.run_dir else None
    if path is not None and (path / "run.json").exists():
        if options.resume == "never":
            raise UsageError(f"{path} holds a run", hint="--resume auto goes on with it")
        return runs.reopen(path, plan, hosts=len(cluster.hosts), trainers_per_host=cluster.trainers_per_host)
    return runs.create(plan, path=path, name=options.name, command=options.command, versions=versions)


def _outcome_of(job: Job) -> Outcome:
    """Do all of it; the process border where every error becomes an outcome."""
    try:
        _do(job)
    except (JobFailed, Interrupted) as error:
        return Outcome(error.exit_code, str(error), getattr(error, "first_failed", None))
    except LMGNNError as error:
        return Outcome(error.exit_code, str(error))
    except OSError as error:
        return Outcome(_code_of(error), str(error))
    except Exception as error:
        with contextlib.suppress(OSError):
            (job.folder.path / "traceback.txt").write_text(traceback.format_exc())
        return Outcome(70, f"{type(error).__name__}: {error} (see {job.folder.path}/traceback.txt)")
    return Outcome(0, "done")


def _complete(job: Job, outcome: Outcome) -> Outcome:
    seconds = time.monotonic() - job.started
    return replace(outcome, seconds=seconds, peak_bytes=job.peak_bytes, restarts=job.restarts)


def _written(outcome: Outcome, run: Path) -> Outcome:
    """The outcome, on the disk where that has room for it: without, it is told and decides the exit code."""
    try:
        outcome.write(run)
    except OSError as error:
        if outcome.exit_code == 0:
            return replace(outcome, exit_code=_code_of(error), message=f"no outcome.json: {error}")
        sys.stderr.write(f"error: no outcome.json: {error}\n")
    return outcome


def _code_of(error: OSError) -> int:
    return 14 if disk_is_full(error) else 12


def _do(job: Job) -> None:
    for name in (STATE_FILE, STEPS_FILE):  # a supervisor that was killed left its processes there as running
        (Path(job.paths.run) / name).unlink(missing_ok=True)
    with contextlib.ExitStack() as held:
        with _on_the_head(job, "prepare") as head:
            partition = _prepare(job, head)
            held.enter_context(in_use(partition))
            job.cluster = job.backend.check(job.cluster, job.paths, job.console, run_id=job.folder.run_id)
            _look_for_leaks(job, head, partition)
        train(job)
        _finish(job)


def _prepare(job: Job, head: steps.Steps) -> Path:
    """The partition's folder, whole on the head; other hosts may bring theirs from a store at a URL."""
    given = job.options.partition
    partition = steps.prepare(head, job.plan, job.cluster, job.console, partition=given)
    store = job.plan.partition.store
    job.paths = replace(
        job.paths, partition=str(partition), store=store if is_url(store) and not given else ""
    )
    return partition


def _look_for_leaks(job: Job, head: steps.Steps, partition: Path) -> None:
    job.console.say("looking for leaks")
    plan, leaks = Path(job.paths.run) / "plan.json", Path(job.paths.run) / "leaks.json"
    arguments = ("--plan", str(plan), "--partition", str(partition), "--output", str(leaks))
    head.run("leaks", "-m", "pipeline", "leaks", *arguments)


def _finish(job: Job) -> None:
    with _on_the_head(job, "finish") as head:
        job.console.say("computing the baselines")
        head.run("baselines", "-m", "pipeline", "baselines", job.paths.run)
        job.console.say("writing the report")
        # The report tells time, memory and restarts; the last word on the run is written after it.
        _complete(job, Outcome(0, "done")).write(Path(job.paths.run))
        head.run("report", "-m", "pipeline", "report", job.paths.run)


def _on_the_head(job: Job, phase: str) -> contextlib.AbstractContextManager[steps.Steps]:
    """An agent for the job's steps, which `lmgnn status` sees."""
    run = Path(job.paths.run)

    def note(watched: Sequence[Watched], head: ClusterSpec) -> None:
        write_state(run / STEPS_FILE, watched, head, attempt=job.attempt, phase=phase)

    return steps.on_the_head(job.paths, run / "logs" / "steps", job.console, job.interrupts, on_change=note)


def _sum_up(job: Job, outcome: Outcome) -> None:
    console = job.console
    if outcome.exit_code == 0:
        show_results(console, Path(job.paths.run))
        memory = f", {outcome.peak_bytes / 2**30:.1f} GiB at most" if outcome.peak_bytes else ""
        console.say(f"done{memory}; report: {Path(job.paths.run) / 'report.html'}")
        return
    if outcome.first_failed:
        show_tail(console, JobFailed(outcome.message, outcome.exit_code, outcome.first_failed))
    sys.stderr.write(f"error: {outcome.message}\n")
    if outcome.exit_code in (10, 11, 14, 130, 143):
        console.say(f"go on with: {runs.command_to_go_on(job.options.command, job.folder.path)}")


def _show_processes(console: Console, launch: LaunchPlan) -> None:
    rows = [
        [
            launch.cluster.hosts[p.host].name,
            launch.cluster.hosts[p.host].address,
            p.role,
            str(p.rank),
            p.env.get("OMP_NUM_THREADS", ""),
            " ".join(p.argv[-2:]),
            Path(p.log).name,
        ]
        for p in launch.processes
    ]
    columns = ("host", "address", "role", ">rank", ">threads", "module", "log")
    console.table(f"{len(rows)} processes (ports are chosen at the start)", columns, rows)
