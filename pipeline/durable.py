"""Small files that must be whole or absent, and full disks that must be named.

Owns the write-rename step for single files and the translation of "no space left" into
DiskFullError. Never retries and never deletes anything but its own temporary file.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from partition.errors import DiskFullError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOTHING_LEFT_BYTES = 64 * 1024


def is_disk_full(error: BaseException, folder: Path) -> bool:
    """Whether an error came from a full disk.

    Libraries that write from native code (safetensors, torch) hide errno in a text or lose it, so the
    free space of the folder counts as evidence too.
    """
    if isinstance(error, DiskFullError) or (isinstance(error, OSError) and error.errno in _FULL):
        return True
    if "No space left" in str(error):
        return True
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free < _NOTHING_LEFT_BYTES


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Turn an error of a full disk into DiskFullError that names the path; others pass."""
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:  # re-raised: only the class changes
        if is_disk_full(error, path):
            raise DiskFullError(
                f"no space is left for {path}", hint="free some space there and resume the run"
            ) from error
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def whole_file(path: Path, *, sync: bool) -> Iterator[Path]:
    """A draft to write to, which takes the file's name when the block ends well.

    Readers see the old or the new file; with `sync` it also survives a power cut. Any failure, such as
    DiskFullError, leaves the old one.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with naming_full_disk(path):
        try:
            yield draft
            if sync:
                with open(draft, "rb") as file:
                    os.fsync(file.fileno())
            os.replace(draft, path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        if sync:
            sync_folder(path.parent)


def write_whole(path: Path, text: str, *, sync: bool) -> None:
    """Replace a file by `text` in one step; see whole_file."""
    with whole_file(path, sync=sync) as draft:
        draft.write_text(text, encoding="utf-8")
