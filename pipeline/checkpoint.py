"""Checkpoints that are there whole or not at all, written by all ranks together.

Owns the folder of checkpoints: writing in two phases (all ranks write and report checksums, then rank 0
commits by one rename), choosing the newest whole one, retention. Never decides what goes into a
checkpoint, and never reads more of it than checksums and the JSON marker; statefiles.py does.

  FOLDER/000120-joint/checkpoint.json   marker: state, every file with size and sha256, its own checksum
  FOLDER/000120-joint/rank-<r>/...      what rank r wrote
  FOLDER/.tmp-000120-joint/             being written; readers never look there
The number in front gives the order. A name that is taken (training came by again after a resume) gets "~2",
"~3" and so on, which count as newer, so that no committed folder is ever changed.
All ranks need the same folder: one machine, or a shared file system.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from partition.errors import DiskFullError, StoreError, WorkerError
from partition.manifest import FileInfo
from pipeline.durable import is_disk_full, sync_folder, write_whole

MARKER = "checkpoint.json"
FORMAT_VERSION = 1
_TEMPORARY = ".tmp-"
_NAME = re.compile(r"(\d+)-([^/~]+)(?:~(\d+))?")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint."""

    path: Path
    state: Mapping[str, Any]
    """What the caller gave to save(), after a round trip through JSON (keys are strings)."""
    files: Mapping[str, FileInfo]
    """Path relative to the checkpoint -> size and checksum; the marker excepted."""

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def size_bytes(self) -> int:
        return sum(info.size for info in self.files.values())

    def rank_folder(self, rank: int) -> Path:
        """What that rank wrote; StoreError when it wrote nothing."""
        folder = self.path / f"rank-{rank}"
        if not folder.is_dir():
            raise StoreError(
                f"{self.path} holds nothing of rank {rank}",
                hint="resume with as many trainers as wrote the checkpoint",
            )
        return folder


class CheckpointStore:
    """The checkpoints of one run, as one rank sees them; save() and latest() are collective."""

    def __init__(
        self,
        folder: str | Path,
        *,
        keep: int,
        rank: int,
        gather: Callable[[Any], list[Any]],
        barrier: Callable[[], None],
    ) -> None:
        """`gather` gives every rank the list of all ranks' objects.

        Rank 0 clears away what a killed save left: readers of a live run use newest_whole() instead.
        """
        if keep < 1:
            raise ValueError(f"keep = {keep}: expected at least 1")
        self._folder = Path(folder)
        self._keep, self._rank = keep, rank
        self._gather, self._barrier = gather, barrier
        if rank == 0:
            self._folder.mkdir(parents=True, exist_ok=True)
            for leftover in self._folder.glob(f"{_TEMPORARY}*"):
                shutil.rmtree(leftover)

    def save(self, name: str, write: Callable[[Path], None], state: Mapping[str, Any]) -> Checkpoint:
        """Commit a checkpoint; every rank calls it, and `write` fills the rank's own empty folder.

        When a rank fails, every rank raises (DiskFullError if a disk was full), nothing is committed and
        older checkpoints stay.
        """
        if not _NAME.fullmatch(name) or "~" in name:
            raise ValueError(f"checkpoint name {name!r}: expected NUMBER-WORD, such as 000120-joint")
        temporary = self._folder / f"{_TEMPORARY}{name}"
        if self._rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        self._barrier()
        error: Exception | None = None
        files: dict[str, FileInfo] = {}
        try:
            files = _write_rank(temporary, self._rank, write)
        except Exception as caught:  # held back: all ranks must reach the gather, then raise together
            error = caught
        self._agree(error, temporary)
        reports = self._gather({name: asdict(info) for name, info in files.items()})
        merged = {path: FileInfo(**info) for report in reports for path, info in sorted(report.items())}
        final = ""
        if self._rank == 0:
            try:
                final = self._commit(temporary, name, state, merged)
            except Exception as caught:  # as above
                error = caught
        self._agree(error, temporary)
        path = self._folder / self._gather(final)[0]
        if self._rank == 0:
            self._retain(path)
        return Checkpoint(path, json.loads(json.dumps(state)), merged)

    def latest(self) -> Checkpoint | None:
        """The newest whole checkpoint, the same on every rank; None without one.

        Damaged ones are passed over with a warning that names the file and what was expected.
        """
        found: Checkpoint | None = None
        error: Exception | None = None
        if self._rank == 0:
            try:
                found = newest_whole(self._folder)
            except Exception as caught:  # as in save
                error = caught
        self._agree(error, None)
        name = self._gather(found.name if found else None)[0]
        if name is None or found is not None:
            return found
        return _read_marker(self._folder / name)

    def _agree(self, error: Exception | None, temporary: Path | None) -> None:
        """Raise on every rank if any rank has an error, and clear away what was being written."""
        report = None
        if error is not None:
            report = (is_disk_full(error, self._folder), f"{type(error).__name__}: {error}")
        reports = self._gather(report)
        failed = [(rank, *report) for rank, report in enumerate(reports) if report is not None]
        if not failed:
            return
        if self._rank == 0 and temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        rank, _, text = failed[0]
        if any(full for _, full, _ in failed):
            raise DiskFullError(
                f"no space is left for checkpoints in {self._folder} (rank {rank}: {text})",
                hint="older checkpoints are untouched; free some space and resume the run",
            ) from error
        if error is not None:
            raise error
        raise WorkerError(f"rank {rank} could not do its part of a checkpoint: {text}")

    def _commit(
        self, temporary: Path, name: str, state: Mapping[str, Any], files: Mapping[str, FileInfo]
    ) -> str:
        """Write the marker and rename; returns the final folder's name."""
        body = {
            "version": FORMAT_VERSION,
            "state": dict(state),
            "files": {path: asdict(info) for path, info in files.items()},
        }
        body = json.loads(json.dumps(body))
        write_whole(
            temporary / MARKER, json.dumps({**body, "sha256": _checksum_of(body)}, indent=1), sync=True
        )
        final, generation = name, 1
        while (self._folder / final).exists():
            generation += 1
            final = f"{name}~{generation}"
        os.rename(temporary, self._folder / final)
        sync_folder(self._folder)
        return final

    def _retain(self, newest: Path) -> None:
        """Delete all but the newest `keep`, after a commit.

        Whatever sorts after the one just committed belongs to a past that a resume has left (it was
        damaged or passed over), and one that a glance shows to be torn does not count as kept.
        """
        committed = _committed(self._folder)
        older = [path for path in committed[: committed.index(newest)] if _looks_whole(path)]
        kept = {newest, *older[len(older) - min(self._keep - 1, len(older)) :]}
        for path in committed:
            if path not in kept:
                doomed = self._folder / f"{_TEMPORARY}deleting-{path.name}"
                try:
                    os.rename(path, doomed)  # a kill half way must not leave a torn folder by its name
                    shutil.rmtree(doomed)
                except OSError as error:
                    _log.warning("old checkpoint %s could not be deleted: %s", path, error)


