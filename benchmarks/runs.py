"""Runs of plans for the benchmarks: through `lmgnn run`, resumed where they stopped, read from files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


def ensure_run(
    plan: Path, folder: Path, *, changes: Mapping[str, object], arguments: Sequence[str] = ()
) -> None:
    """Run a plan into a folder; a finished run is not repeated, an interrupted one goes on."""
    outcome = folder / "outcome.json"
    if outcome.exists() and not read_json(outcome)["exit_code"]:
        return
    command = [sys.executable, "-P", "-m", "launch", "run", "--config", str(plan), "--run-dir", str(folder)]
    for key, value in changes.items():
        command += ["--set", f"{key}={value}"]
    subprocess.run([*command, *arguments], check=True)


def steps(folder: Path) -> Iterator[dict[str, Any]]:
    """Step events of all trainers."""
    for path in folder.glob("events*.jsonl"):
        for line in path.read_text().splitlines():
            event = json.loads(line)
            if event["event"] == "step":
                yield event


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")
