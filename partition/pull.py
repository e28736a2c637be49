"""A partition of a store elsewhere -> a folder of the local store: all of it or one host's part.

Owns what happens when a pull is killed, the disk is full or content arrives wrong. A folder appears with all
files that were asked for; further parts join it file by file, each under its name only when it is whole.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from partition.errors import DiskFullError, StoreError, UsageError
from partition.manifest import MANIFEST_NAME, FileInfo
from partition.objects import Objects, Say
from partition.remote import (
    MARKER,
    Published,
    damaged,
    difference,
    each,
    get,
    key_of,
    missing_file,
    stamp,
)
from partition.storage import locked, publish, sha256_of, sync, write_bytes, writing
from partition.usage import stamp as stamp_local

DRAFT = "pulling"


def pull(
    objects: Objects, part_id: str, into: Path, *, say: Say, host: int | None = None, checksums: bool = True
) -> Path:
    """The local folder `into/ID` with one host's files, or (None) all, each checked while it was read.

    Files that are there as they should be stay; without `checksums` those of the right size count as such if
    the manifest is the published one.
    StoreError for a missing or twice wrong object, DiskFullError for a full disk; then nothing has been
    published, and the same call goes on with what has arrived.
    """
    published = get(objects, part_id)
    if host is not None and not 0 <= host < published.manifest.hosts:
        raise UsageError(f"host {host}: {part_id} has parts of hosts 0 to {published.manifest.hosts - 1}")
    stamp_if_allowed(objects, part_id, say)
    folder = into / part_id
    if not _lacking(folder, published, host, checksums=checksums):
        stamp_local(folder)
        return folder
    with writing(into):
        into.mkdir(parents=True, exist_ok=True)

    def waiting(holder: str) -> None:
        say(f"partition {part_id} is being pulled or built by {holder}; waiting for it")

    with locked(into / f"{part_id}.lock", waiting=waiting):
        lacking = _lacking(folder, published, host, checksums=checksums)
        if lacking:
            _complete(objects, published, lacking, folder, say)
    return folder


def stamp_if_allowed(objects: Objects, part_id: str, say: Say) -> None:
    """The stamp of the last use, which keeps `gc` away; a user who may only read goes without."""
    try:
        stamp(objects, part_id)
    except StoreError as error:
        say(f"warning: not marked as used: {error}")


def _lacking(folder: Path, published: Published, host: int | None, *, checksums: bool) -> dict[str, FileInfo]:
    """Files that are missing or wrong in a folder; the manifest counts, by its name."""
    manifest = FileInfo(len(published.text), hashlib.sha256(published.text).hexdigest())
    known = _good(folder / MANIFEST_NAME, manifest, True) and (folder / MARKER).is_file()
    # Two builds of one partition may differ in bytes of files of one size.
    checksums = checksums or not known
    wanted = published.manifest.files if host is None else published.manifest.files_of_host(host)
    lacking = {name: info for name, info in wanted.items() if not _good(folder / name, info, checksums)}
    return lacking if known else {**lacking, MANIFEST_NAME: manifest}


def _good(path: Path, info: FileInfo, checksums: bool) -> bool:
    if not path.is_file() or path.stat().st_size != info.size:
        return False
    return not checksums or sha256_of(path) == info.sha256


def _complete(
    objects: Objects, published: Published, lacking: Mapping[str, FileInfo], folder: Path, say: Say
) -> None:
    draft = folder.with_name(f"{folder.name}.{DRAFT}")
    files = {name: info for name, info in lacking.items() if name != MANIFEST_NAME}
    with writing(draft):
        draft.mkdir(exist_ok=True)
        arrived = {name for name, info in files.items() if _good(draft / name, info, True)}
        coming = {name: info for name, info in files.items() if name not in arrived}
        _look_at_room(draft, sum(info.size for info in coming.values()))
        size = sum(info.size for info in coming.values()) / 1e6
        say(f"pulling {len(coming)} files ({size:,.1f} MB) of partition {folder.name} from {objects.url}")
        each(coming, lambda name: _fetch(objects, folder.name, name, coming[name], draft, say))
        write_bytes(draft / MARKER, published.checksum)
        write_bytes(draft / MANIFEST_NAME, published.text)
        if folder.exists():
            if MANIFEST_NAME in lacking:
                _drop_others(folder, published, lacking)
            _join(draft, [*files, MARKER, MANIFEST_NAME], folder)
        else:
            publish(draft, folder)


def _look_at_room(draft: Path, size: int) -> None:
    free = shutil.disk_usage(draft).free
    if free < size:
        raise DiskFullError(
            f"{draft.parent}: {size / 1e6:,.1f} MB are to come, {free / 1e6:,.1f} MB of the disk are free",
            hint="free some space or choose another cache",
        )


def _fetch(objects: Objects, part_id: str, name: str, info: FileInfo, draft: Path, say: Say) -> None:
    """Bring one file under its name in the draft; once more where its content is wrong."""
    path = draft / name
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.half")
    key = key_of(part_id, name, info)
    try:
        fault = _read(objects, part_id, name, info, half)
        if fault:
            say(f"{objects.name(key)}: {fault}; reading it once more")
            fault = _read(objects, part_id, name, info, half)
        if fault:
            raise damaged(objects, part_id, key, fault)
        half.rename(path)
    finally:
        half.unlink(missing_ok=True)


def _read(objects: Objects, part_id: str, name: str, info: FileInfo, half: Path) -> str:
    """Write an object to a file; what is wrong with it, empty if nothing."""
    digest, size = hashlib.sha256(), 0
    try:
        with half.open("wb") as stream:
            for chunk in objects.chunks(key_of(part_id, name, info), info.size):
                digest.update(chunk)
                size += len(chunk)
                stream.write(chunk)
            stream.flush()
            os.fsync(stream.fileno())
    except FileNotFoundError:
        raise missing_file(objects, part_id, name, info) from None
    return difference(info, size, digest.hexdigest())


def _drop_others(folder: Path, published: Published, coming: Mapping[str, FileInfo]) -> None:
    """Remove what another build of the partition left for other hosts, before its manifest goes."""
    for name, info in published.manifest.files.items():
        if name not in coming and not _good(folder / name, info, True):
            (folder / name).unlink(missing_ok=True)


def _join(draft: Path, names: list[str], folder: Path) -> None:
    """Move files into a folder that is published already, its manifest last."""
    parents = set()
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (draft / name).replace(target)
        parents.add(target.parent)
    for parent in parents:
        sync(parent)
    shutil.rmtree(draft)