def newest_whole(folder: Path) -> Checkpoint | None:
    """The newest checkpoint in a folder whose marker and checksums all hold; only reads."""
    for path in reversed(_committed(folder)):
        try:
            return verify(path)
        except StoreError as error:
            _log.warning("checkpoint %s is damaged and passed over: %s", path.name, error)
    return None


def verify(path: Path) -> Checkpoint:
    """Read a checkpoint and check every size and checksum; StoreError names the first bad file."""
    checkpoint = _read_marker(path)
    for name, expected in checkpoint.files.items():
        file = path / name
        if not file.is_file():
            raise StoreError(f"{file} is missing")
        size = file.stat().st_size
        if size != expected.size:
            raise StoreError(f"{file} has {size} bytes, expected {expected.size}")
        actual = _sha256(file)
        if actual != expected.sha256:
            raise StoreError(f"{file} has sha256 {actual}, expected {expected.sha256}")
    return checkpoint


def _write_rank(temporary: Path, rank: int, write: Callable[[Path], None]) -> dict[str, FileInfo]:
    """First phase: the rank's files, on the disk for good, with their checksums."""
    folder = temporary / f"rank-{rank}"
    folder.mkdir(parents=True, exist_ok=True)
    write(folder)
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            sync_folder(path)
            continue
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        files[path.relative_to(temporary).as_posix()] = FileInfo(path.stat().st_size, _sha256(path))
    sync_folder(folder)
    sync_folder(temporary)
    return files


def _read_marker(path: Path) -> Checkpoint:
    marker = path / MARKER
    try:
        body = json.loads(marker.read_bytes())
        checksum = body.pop("sha256")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise StoreError(f"{marker} cannot be read: {error}") from error
    actual = _checksum_of(body)
    if actual != checksum:
        raise StoreError(f"{marker} has sha256 {actual}, expected {checksum}")
    if body["version"] != FORMAT_VERSION:
        raise StoreError(f"{marker} has format {body['version']}, expected {FORMAT_VERSION}")
    return Checkpoint(path, body["state"], {n: FileInfo(**info) for n, info in body["files"].items()})


def _committed(folder: Path) -> list[Path]:
    """Folders with a checkpoint's name, oldest first."""

    def numbered() -> Iterator[tuple[int, int, str, Path]]:
        for path in folder.iterdir() if folder.is_dir() else ():
            match = _NAME.fullmatch(path.name)
            if match and path.is_dir():
                yield int(match[1]), int(match[3] or 1), path.name, path

    return [path for *_, path in sorted(numbered())]


def _looks_whole(path: Path) -> bool:
    """Marker good and all sizes right; cheap, reads no data."""
    try:
        files = _read_marker(path).files
        return all((path / name).stat().st_size == info.size for name, info in files.items())
    except (StoreError, OSError):
        return False


def _checksum_of(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
