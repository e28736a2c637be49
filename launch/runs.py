"""Run folders: where they are, who works in them, and how a plan's relative paths are read.

Rules for paths, so that a plan means the same from every folder:
- on the command line, relative paths are the caller's (--config, --run-dir, --set graph.path=...);
- graph.path, model.lm and a stage's start in the plan are relative to the plan's folder if they
  exist there, else to the home folder; graph.builder is relative to the plan's folder;
- partition.store and runs/ lie in the home folder: the checkout, or the current folder when the
  packages are installed elsewhere. It is also the working folder of every process. Partitions of a store at
  a URL are kept in its store/.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import shlex
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO

from launch.cluster import new_run_id
from launch.outcome import write_atomically
from partition.errors import LockedError, UsageError
from partition.paths import is_url, store_folder, store_url
from pipeline.config import TrainPlan

CODE = Path(__file__).resolve().parents[1]
DEFAULT_PLAN = CODE / "examples" / "python_packages" / "plan.toml"
_START_KEY = re.compile(r"stages\.[^.]+\.start")
_PATH_KEYS = ("graph.path", "graph.builder", "partition.store")
_VERSIONS_OF = ("lm-gnn", "torch", "dgl", "deepspeed", "transformers", "numpy", "pyarrow")


SLURM_JOB_FILE = "slurm.job"
"""Of a run that was submitted: the job's number."""


def home() -> Path:
    """The checkout, or the current folder when there is none."""
    return CODE if (CODE / "pyproject.toml").exists() else Path.cwd()


def cache() -> Path:
    """Where every host keeps partitions of a store at a URL."""
    return home() / "store"


def partition_folder(path: str) -> str:
    """--partition with the caller's relative path made absolute; empty stays empty."""
    if is_url(path):
        hint = "`lmgnn partition pull` brings it here; or name the store in partition.store"
        raise UsageError(f"--partition {path}: expected a folder", hint=hint)
    return str(Path(path).absolute()) if path else ""


def absolute_overrides(overrides: Iterable[str]) -> list[str]:
    """--set arguments with the caller's relative paths made absolute."""
    result = []
    for text in overrides:
        key, _, value = text.partition("=")
        bare = value.strip().strip("\"'")
        local = (
            (key.strip() in _PATH_KEYS and bare)
            or (key.strip() == "model.lm" and Path(bare).is_dir())
            or (_START_KEY.fullmatch(key.strip()) and Path(bare.rpartition(":")[0] or "\0").is_dir())
        )
        result.append(
            f"{key}={json.dumps(str(Path(bare).absolute()))}" if local and _is_relative(bare) else text
        )
    return result


def resolve_plan(plan: TrainPlan, folder: Path, base: Path) -> TrainPlan:
    """The plan with absolute paths; `folder` is the plan's, `base` the home folder."""

    def found(path: str) -> str:
        return path if not _is_relative(path) else str((folder if (folder / path).exists() else base) / path)

    builder = plan.graph.builder
    graph = dataclasses.replace(
        plan.graph, path=found(plan.graph.path), builder=str(folder / builder) if builder else ""
    )
    if builder and not Path(graph.builder).is_file():
        raise UsageError(f"graph.builder: {graph.builder} does not exist")
    if builder and "://" in graph.path:
        raise UsageError(
            f"graph.path = {graph.path!r}: graph.builder makes local folders only",
            hint="train on a graph that is there with --set graph.builder=",
        )
    lm = plan.model.lm
    model = dataclasses.replace(plan.model, lm=found(lm) if Path(found(lm)).is_dir() else lm)
    partition = dataclasses.replace(plan.partition, store=_store(plan.partition.store, base))
    return dataclasses.replace(plan, graph=graph, model=model, partition=partition)


def _store(store: str, base: Path) -> str:
    if is_url(store):
        return store_url(store, key="partition.store")
    return str(base / store_folder(store, key="partition.store"))


def _is_relative(path: str) -> bool:
    return "://" not in path and not path.startswith("package:") and not Path(path).is_absolute()


@dataclass(frozen=True)
class RunFolder:
    """A run folder that this process owns as long as it holds `lock`."""

    path: Path
    run_id: str
    attempts: int
    """Attempts made in it before."""
    lock: IO[str]

    @property
    def resumed(self) -> bool:
        return self.attempts > 0


