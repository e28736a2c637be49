"""Who uses a partition of a local store, and when it was used last.

Owns the shared lock that users hold on its manifest, and the manifest's time, which is the stamp of the last
use. Both work for users who may only read. Standard library only, because `launch` imports it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from partition.manifest import MANIFEST_NAME


@contextlib.contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Keep `partition gc` from removing a partition; a holder that dies frees it."""
    stamp(folder)
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # no such partition, or a file system without locks: others tell
            stream = held.enter_context((folder / MANIFEST_NAME).open("rb"))
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield


def stamp(folder: Path) -> None:
    """Note that a partition is used now, where this user may."""
    with contextlib.suppress(OSError):
        os.utime(folder / MANIFEST_NAME)


def last_used(folder: Path) -> float:
    """When a partition was made, pulled or used last, in seconds of the epoch."""
    return (folder / MANIFEST_NAME).stat().st_mtime


@contextlib.contextmanager
def unused(folder: Path) -> Iterator[bool]:
    """Whether nobody uses a partition; nobody begins to within the block."""
    with (folder / MANIFEST_NAME).open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
