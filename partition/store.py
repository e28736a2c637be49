"""The folder of finished partitions: find by id, list, seal, verify.

Owns what counts as finished (a manifest that lists every file with size and checksum, written last). Never
builds anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from partition.errors import FormatError, StoreError
from partition.manifest import MANIFEST_NAME, FileInfo, PartitionManifest
from partition.storage import sha256_of, sync, write_text

Say = Callable[[str], None]

CHECKSUM_NAME = "manifest.sha256"
"""Holds the checksum of the manifest, which cannot hold its own."""


def find(store: Path, part_id: str) -> Path | None:
    """The folder of a finished partition, or None; StoreError where only parts of it are there."""
    folder = store / part_id
    if not (folder / MANIFEST_NAME).is_file():
        return None
    for name in PartitionManifest.load(folder).files:
        if not (folder / name).is_file():
            raise StoreError(f"{folder} is not whole: {name} is missing", hint="pull the rest, or remove it")
    return folder


def finished(store: Path, *, say: Say) -> list[PartitionManifest]:
    """Manifests of all finished partitions, by id; StoreError if there is no such store.

    Those of another format are passed over, and told.
    """
    if not store.is_dir():
        raise StoreError(f"{store}: no such store", hint="build a partition into it first")
    folders = sorted(folder for folder in store.iterdir() if (folder / MANIFEST_NAME).is_file())
    found = []
    for folder in folders:
        if "." in folder.name:
            continue
        try:
            found.append(PartitionManifest.load(folder))
        except FormatError as error:
            say(f"{folder.name}: {error}")
    return found


def seal(
    folder: Path, manifest: PartitionManifest, *, linked: Mapping[str, FileInfo] | None = None
) -> PartitionManifest:
    """Sync and list every file of a folder, then write the manifest, last of all.

    Of `linked` files (by path in the folder) size and checksum are known already.
    """
    files = dict(linked or {})
    for path in _files(folder):
        sync(path)
        name = path.relative_to(folder).as_posix()
        if name not in files:
            files[name] = FileInfo(path.stat().st_size, sha256_of(path))
    sealed = replace(manifest, files=files)
    draft = folder / f"{MANIFEST_NAME}.tmp"
    write_text(draft, sealed.to_json())
    write_text(folder / CHECKSUM_NAME, sha256_of(draft) + "\n")
    draft.rename(folder / MANIFEST_NAME)
    return sealed


def verify(folder: str | Path) -> PartitionManifest:
    """Check size and sha256 of every file; StoreError names the first bad one and what was expected."""
    folder = Path(folder)
    manifest = checked_manifest(folder)
    for name, info in manifest.files.items():
        check_file(folder / name, info, checksums=True)
    return manifest


def verify_part(folder: str | Path, host: int, *, checksums: bool) -> int:
    """The same for what one host reads (manifest.files_of_host); the number of files.

    Without `checksums` only presence and size are looked at, which costs no reading.
    """
    folder = Path(folder)
    own = checked_manifest(folder).files_of_host(host)
    for name, info in own.items():
        check_file(folder / name, info, checksums=checksums)
    return len(own)


def check_files(folder: Path, names: Iterable[str]) -> None:
    """StoreError unless the manifest and these files of a partition are as they were written."""
    files = checked_manifest(folder).files
    for name in names:
        if name not in files:
            raise StoreError(f"{folder / name}: not a file of this partition", hint=_HINT)
        check_file(folder / name, files[name], checksums=True)


def checked_manifest(folder: Path) -> PartitionManifest:
    """The manifest of a finished partition; StoreError if its own checksum does not hold."""
    checksum = folder / CHECKSUM_NAME
    if (folder / MANIFEST_NAME).is_file():
        if not checksum.is_file():
            raise StoreError(f"{checksum}: the file is missing", hint=_HINT)
        expected = checksum.read_bytes().strip()
        actual = sha256_of(folder / MANIFEST_NAME)
        if expected != actual.encode():
            raise StoreError(
                f"{folder / MANIFEST_NAME}: sha256 is {actual}, expected {expected.decode(errors='replace')}",
                hint=_HINT,
            )
    return PartitionManifest.load(folder)


def check_file(path: Path, info: FileInfo, *, checksums: bool) -> None:
    """StoreError, saying what was expected, where a file is not as it was written."""
    if not path.is_file():
        raise StoreError(f"{path}: the file is missing", hint=_HINT)
    size = path.stat().st_size
    if size != info.size:
        raise StoreError(f"{path}: {size} bytes, expected {info.size}", hint=_HINT)
    if checksums and (actual := sha256_of(path)) != info.sha256:
        raise StoreError(f"{path}: sha256 is {actual}, expected {info.sha256}", hint=_HINT)


_HINT = "remove the folder and build the partition again"


def _files(folder: Path) -> Iterator[Path]:
    for inner, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(inner) / name for name in sorted(names))