def create(
    plan: TrainPlan, *, path: Path | None, name: str, command: str, versions: Mapping[str, str]
) -> RunFolder:
    """Make a new run folder, `path` or runs/<UTC time>-<name>, with plan.json and run.json in it."""
    if path is None:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        path = _unused(home() / "runs" / f"{stamp}-{name or plan.name}")
    path.mkdir(parents=True, exist_ok=True)
    lock = _take_lock(path)
    run_id = new_run_id()
    record = {
        "id": run_id,
        "fingerprint": plan.fingerprint(),
        "command": command,
        "cwd": os.getcwd(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": dict(versions),
    }
    write_atomically(path / "plan.json", plan.to_json() + "\n")
    write_atomically(path / "run.json", json.dumps(record, indent=1) + "\n")
    point_latest(path)
    return RunFolder(path, run_id, 0, lock)


def reopen(path: Path, plan: TrainPlan, *, hosts: int, trainers_per_host: int) -> RunFolder:
    """Go on in an existing run folder; UsageError when it is another plan's or another cluster's."""
    record = json.loads((path / "run.json").read_text())
    if record["fingerprint"] != plan.fingerprint():
        raise UsageError(
            f"{path} belongs to another plan", hint="use the same plan and --set, or another --run-dir"
        )
    lock = _take_lock(path)
    attempts = 0
    with contextlib.suppress(FileNotFoundError):
        launch = json.loads((path / "launch.json").read_text())
        attempts = launch["attempt"]
        before = (launch["hosts"], launch["trainers_per_host"])
        if before != (hosts, trainers_per_host):
            raise UsageError(
                f"{path} ran on {before[0]} host(s) x {before[1]} trainer(s), "
                f"not {hosts} x {trainers_per_host}",
                hint="its checkpoints fit the same numbers only",
            )
    (path / "outcome.json").unlink(missing_ok=True)
    point_latest(path)
    return RunFolder(path, record["id"], attempts, lock)


def find(name: str) -> Path:
    """A run folder by path, by its name under runs/, or `latest`; UsageError when there is none."""
    for path in (Path(name), home() / "runs" / name):
        if (path / "run.json").is_file() or (path / SLURM_JOB_FILE).is_file():
            return path.resolve()
    raise UsageError(f"no run {name!r}", hint=f"runs are in {home() / 'runs'}")


def run_dir(text: str) -> Path:
    """What --run-dir means: a run by path, name or `latest`, else a new folder of the caller's."""
    try:
        return find(text)
    except UsageError:
        if text == "latest":
            raise
        return Path(text).absolute()


def slurm_job(path: Path) -> str:
    """The number under which a run was submitted to Slurm last; empty if it never was."""
    try:
        return (path / SLURM_JOB_FILE).read_text().strip()
    except OSError:
        return ""


def is_alive(path: Path) -> bool:
    """Whether a supervisor works in the folder at this moment."""
    try:
        with (path / ".lock").open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def supervisor_of(path: Path) -> tuple[int, str]:
    """Process id and host of the supervisor that works in the folder, or was the last to."""
    pid, _, host = (path / ".lock").read_text().partition(" ")
    return int(pid), host


def versions() -> dict[str, str]:
    """What a run was made with: package versions and the commit of the checkout."""
    found = {}
    for name in _VERSIONS_OF:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    with contextlib.suppress(OSError):
        git = ["git", "-C", str(CODE), "describe", "--always", "--dirty", "--abbrev=12"]
        result = subprocess.run(git, capture_output=True, text=True, check=False)
        if result.returncode == 0:
            found["git"] = result.stdout.strip()
    return found


def command_line(argv: Iterable[str], *, name: str = "lmgnn") -> str:
    """The command as a person would type it again; `name` is what they called it by."""
    return shlex.join([name, *argv])


def command_to_go_on(command: str, path: Path) -> str:
    """The command that takes the run in `path` up again: the same one, but for --run-dir and --resume."""
    words, kept = iter(shlex.split(command)), []
    for word in words:
        if word in ("--run-dir", "--resume"):
            next(words, None)
        elif not word.startswith(("--run-dir=", "--resume=")):
            kept.append(word)
    if slurm_job(path) and "run" in kept:  # typed on a login node, `run` would work there
        kept[kept.index("run")] = "submit"
    return shlex.join([*kept, "--run-dir", str(path)])


def _take_lock(path: Path) -> IO[str]:
    """Hold the folder's lock; its text is the supervisor's process id and host (for `lmgnn stop`)."""
    file = (path / ".lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        pid, _, host = file.read().partition(" ")
        file.close()
        raise LockedError(
            f"{path} is in use by process {pid} on {host}", hint=f"wait for it, or `lmgnn stop {path}`"
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()} {socket.gethostname()}")
    file.flush()
    return file


def _unused(path: Path) -> Path:
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate


def point_latest(path: Path) -> None:
    """runs/latest -> the run, replaced in one step; only runs under runs/ get it."""
    if path.parent != home() / "runs":
        return
    temporary = path.parent / f".latest.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(path.name)
    temporary.replace(path.parent / "latest")
