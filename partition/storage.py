"""Where bytes come from and go to: inputs on any fsspec URL, results on a local disk, whole or not at all.

Owns checksums, the lock file, the atomic publication of a folder, and how a full disk or a missing file is
reported. Never looks into a table or a partition.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import posixpath
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import fsspec

from partition.errors import DataError, DiskFullError, LMGNNError, LockedError, StoreError, UsageError

BEAT_S = 30.0
SILENT_S = 2 * 3600.0
"""Without a sign of life of who holds a lock; some libraries let no other thread run while they cut."""
LOOK_S = 0.2
"""Between two looks at a lock that somebody else holds."""
_CHUNK = 1 << 20
_REMOTE_CLIENTS = ("botocore", "aiobotocore", "aiohttp")
"""Libraries under s3fs and fsspec's HTTP whose errors come through as they are."""


@dataclass(frozen=True)
class InputFile:
    """One table file; `name` is its path relative to the graph's folder where it lies in it."""

    fs: Any
    path: str
    name: str

    def open(self) -> IO[bytes]:
        """Open for reading; DataError if it is missing, StoreError if it cannot be reached."""
        with reading(self.name):
            return self.fs.open(self.path, "rb")  # type: ignore[no-any-return]

    def sha256(self) -> str:
        """Checksum of the content, 64 hex digits."""
        with reading(self.name), self.fs.open(self.path, "rb") as stream:
            return _digest(stream)


@dataclass(frozen=True)
class InputFolder:
    """A folder on any fsspec URL."""

    url: str

    def file(self, path: str) -> InputFile:
        """A file by a path relative to the folder, an absolute one, or a URL of its own."""
        fs, root = self._root()
        if "://" in path or path.startswith("/"):
            fs, full = _file_system(path)
        else:
            full = posixpath.join(root, path)
        inside = full.startswith(root.rstrip("/") + "/")
        return InputFile(fs, full, posixpath.relpath(full, root) if inside else full)

    def files(self, paths: Sequence[str], *, where: str) -> list[InputFile]:
        """All files that paths and globs name, in their order; DataError if one names nothing."""
        found: list[InputFile] = []
        for path in paths:
            item = self.file(path)
            if not any(c in path for c in "*?["):
                found.append(item)
                continue
            with reading(path):
                matches = sorted(item.fs.glob(item.path))
            if not matches:
                raise DataError(f"{where}: no file matches {path!r} in {self.url}")
            prefix = self._root()[1].rstrip("/") + "/"
            found += [InputFile(item.fs, str(m), str(m).removeprefix(prefix)) for m in matches]
        return found

    def _root(self) -> tuple[Any, str]:
        return _file_system(self.url)


def _file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it; UsageError where fsspec has none for it."""
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise UsageError(f"{url!r} cannot be opened: {error}", hint="check the word before ://") from error
    return fs, str(path)


@contextlib.contextmanager
def reading(name: str, *, hint: str = "check the path in graph.toml") -> Iterator[None]:
    """Report a missing input as DataError and an unreachable one as StoreError."""
    try:
        yield
    except LMGNNError:
        raise
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise DataError(f"{name}: no such file", hint=hint) from None
    except Exception as error:
        # Clients of remote stores raise classes of their own, such as botocore's for missing credentials.
        if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in _REMOTE_CLIENTS:
            raise
        raise StoreError(f"{name}: cannot be read: {error}") from error


def disk_is_full(error: BaseException) -> bool:
    """Whether something failed because there is no space left, or a quota is used up."""
    if isinstance(error, DiskFullError):
        return True
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Report a disk that is full under `path` as DiskFullError and other trouble as StoreError."""
    try:
        yield
    except OSError as error:
        if disk_is_full(error):
            raise DiskFullError(
                f"{path}: no space left on the disk", hint="free some space or choose another store"
            ) from error
        raise StoreError(f"{path}: cannot be written: {error}") from error


def sha256_of(path: Path) -> str:
    """Checksum of a local file, 64 hex digits."""
    with path.open("rb") as stream:
        return _digest(stream)


def write_text(path: Path, text: str) -> None:
    """Write a file that is on the disk when this returns."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """The same for bytes."""
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def sync(path: Path) -> None:
    """Make a file's content, or a folder's list of names, survive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish(folder: Path, final: Path) -> None:
    """Give a finished folder its final name in one step; all files in it must be synced already."""
    for inner, _, _ in os.walk(folder):
        sync(Path(inner))
    folder.rename(final)
    sync(final.parent)


@contextlib.contextmanager
def locked(path: Path, *, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold a file lock; `waiting` is called once, with who holds it, if somebody else does.

    A dead holder frees it. LockedError where a holder gives no sign of life for SILENT_S.
    The file stays: to remove it would let two processes hold locks on two files of one name.
    """
    with path.open("a+") as stream:
        if not _take(stream):
            waiting(_holder(stream))
            _wait_for(stream)
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}")
        stream.flush()
        done = threading.Event()
        beat = threading.Thread(target=_beat, args=(path, done), daemon=True)
        beat.start()
        try:
            yield
        finally:
            done.set()
            beat.join()


def _take(stream: IO[str]) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _beat(path: Path, done: threading.Event) -> None:
    """A holder's signs of life: the file's time."""
    while not done.wait(BEAT_S):
        with contextlib.suppress(OSError):
            os.utime(path)


def _wait_for(stream: IO[str]) -> None:
    last, since = os.fstat(stream.fileno()).st_mtime_ns, time.monotonic()
    while not _take(stream):
        if (beat := os.fstat(stream.fileno()).st_mtime_ns) != last:
            last, since = beat, time.monotonic()  # by this clock: that of a file server may differ
        if time.monotonic() - since > SILENT_S:
            raise LockedError(
                f"{stream.name} is held by {_holder(stream)}, which has shown no life for {SILENT_S:.0f} s",
                hint="end it: the same command then goes on with what it has done",
            )
        time.sleep(LOOK_S)


def _holder(stream: IO[str]) -> str:
    stream.seek(0)
    return stream.read() or "another process"  # it may have the lock and not have written yet


def is_locked(path: Path) -> bool:
    """Whether somebody holds a file lock at this moment."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _digest(stream: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()
