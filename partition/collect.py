"""`partition gc`: removes what builds and pulls left behind, and partitions that nobody has used for long.

Owns what may be removed, in a local store and in one at a URL. Never removes what somebody holds
(usage.in_use) or has used within the limit: the stamp is looked at again when it could not be found any more.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from partition.errors import StoreError
from partition.manifest import MANIFEST_NAME
from partition.objects import ObjectInfo, Objects
from partition.paths import is_id
from partition.remote import MARKER, STAMP, UNFINISHED_S, find, key_of
from partition.storage import is_locked
from partition.usage import last_used, unused

_DRAFTS = (".building", ".pulling", ".removing")


@dataclass(frozen=True)
class Limits:
    """What stays."""

    keep: Collection[str] = ()
    """Ids that are never removed."""
    unused_days: float | None = None
    """Partitions used within so many days; None: all finished ones."""
    unfinished_s: float = UNFINISHED_S
    """What is unfinished and younger than this may still be in the making."""


@dataclass(frozen=True)
class Removal:
    """Something that is, or in a dry run would be, removed."""

    id: str
    why: str
    size: int


def collect_local(store: Path, limits: Limits, *, dry_run: bool) -> list[Removal]:
    """Clean a local store."""
    if not store.is_dir():
        raise StoreError(f"{store}: no such store", hint="build a partition into it first")
    return [*_local_drafts(store, limits, dry_run), *_local_unused(store, limits, dry_run)]


def collect_remote(objects: Objects, limits: Limits, *, dry_run: bool) -> list[Removal]:
    """Clean a store at a URL; run it from one place at a time."""
    removed: list[Removal] = []
    for part_id in objects.folders():
        if part_id in limits.keep or not is_id(part_id):
            continue
        there = objects.listing(part_id)
        if not there:
            continue  # SeaweedFS, like a disk, shows a folder for some time after its last object
        if MARKER not in there:
            removed += _unfinished(objects, part_id, there, limits, dry_run)
        elif limits.unused_days is not None and _old(there, limits.unused_days * 86400):
            removed += _unused(objects, part_id, there, limits.unused_days, dry_run)
        else:
            removed += _left_over(objects, part_id, there, limits, dry_run)
    return removed


def _local_drafts(store: Path, limits: Limits, dry_run: bool) -> Iterator[Removal]:
    oldest = time.time() - limits.unfinished_s
    for draft in sorted(store.iterdir()):
        part_id = draft.name.partition(".")[0]
        if not any(draft.name.startswith(f"{part_id}{mark}") for mark in _DRAFTS):
            continue
        if part_id in limits.keep or not is_id(part_id):
            continue
        files = [draft, *draft.rglob("*")]
        if max(path.lstat().st_mtime for path in files) > oldest or is_locked(store / f"{part_id}.lock"):
            continue
        yield Removal(draft.name, "unfinished", sum(p.lstat().st_size for p in files if p.is_file()))
        if not dry_run:
            shutil.rmtree(draft)


def _local_unused(store: Path, limits: Limits, dry_run: bool) -> Iterator[Removal]:
    if limits.unused_days is None:
        return
    for folder in sorted(path.parent for path in store.glob(f"*/{MANIFEST_NAME}")):
        if folder.name in limits.keep or not is_id(folder.name):
            continue
        with unused(folder) as free:
            days = (time.time() - last_used(folder)) / 86400
            if not free or days < limits.unused_days:
                continue
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            yield Removal(folder.name, f"not used for {days:.0f} days", size)
            if not dry_run:
                gone = folder.with_name(f"{folder.name}.removing")
                folder.rename(gone)  # in one step, so that nobody finds half of it
                shutil.rmtree(gone)


def _unfinished(
    objects: Objects, part_id: str, there: dict[str, ObjectInfo], limits: Limits, dry_run: bool
) -> Iterator[Removal]:
    if not _old(there, limits.unfinished_s):
        return
    yield Removal(part_id, "unfinished", _size(there))
    if not dry_run:
        _remove(objects, part_id, there)


def _unused(
    objects: Objects, part_id: str, there: dict[str, ObjectInfo], days: float, dry_run: bool
) -> Iterator[Removal]:
    if not dry_run:
        checksum = objects.read(f"{part_id}/{MARKER}") or b""
        objects.remove(f"{part_id}/{MARKER}")
        there = objects.listing(part_id)
        if checksum and not _old(
            there, days * 86400
        ):  # somebody found it just before it could not be found any more
            objects.create(f"{part_id}/{MARKER}", checksum)
            return
    yield Removal(part_id, f"not used for {days:g} days", _size(there))
    if not dry_run:
        _remove(objects, part_id, there)


def _left_over(
    objects: Objects, part_id: str, there: dict[str, ObjectInfo], limits: Limits, dry_run: bool
) -> Iterator[Removal]:
    """Objects of a second builder, whose bytes were others and came too late."""
    oldest = time.time() - limits.unfinished_s
    try:
        published = find(objects, part_id)
    except StoreError as error:  # a damaged one is for whoever needs it, and no reason to clean nothing else
        objects.say(f"warning: {error}")
        return
    if published is None:
        return
    named = {key_of(part_id, name, info).partition("/")[2] for name, info in published.manifest.files.items()}
    named |= {MARKER, STAMP, f"{MANIFEST_NAME}.{published.checksum[:16].decode()}"}
    extra = {key: info for key, info in there.items() if key not in named and info.modified < oldest}
    if extra:
        yield Removal(part_id, f"{len(extra)} objects of another build", _size(extra))
        if not dry_run:
            _remove(objects, part_id, extra)


def _old(there: dict[str, ObjectInfo], age_s: float) -> bool:
    """Whether nothing of it was written for so long; every use writes the stamp."""
    return time.time() - max((info.modified for info in there.values()), default=0.0) > age_s


def _size(there: dict[str, ObjectInfo]) -> int:
    return sum(info.size for info in there.values())


def _remove(objects: Objects, part_id: str, there: dict[str, ObjectInfo]) -> None:
    for key in there:
        objects.remove(f"{part_id}/{key}")
