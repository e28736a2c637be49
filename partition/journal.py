"""What of a build is done, on the disk, so that one that was killed goes on: the cut, and parts as written.

Owns the folders of a build beside the final one. What is noted is synced before; what a killed build left
without a note is removed. Tables are read again. The partition's id stands for tables and options, and the
cut is noted with content keys and parent: with another cut, parts that are written are of no use.
Shape letters: N nodes over all types, in the order of types and rows.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from partition.assign import Assignment, LevelChoice
from partition.manifest import FileInfo
from partition.storage import sha256_of, sync, write_text

_CUT = "cut"


@dataclass(frozen=True)
class KeptCut:
    """A cut that was made before."""

    assignment: Assignment
    parent: str
    """Partition that it comes from; empty for one that was cut afresh."""
    parent_numbering: str
    """That one's, which its id does not prove."""
    seconds: float
    """That it took."""


class Journal:
    """Of one partition in a local store; only who holds the partition's lock may have it."""

    def __init__(self, root: Path, part_id: str) -> None:
        self.draft = root / f"{part_id}.building"
        """The partition, until it is published."""
        self.scratch = root / f"{part_id}.building-scratch"
        self._notes = root / f"{part_id}.building-journal"
        self._root, self._id = root, part_id

    def begin(self) -> None:
        """Remove all that a build left which is not noted."""
        for left_over in self._root.glob(f"{self._id}.building*"):
            if left_over not in (self.draft, self._notes):
                shutil.rmtree(left_over)
        done = self.files
        for path in sorted(self.draft.rglob("*"), reverse=True):
            name = path.relative_to(self.draft).as_posix()
            if path.is_dir():
                if not any(path.iterdir()):
                    path.rmdir()
            elif name not in done:
                path.unlink()

    def end(self) -> None:
        """Remove all of it; a finished partition has another name by now."""
        for folder in (self.draft, self.scratch, self._notes):
            shutil.rmtree(folder, ignore_errors=True)

    def end_scratch(self) -> None:
        """Remove what no later build can use."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    def keep_cut(self, keys: Mapping[str, str], cut: KeptCut) -> None:
        """Note where each node lives in the graph with these content keys; parts of another cut are gone."""
        for folder in (self._notes, self.draft):
            shutil.rmtree(folder, ignore_errors=True)
        self._notes.mkdir()
        self.draft.mkdir()
        path = self._notes / f"{_CUT}.npz"
        np.savez(path, part=cut.assignment.part, cluster=cut.assignment.cluster)
        sync(path)
        told = {
            "keys": dict(keys),
            "parent": cut.parent,
            "parent_numbering": cut.parent_numbering,
            "seconds": cut.seconds,
            "sha256": sha256_of(path),
            "choices": [asdict(choice) for choice in cut.assignment.choices],
        }
        self._note(_CUT, told)

    def cut(self, keys: Mapping[str, str]) -> KeptCut | None:
        """What was noted for these keys, if anything, and as it was written."""
        path, told = self._notes / f"{_CUT}.npz", self._noted(_CUT)
        if told is None or told["keys"] != dict(keys) or sha256_of(path) != told["sha256"]:
            return None
        with np.load(path) as arrays:
            part, cluster = arrays["part"], arrays["cluster"]
        choices = tuple(LevelChoice(**choice) for choice in told["choices"])
        # A note of a build by older code has no numbering: what comes from a parent is made again.
        numbering = told.get("parent_numbering", "")
        return KeptCut(Assignment(part, cluster, choices), told["parent"], numbering, told["seconds"])

    def keep_part(self, host: int, *, known: Mapping[str, FileInfo]) -> None:
        """Note that all files of a host are written; those `known`, by path in the draft, are not read."""
        files = {}
        for path in sorted((self.draft / f"part{host}").rglob("*")):
            if path.is_file():
                sync(path)
                name = path.relative_to(self.draft).as_posix()
                files[name] = asdict(known.get(name) or FileInfo(path.stat().st_size, sha256_of(path)))
        self._note(f"part{host}", {"host": host, "files": files})

    @property
    def hosts(self) -> frozenset[int]:
        """Those whose parts are written, and there."""
        return frozenset(told["host"] for told in self._parts())

    @property
    def files(self) -> dict[str, FileInfo]:
        """Path in the draft -> what is known of it, of all parts that are written."""
        return {name: FileInfo(**info) for told in self._parts() for name, info in told["files"].items()}

    def _parts(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self._notes.glob("part*.json")):
            told = self._noted(path.stem)
            if told is not None and all(self._is_there(*item) for item in told["files"].items()):
                yield told

    def _is_there(self, name: str, info: Mapping[str, Any]) -> bool:
        path = self.draft / name
        return path.is_file() and path.stat().st_size == info["size"]

    def _note(self, name: str, told: Mapping[str, object]) -> None:
        text = json.dumps(told, sort_keys=True)
        checksum = hashlib.sha256(text.encode()).hexdigest()
        draft = self._notes / f"{name}.tmp"
        write_text(draft, f"{checksum}\n{text}\n")
        draft.rename(self._notes / f"{name}.json")
        sync(self._notes)

    def _noted(self, name: str) -> dict[str, Any] | None:
        """What a note says; None without one, or with a torn one."""
        try:
            checksum, _, text = (self._notes / f"{name}.json").read_text().rstrip("\n").partition("\n")
        except (FileNotFoundError, UnicodeDecodeError):
            return None
        told: dict[str, Any] | None = None
        if hashlib.sha256(text.encode()).hexdigest() == checksum:
            told = json.loads(text)
        return told
