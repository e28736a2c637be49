"""A job in a process of its own, and what it took at most: memory above that after its imports, disk, time.

The job says "ready" when all is imported, waits for a line, works, and ends with a line of JSON. One that
says "loaded" meanwhile is looked at and waits for another line. Linux only.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_SAMPLE_S = 0.05
_DISK_SAMPLE_S = 1.0


@dataclass(frozen=True)
class Watched:
    """What a job told and took; sizes in bytes."""

    told: dict[str, Any]
    seconds: float
    """From the start of its work until it had told."""
    peak_anonymous: int
    """Memory that cannot be dropped, above that after imports."""
    peak_total: int
    """Imports and mapped files counted as well."""
    loaded: int
    """Like peak_anonymous, when it said "loaded"; 0 if it never did."""
    peak_disk: int
    """Of the folder that was to be watched."""


@dataclass
class _Peaks:
    """What a process held at most, sampled."""

    anonymous: int = 0
    total: int = 0
    disk: int = 0
    done: threading.Event = field(default_factory=threading.Event)

    def sample(self, pid: int) -> int:
        """Anonymous memory now; 0 of a process that has ended."""
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return 0
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}
        if "VmRSS" not in sizes:
            return 0
        held = sizes["RssAnon"] + sizes["RssShmem"]
        self.anonymous = max(self.anonymous, held)
        self.total = max(self.total, sizes["VmRSS"])
        return held

    def watch(self, pid: int, folder: Path) -> None:
        last = 0.0
        while not self.done.wait(_SAMPLE_S):
            self.sample(pid)
            if time.monotonic() - last > _DISK_SAMPLE_S:
                last = time.monotonic()
                self.disk = max(self.disk, size_of(folder))


def watched(command: Sequence[str], folder: Path) -> Watched:
    """Run a job; SystemExit if it fails. `folder` may be missing; its size is looked at every second."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    while process.stdout.readline() not in ("ready\n", ""):
        pass  # what libraries say while they are imported
    before, peaks = _Peaks().sample(process.pid), _Peaks()
    watcher = threading.Thread(target=peaks.watch, args=(process.pid, folder))
    watcher.start()
    start = time.monotonic()
    print("go", file=process.stdin, flush=True)
    loaded, line, seconds = 0, "", 0.0
    for line in process.stdout:
        seconds = time.monotonic() - start  # to the last line: leaving takes a process a second
        if line == "loaded\n":
            loaded = max(peaks.sample(process.pid) - before, 0)
            print("on", file=process.stdin, flush=True)
    peaks.done.set()
    watcher.join()
    if process.wait():
        raise SystemExit(f"{' '.join(command)}: failed with exit code {process.returncode}")
    held = max(peaks.anonymous - before, 0)
    disk = max(peaks.disk, size_of(folder))
    return Watched(json.loads(line), seconds, held, peaks.total, loaded, disk)


def size_of(folder: Path) -> int:
    """Bytes that the files of a folder take on the disk; files may come and go meanwhile."""
    total = 0
    for inner, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(inner, name)).st_blocks * 512
    return total
