"""A checkout in a temporary folder: the real launch package over stand-ins for the other two.

Tests of the launcher start the real command in it, so that agents, process groups, signals and
exit codes are the real ones while nothing is trained. tests/data/fake_job holds the stand-ins.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FAKES = ROOT / "tests" / "data" / "fake_job"


@dataclass(frozen=True)
class Tree:
    path: Path

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-P", "-m", "launch", *arguments]

    def environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.path), "OMP_NUM_THREADS": "1", **extra}

    def run(self, *arguments: str, **fakes: str) -> subprocess.CompletedProcess[str]:
        """Run `lmgnn ARGUMENTS` to its end."""
        return subprocess.run(
            self.command(*arguments),
            env=self.environment(fakes),
            cwd=self.path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def start(self, *arguments: str, **fakes: str) -> subprocess.Popen[str]:
        """Start `lmgnn ARGUMENTS` in a session of its own, its output in `lmgnn.log`."""
        with (self.path / "lmgnn.log").open("w") as log:
            return subprocess.Popen(
                self.command(*arguments),
                env=self.environment(fakes),
                cwd=self.path,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                text=True,
            )

    @property
    def latest(self) -> Path:
        return self.path / "runs" / "latest"

    def processes(self) -> list[str]:
        """Command lines of processes that were started from this tree."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                environment = (entry / "environ").read_bytes()
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if command and f"PYTHONPATH={self.path}\0".encode() in environment:
                found.append(command.replace(b"\0", b" ").decode())
        return found

    def segments(self) -> list[str]:
        """Shared-memory names of this tree's runs."""
        ids = [p.parent for p in self.path.glob("runs/*/run.json")]
        names = []
        for folder in ids:
            run_id = (folder / "run.json").read_text().split('"id": "')[1][:8]
            names += [p.name for p in Path("/dev/shm").glob(f"*{run_id}*")]
        return names


def make_tree(path: Path) -> Tree:
    for package, files in {
        "partition": (
            "__init__.py",
            "errors.py",
            "manifest.py",
            "paths.py",
            "storage.py",
            "store.py",
            "usage.py",
        ),
        "pipeline": (
            "__init__.py",
            "config.py",
            "overview.py",
            "plain.py",
            "plan_check.py",
            "plan_stages.py",
            "plan_tables.py",
        ),
    }.items():
        (path / package).mkdir(parents=True)
        for name in files:
            shutil.copy(ROOT / package / name, path / package / name)
    shutil.copytree(ROOT / "launch", path / "launch", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(FAKES, path, dirs_exist_ok=True)
    shutil.copy(ROOT / "pyproject.toml", path)
    plan = path / "examples" / "python_packages" / "plan.toml"
    plan.parent.mkdir(parents=True)
    shutil.move(path / "plan.toml", plan)
    return Tree(path)


def wait_for(condition: Callable[[], object], *, seconds: float = 30.0) -> float:
    """Return once the condition holds, with the seconds that it took; AssertionError after the deadline."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() < start + seconds, "the condition did not come true in time"
        time.sleep(0.05)
    return time.monotonic() - start
