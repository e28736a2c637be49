"""How a run ended: exit class and first failed process. Never stops anything."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from partition.errors import LMGNNError

PASSED_ON = (2, 3, 12, 13, 14)
"""Exit codes of a worker that become the job's own; none of them gets better by a restart."""
CLASSES = {
    0: "done",
    2: "usage",
    3: "data",
    4: "gate refused",
    5: "locked",
    10: "worker failed",
    11: "hang",
    12: "preflight",
    13: "store",
    14: "disk full",
    70: "bug",
    130: "interrupted",
    143: "terminated",
}


@dataclass(frozen=True)
class FirstFailed:
    """The process that failed first."""

    host: str
    role: str
    rank: int
    returncode: int
    """0 to 255; 128 + n for a death by signal n."""
    reading: str
    """What the code means, in plain words."""
    log: str
    tail: str = ""

    @property
    def name(self) -> str:
        return f"{self.role} {self.rank} @ {self.host}"


@dataclass(frozen=True)
class Outcome:
    exit_code: int
    message: str
    first_failed: FirstFailed | None = None
    seconds: float = 0.0
    peak_bytes: int = 0
    """Highest memory of all processes of the job together (per host, then added up)."""
    restarts: int = 0

    def to_dict(self) -> Mapping[str, Any]:
        raw = asdict(self)
        raw["class"] = class_of(self.exit_code)
        return raw

    def write(self, run_folder: Path) -> None:
        write_atomically(run_folder / "outcome.json", json.dumps(self.to_dict(), indent=1) + "\n")


class JobFailed(LMGNNError):
    """A process of the job failed, or a host did; carries the class of the first one."""

    def __init__(self, message: str, exit_code: int, first_failed: FirstFailed | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.first_failed = first_failed


class Interrupted(LMGNNError):
    """A person or a scheduler asked the job to end: 130 or 143."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("stopped by Ctrl-C" if exit_code == 130 else "stopped by a signal")
        self.exit_code = exit_code


def class_of(exit_code: int) -> str:
    return CLASSES.get(exit_code, "other")


def exit_code_of(returncode: int) -> int:
    """The job's exit code for a process that ended with a non-zero `returncode` (subprocess's)."""
    return returncode if returncode in PASSED_ON else 10


def shell_code(returncode: int) -> int:
    """128 + n for a death by signal n."""
    return 128 - returncode if returncode < 0 else returncode


def write_atomically(path: Path, text: str) -> None:
    """Readers see the old or the new text, whole."""
    temporary = path.with_name(path.name + ".new")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
