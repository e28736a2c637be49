"""`lmgnn submit`: writes a job's batch script into its run folder and hands it to sbatch.

The script is deploy/slurm/job.sbatch, filled in; what runs in it is an ordinary `lmgnn run`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from launch import runs
from launch.outcome import write_atomically
from launch.starts import kept_plan, resolve_starts
from partition.errors import PreflightError, UsageError
from pipeline.config import load_plan

TEMPLATE = runs.CODE / "deploy" / "slurm" / "job.sbatch"
REQUEUES = 20
"""How often a job queues itself again in all; every time it goes on where it was."""
FAILURES = 3
"""How often in a row it does so after a failure: `--max-restarts` has been spent each time."""
SLURM_TROUBLE = ("unable to contact", "communication", "timed out", "connection refused", "munge", "plugin")
"""In what sbatch says where Slurm, or this host's part of it, is at fault; all else is about the options."""
PATHS = ("--partition", "--ssh-config")
OWN_VALUES = ("--config", "--nodes", "--run-dir", "--name", "--sbatch", "--set", *PATHS)
"""Options of submit that are not handed to `lmgnn run` as they are."""
CORES = ("--exclusive", "--cpus-per-task", "-c", "--cpus-per-gpu")
"""Options of sbatch that say how many cores of a node the job gets."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags beside those of `lmgnn run`."""
    parser.add_argument("--sbatch", action="append", default=[], metavar="OPTION",
        help="for sbatch, such as --sbatch=--time=04:00:00 (may be repeated)")  # fmt: skip


def submit(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Write and submit the script; --dry-run prints it. Exit code 0; UsageError, PreflightError."""
    if options.hostfile or options.backend not in ("", "slurm"):
        flag = "--hostfile" if options.hostfile else f"--backend {options.backend}"
        raise UsageError(f"{flag}: Slurm chooses the hosts of a submitted job", hint=f"leave {flag} out")
    config = Path(options.config).absolute()
    plan = load_plan(config, runs.absolute_overrides(options.overrides))
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    run = runs.run_dir(options.run_dir) if options.run_dir else runs.home() / "runs" / f"{stamp}-{plan.name}"
    if options.name and not options.run_dir:
        run = run.with_name(f"{stamp}-{options.name}")
    nodes = 1 if options.nodes is None else options.nodes
    command = [sys.executable, "-P", "-m", "launch", "run", "--config", str(config), "--nodes", str(nodes)]
    for text in runs.absolute_overrides(options.overrides):
        command += ["--set", text]
    # `latest` is this run once it is submitted; a run that is not there yet may be by its turn.
    for asked in plan.stages:
        with contextlib.suppress(UsageError):
            alone = dataclasses.replace(plan, stages=(asked,))
            [stage] = resolve_starts(alone, config.resolve().parent, runs.home(), kept_plan(run)).stages
            if ":" in stage.start:
                command += ["--set", f"stages.{stage.name}.start={json.dumps(stage.start)}"]
    for flag in PATHS:  # the script changes folder
        if value := getattr(options, flag[2:].replace("-", "_")):
            command += [flag, str(Path(value).absolute())]
    command += ["--run-dir", str(run), *_handed_on(arguments)]
    script = fill_in(
        TEMPLATE.read_text() if TEMPLATE.exists() else "",
        {
            "name": options.name or plan.name,
            "nodes": str(nodes),
            "run": str(run),
            "cores": "" if _asks_for_cores(options.sbatch) else "#SBATCH --exclusive\n",
            "options": "".join(f"#SBATCH {_one_line(text)}\n" for text in options.sbatch),
            "code": shlex.quote(str(runs.CODE)),
            "home": shlex.quote(str(runs.home())),
            "command": shlex.join(command),
            "restarts": str(REQUEUES),
            "failures": str(FAILURES),
        },
    )
    if options.dry_run:
        sys.stdout.write(script)
        return 0
    run.mkdir(parents=True, exist_ok=True)
    path = run / "job.sbatch"
    path.write_text(script)
    job = _sbatch(path)
    write_atomically(run / runs.SLURM_JOB_FILE, job + "\n")
    runs.point_latest(run)
    sys.stdout.write(f"job {job}, run {run}\n")
    sys.stderr.write(f"log: {run}/slurm-{job}.log; `lmgnn status {run}`; `scancel {job}` ends it\n")
    return 0


def fill_in(template: str, values: Mapping[str, str]) -> str:
    """The template with {{name}} replaced; PreflightError when it is missing, UsageError for odd values."""
    if not template:
        raise PreflightError(f"{TEMPLATE} is missing", hint="submit from a checkout or the image")
    for key in ("name", "run"):
        if not re.fullmatch(r"[\w./:@+=,-]+", values[key]):
            raise UsageError(
                f"{values[key]!r}: sbatch's comment lines take no spaces or quotes",
                hint="choose another --run-dir or --name",
            )
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], template)


def _asks_for_cores(wishes: Sequence[str]) -> bool:
    """Without a word a task gets a single core where jobs share nodes."""
    return any(wish.partition("=")[0].partition(" ")[0] in CORES for wish in wishes)


def _one_line(option: str) -> str:
    if "\n" in option or not option.startswith("-"):
        raise UsageError(
            f"--sbatch {option!r}: expected an option of sbatch", hint="--sbatch=--time=04:00:00"
        )
    return option


def _handed_on(arguments: Sequence[str]) -> list[str]:
    """The flags that submit does not treat itself."""
    kept, skip = [], True  # the first word is the command
    for word in arguments:
        if skip:
            skip = False
        elif word.partition("=")[0] in OWN_VALUES:
            skip = "=" not in word
        elif word != "--dry-run":
            kept.append(word)
    return kept


def _sbatch(script: Path) -> str:
    """The job's number; UsageError with sbatch's own words where it does not like an option."""
    if not shutil.which("sbatch"):
        raise PreflightError("sbatch is not there", hint="submit where Slurm's client commands are")
    result = subprocess.run(
        ["sbatch", "--parsable", str(script)], capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        words = result.stderr.strip() or f"nothing, but ended with {result.returncode}"
        if any(trouble in words.lower() for trouble in SLURM_TROUBLE):
            raise PreflightError(f"sbatch cannot submit: it says {words!r}", hint="is Slurm's controller up?")
        hint = "correct --sbatch, --nodes or --name; `sbatch --help` lists options"
        raise UsageError(f"sbatch refuses the job: it says {words!r}", hint=hint)
    return result.stdout.strip().partition(";")[0]
