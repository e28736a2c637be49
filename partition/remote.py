"""Partitions in a store at an fsspec URL: find, list, push, verify.

Owns the layout there. An object is named after its file and its content, `ID/FILE.SHA`, so that two
builders of one partition never write different bytes under one name; `ID/manifest.sha256` names the manifest,
is created last and only if absent, and makes the partition exist. `ID/used` is the stamp of the last use.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from partition.errors import FormatError, GoneError, StoreError
from partition.manifest import MANIFEST_NAME, FileInfo, PartitionManifest
from partition.objects import Objects, Say
from partition.paths import is_id
from partition.store import CHECKSUM_NAME, check_file, checked_manifest

MARKER = CHECKSUM_NAME
STAMP = "used"
UNFINISHED_S = 24 * 3600.0
"""Older objects of no finished partition are left over, see collect.py."""
AT_ONCE = 4
"""Files on the way: each takes up to 64 MB of memory, and one connection seldom fills a line."""
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Published:
    """A finished partition in the store."""

    manifest: PartitionManifest
    text: bytes
    """Of manifest.json, as it was written."""
    checksum: bytes
    """Of manifest.sha256."""


def key_of(part_id: str, name: str, info: FileInfo) -> str:
    """The object that holds a file of a partition."""
    return f"{part_id}/{name}.{info.sha256[:16]}"


def find(objects: Objects, part_id: str) -> Published | None:
    """A finished partition, or None; StoreError for a damaged one."""
    checksum = objects.read(f"{part_id}/{MARKER}")
    if checksum is None:
        return None
    expected = checksum.decode(errors="replace").strip()
    key = f"{part_id}/{MANIFEST_NAME}.{expected[:16]}"
    if (text := objects.read(key)) is None:
        raise damaged(objects, part_id, key, "the file is missing", kind=GoneError)
    if (actual := hashlib.sha256(text).hexdigest()) != expected:
        raise damaged(objects, part_id, key, f"sha256 is {actual}, expected {expected}")
    return Published(PartitionManifest.from_json(text.decode()), text, checksum)


def get(objects: Objects, part_id: str) -> Published:
    """A finished partition; GoneError where there is none."""
    published = find(objects, part_id)
    if published is None:
        hint = f"`lmgnn partition ls --store {objects.url}` lists what is there"
        raise GoneError(f"{objects.name(part_id)}: no finished partition", hint=hint)
    return published


def finished(objects: Objects, *, say: Say) -> list[PartitionManifest]:
    """Manifests of all finished partitions, by id; those of another format are passed over, and told."""
    found = []
    for part_id in objects.folders():
        try:
            published = find(objects, part_id) if is_id(part_id) else None
        except FormatError as error:
            say(f"{part_id}: {error}")
            continue
        if published:
            found.append(published.manifest)
    return found


def newest(objects: Objects) -> list[str]:
    """Ids of all finished partitions, those that were published last first."""
    published: dict[str, float] = {}

    def look(part_id: str) -> None:
        if (marker := objects.info(f"{part_id}/{MARKER}")) is not None:
            published[part_id] = marker.modified

    each(filter(is_id, objects.folders()), look)
    return sorted(published, key=lambda part_id: (-published[part_id], part_id))


def stamp(objects: Objects, part_id: str) -> None:
    """Note that a partition is used or being built now; StoreError where writing is not allowed."""
    objects.write(f"{part_id}/{STAMP}", f"{time.time():.0f}\n".encode())


def push(objects: Objects, folder: Path, *, say: Say) -> Published:
    """Send a finished partition; what is published afterwards, which somebody faster may have been.

    Files whose objects are there are not sent again, so a killed push goes on; those that its parent has as
    well are copied within the store.
    """
    manifest = checked_manifest(folder)
    part_id = manifest.id
    if (published := find(objects, part_id)) is not None:
        return published
    stamp(objects, part_id)
    say(f"sending partition {part_id} to {objects.url}")
    elsewhere = _elsewhere(objects, manifest)
    for _ in range(2):  # the second time for what `gc` removed in between
        if not (missing := _missing(objects, manifest)):
            break
        each(missing, lambda name: _send(objects, folder, part_id, name, manifest.files[name], elsewhere))
    else:
        if missing := _missing(objects, manifest):
            raise StoreError(f"{objects.name(part_id)}: {missing[0]} is gone after it was sent")
    checksum = (folder / CHECKSUM_NAME).read_bytes()
    objects.put(f"{part_id}/{MANIFEST_NAME}.{checksum[:16].decode()}", folder / MANIFEST_NAME)
    if objects.create(f"{part_id}/{MARKER}", checksum):
        say(f"partition {part_id} is ready in {objects.url}")
    else:
        say(f"partition {part_id} was published by another process in {objects.url}")
    return get(objects, part_id)


def verify(objects: Objects, part_id: str) -> PartitionManifest:
    """Read all of a partition; StoreError names the first bad object and what was expected."""
    published = get(objects, part_id)

    def check(name: str) -> None:
        info = published.manifest.files[name]
        digest, size = hashlib.sha256(), 0
        try:
            for chunk in objects.chunks(key_of(part_id, name, info), info.size):
                digest.update(chunk)
                size += len(chunk)
        except FileNotFoundError:
            raise missing_file(objects, part_id, name, info) from None
        if fault := difference(info, size, digest.hexdigest()):
            raise damaged(objects, part_id, key_of(part_id, name, info), fault)

    each(published.manifest.files, check)
    return published.manifest


def difference(info: FileInfo, size: int, sha256: str) -> str:
    """What is wrong with content of this size and checksum; empty if nothing."""
    if size != info.size:
        return f"{size} bytes, expected {info.size}"
    return f"sha256 is {sha256}, expected {info.sha256}" if sha256 != info.sha256 else ""


def damaged(
    objects: Objects, part_id: str, key: str, fault: str, *, kind: type[StoreError] = StoreError
) -> StoreError:
    hint = f"remove {objects.name(part_id)}/ and build or push the partition again"
    return kind(f"{objects.name(key)}: {fault}", hint=hint)


def missing_file(objects: Objects, part_id: str, name: str, info: FileInfo) -> StoreError:
    return damaged(objects, part_id, key_of(part_id, name, info), "the file is missing", kind=GoneError)


def each(items: Iterable[_Item], step: Callable[[_Item], None]) -> None:
    """Do a step for all items, some at a time; after the first error no further one is begun."""
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        for future in [pool.submit(step, item) for item in items]:
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _missing(objects: Objects, manifest: PartitionManifest) -> list[str]:
    """Files without an object that stays; old ones may be removed as left over at any moment."""
    there = objects.listing(manifest.id)
    oldest = time.time() - UNFINISHED_S / 2
    prefix = f"{manifest.id}/"
    return [
        name
        for name, info in manifest.files.items()
        if (found := there.get(key_of(manifest.id, name, info).removeprefix(prefix))) is None
        or found.size != info.size
        or found.modified < oldest
    ]


def _elsewhere(objects: Objects, manifest: PartitionManifest) -> dict[tuple[str, int], str]:
    """(sha256, size) of the files that a partition's parent has -> their keys; empty without a parent."""
    try:
        parent = find(objects, manifest.parent) if manifest.parent else None
    except StoreError:
        return {}  # a damaged one; whoever asks for it is told
    if parent is None:
        return {}
    files = parent.manifest.files.items()
    return {(info.sha256, info.size): key_of(manifest.parent, name, info) for name, info in files}


def _send(
    objects: Objects,
    folder: Path,
    part_id: str,
    name: str,
    info: FileInfo,
    elsewhere: Mapping[tuple[str, int], str],
) -> None:
    check_file(folder / name, info, checksums=True)
    key = key_of(part_id, name, info)
    if (source := elsewhere.get((info.sha256, info.size))) is not None:
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            objects.copy(source, key, info.size)
            return
    objects.put(key, folder / name)
