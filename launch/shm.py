"""Which shared-memory segments belong to which run, and which runs are dead.

An agent holds a lock on /dev/shm/lmgnn-<run id>-lock while its run lives; the kernel drops the
lock with the process, however it dies. Segments of runs whose lock is free are swept. Names
without such a lock file are never touched.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

FOLDER = Path("/dev/shm")
PREFIX = "lmgnn-"
LOCK_SUFFIX = "-lock"


class RunLock:
    """Marks a run as alive on this host until `release`, or until the process dies."""

    def __init__(self, run_id: str, folder: Path = FOLDER) -> None:
        self._run_id = run_id
        self._folder = folder
        self._file = _lock(folder / f"{PREFIX}{run_id}{LOCK_SUFFIX}")

    def release(self) -> None:
        """Drop the lock and, when no other agent of the run is left, the run's segments."""
        self._file.close()
        _sweep_if_dead(self._run_id, self._folder)


def sweep_dead_runs(folder: Path = FOLDER) -> list[str]:
    """Remove what dead runs left; the names of the removed segments."""
    removed = []
    for lock in sorted(folder.glob(f"{PREFIX}*{LOCK_SUFFIX}")):
        removed += _sweep_if_dead(lock.name[len(PREFIX) : -len(LOCK_SUFFIX)], folder)
    return removed


def _lock(path: Path) -> IO[bytes]:
    """A shared lock on the file at `path`; again if a sweeper removed the file under our hands."""
    while True:
        file = path.open("ab")
        fcntl.flock(file, fcntl.LOCK_SH)
        try:
            if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                return file
        except FileNotFoundError:
            pass
        file.close()


def _sweep_if_dead(run_id: str, folder: Path) -> list[str]:
    lock = folder / f"{PREFIX}{run_id}{LOCK_SUFFIX}"
    try:
        file = os.open(lock, os.O_RDWR)
    except OSError:  # gone, or another user's
        return []
    removed = []
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The lock goes last: without it nobody would know whose the segments are.
        names = [p for p in folder.glob(f"{PREFIX}{run_id}-*") if p != lock]
        for path in [*names, lock]:
            path.unlink(missing_ok=True)
            removed.append(path.name)
    except BlockingIOError:  # the run lives
        return []
    finally:
        os.close(file)
    return removed
