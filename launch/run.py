"""`lmgnn run`: prepare, launch attempts until one succeeds or the budget is spent, finish, sum up.

Owns the order of things and outcome.json. Never touches a process itself: that is the agents' work.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from launch import runs, steps
from launch.backends import BACKENDS
from launch.cluster import ClusterSpec, local_cluster
from launch.console import Console
from launch.outcome import PASSED_ON, Interrupted, JobFailed, Outcome, write_atomically
from launch.plan import HostPorts, LaunchPlan, Paths, make_plan
from launch.summary import show_results
from launch.supervisor import Supervisor
from launch.watch import Interrupts, Watched, write_state
from partition.errors import LMGNNError, UsageError
from pipeline.config import TrainPlan, load_plan

PORT_TAKEN = ("address already in use", "bind failed", "eaddrinuse")


@dataclass(frozen=True)
class RunOptions:
    """The flags of `lmgnn run`."""

    config: Path
    overrides: Sequence[str]
    nodes: int
    trainers_per_host: int | None
    servers_per_host: int
    run_dir: str
    name: str
    resume: str
    max_restarts: int
    hang_timeout_s: float
    json: bool
    command: str


@dataclass
class Job:
    """What the parts of a run share."""

    plan: TrainPlan
    cluster: ClusterSpec
    options: RunOptions
    folder: runs.RunFolder
    paths: Paths
    console: Console
    interrupts: Interrupts
    versions: dict[str, str]
    attempt: int
    started: float = field(default_factory=time.monotonic)
    restarts: int = 0
    peak_bytes: int = 0


def read_plan(options: RunOptions) -> tuple[TrainPlan, ClusterSpec]:
    """The plan with absolute paths, and the cluster that the flags ask for."""
    plan = load_plan(options.config, runs.absolute_overrides(options.overrides))
    plan = runs.resolve_plan(plan, options.config.resolve().parent, runs.home())
    cluster = local_cluster(
        nodes=options.nodes,
        trainers_per_host=options.trainers_per_host,
        servers_per_host=options.servers_per_host,
    )
    return plan, cluster


def run(options: RunOptions) -> int:
    """Run a whole job; the exit code. Whatever happens, outcome.json says how it ended."""
    plan, cluster = read_plan(options)
    console = Console(sys.stderr if options.json else sys.stdout)
    interrupts = Interrupts()
    interrupts.install()
    versions = runs.versions()
    folder = _open_folder(plan, cluster, options, versions)
    paths = Paths(str(runs.CODE), str(runs.home()), str(folder.path))
    job = Job(plan, cluster, options, folder, paths, console, interrupts, versions, folder.attempts + 1)
    console.say(f"run {folder.path}" + (" (going on)" if folder.resumed else ""))
    outcome = _complete(job, _outcome_of(job))
    outcome.write(folder.path)
    _sum_up(job, outcome)
    if options.json:
        sys.stdout.write(json.dumps({"run": str(folder.path), **outcome.to_dict()}) + "\n")
    return outcome.exit_code


def dry_run(options: RunOptions) -> int:
    """Show what would run and what it would cost. Builds graph and partition, since both count."""
    plan, cluster = read_plan(options)
    console = Console(sys.stderr if options.json else sys.stdout)
    interrupts = Interrupts()
    interrupts.install()
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
                partition = steps.prepare(head, plan, cluster, console)
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
        return Outcome(14 if error.errno == 28 else 12, str(error))
    except Exception as error:
        (job.folder.path / "traceback.txt").write_text(traceback.format_exc())
        return Outcome(70, f"{type(error).__name__}: {error} (see {job.folder.path}/traceback.txt)")
    return Outcome(0, "done")


def _complete(job: Job, outcome: Outcome) -> Outcome:
    seconds = time.monotonic() - job.started
    return replace(outcome, seconds=seconds, peak_bytes=job.peak_bytes, restarts=job.restarts)


def _do(job: Job) -> None:
    logs = Path(job.paths.run) / "logs" / "steps"
    with steps.on_the_head(job.paths, logs, job.console, job.interrupts) as head:
        partition = steps.prepare(head, job.plan, job.cluster, job.console)
        job.console.say("looking for leaks")
        plan, leaks = Path(job.paths.run) / "plan.json", Path(job.paths.run) / "leaks.json"
        arguments = ("--plan", str(plan), "--partition", str(partition), "--output", str(leaks))
        head.run("leaks", "-m", "pipeline", "leaks", *arguments)
    job.paths = replace(job.paths, partition=str(partition))
    _train(job)
    with steps.on_the_head(job.paths, logs, job.console, job.interrupts) as head:
        job.console.say("computing the baselines")
        head.run("baselines", "-m", "pipeline", "baselines", job.paths.run)
        job.console.say("writing the report")
        # The report tells time, memory and restarts; the last word on the run is written after it.
        _complete(job, Outcome(0, "done")).write(Path(job.paths.run))
        head.run("report", "-m", "pipeline", "report", job.paths.run)


def _train(job: Job) -> None:
    """Attempts, each with new servers and trainers, until one succeeds or the budget is spent."""
    port_tries = 1
    while True:
        try:
            return _attempt(job)
        except JobFailed as error:
            tail = error.first_failed.tail.lower() if error.first_failed else ""
            if port_tries and any(words in tail for words in PORT_TAKEN):
                port_tries -= 1
                job.console.say(f"{error}: a port was taken meanwhile, trying others")
            elif job.restarts < job.options.max_restarts and error.exit_code not in PASSED_ON:
                job.restarts += 1
                _show_tail(job.console, error)
                job.console.say(f"{error}; restart {job.restarts} of {job.options.max_restarts}")
            else:
                raise
            job.attempt += 1


def _attempt(job: Job) -> None:
    folder = Path(job.paths.run)
    logs = folder / "logs" / f"a{job.attempt}"
    backend = BACKENDS[job.cluster.backend]()
    supervisor = None

    def note(watched: Sequence[Watched]) -> None:
        write_state(folder / "state.json", watched, job.cluster, attempt=job.attempt, phase="train")

    try:
        links = backend.start(job.cluster, run_id=job.folder.run_id, paths=job.paths, logs=logs)
        supervisor = Supervisor(
            links,
            job.cluster,
            console=job.console,
            interrupts=job.interrupts,
            hang_timeout_s=job.options.hang_timeout_s,
            on_change=note,
        )
        ports = supervisor.hold_ports(job.cluster.servers_per_host)
        launch = _launch_plan(job, ports)
        write_atomically(folder / "launch.json", launch.to_json() + "\n")
        servers, trainers = launch.of_role("server"), launch.of_role("trainer")
        job.console.say(f"attempt {job.attempt}: starting {len(servers)} graph server(s)")
        supervisor.run_job(servers, trainers)
    finally:
        if supervisor:
            supervisor.stop()
            job.peak_bytes = max(job.peak_bytes, supervisor.peak_bytes)
        backend.close()


def _launch_plan(job: Job, ports: tuple[HostPorts, ...]) -> LaunchPlan:
    return make_plan(
        job.plan,
        job.cluster,
        ports,
        job.paths,
        run_id=job.folder.run_id,
        attempt=job.attempt,
        resume="auto" if job.restarts or job.folder.resumed else job.options.resume,
        command=job.options.command,
        versions=job.versions,
    )


def _sum_up(job: Job, outcome: Outcome) -> None:
    console = job.console
    if outcome.exit_code == 0:
        show_results(console, Path(job.paths.run))
        memory = f", {outcome.peak_bytes / 2**30:.1f} GiB at most" if outcome.peak_bytes else ""
        console.say(f"done{memory}; report: {Path(job.paths.run) / 'report.html'}")
        return
    if outcome.first_failed:
        _show_tail(console, JobFailed(outcome.message, outcome.exit_code, outcome.first_failed))
    sys.stderr.write(f"error: {outcome.message}\n")
    if outcome.exit_code in (10, 11, 14, 130, 143):
        console.say(f"go on with: {runs.command_to_go_on(job.options.command, job.folder.path)}")


def _show_tail(console: Console, error: JobFailed) -> None:
    failed = error.first_failed
    if failed and failed.tail:
        console.plain(f"--- the last lines of {failed.log}\n{failed.tail}\n---")


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
