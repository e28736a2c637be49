"""Reads the index files that apt keeps: which packages, sources and descriptions a suite has.

Owns file names, compression and the format of paragraphs. Knows nothing about graphs.
"""

from __future__ import annotations

import lzma
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

Paragraph = Mapping[str, str]
"""Field -> value; lines of a longer value are joined by a line feed, the space before them cut off."""

BINARY_FIELDS = {
    *("Package", "Source", "Maintainer", "Section", "Tag", "Description", "Description-md5", "Provides"),
    *("Depends", "Pre-Depends", "Recommends", "Suggests", "Enhances", "Conflicts", "Breaks"),
}
SOURCE_FIELDS = {"Package", "Extra-Source-Only", "Build-Depends", "Build-Depends-Indep", "Build-Depends-Arch"}


@dataclass(frozen=True)
class Lists:
    packages: Mapping[str, Paragraph]
    """By name, in the order of the names."""
    sources: Mapping[str, Paragraph]
    descriptions: Mapping[str, str]
    """Description-md5 -> short description, then the lines of the long one."""


def read_lists(folder: Path, suite: str) -> Lists:
    """The indexes of a suite's `main`; LookupError says what apt has to fetch first."""
    names = {
        "packages": ("binary-*_Packages", "run apt-get update"),
        "sources": (
            "source_Sources",
            f'add the line "deb-src http://deb.debian.org/debian {suite} main" to '
            "/etc/apt/sources.list, then run apt-get update",
        ),
        "texts": ("i18n_Translation-en", "run apt-get update -o Acquire::Languages=en"),
    }
    # all of them are found before the first is read
    files = {key: _find(folder, suite, name, advice) for key, (name, advice) in names.items()}
    return Lists(
        _by_name(paragraphs(files["packages"], BINARY_FIELDS)),
        _by_name(paragraphs(files["sources"], SOURCE_FIELDS)),
        {
            p["Description-md5"]: p["Description-en"]
            for p in paragraphs(files["texts"], {"Description-md5", "Description-en"})
        },
    )


def _by_name(found: Iterator[Paragraph]) -> dict[str, Paragraph]:
    """Of several versions of one name the last in the file; without sources that are kept for the
    licence's sake only."""
    packages = {p["Package"]: p for p in found if p.get("Extra-Source-Only") != "yes"}
    return {name: packages[name] for name in sorted(packages)}


def _find(folder: Path, suite: str, name: str, advice: str) -> Path:
    """The one index of that name, as apt names what it fetched: HOST_PATH_dists_SUITE_main_NAME."""
    pattern = f"*_dists_{suite}_main_{name}"
    found = sorted(p for ending in ("", ".lz4", ".gz", ".xz") for p in folder.glob(pattern + ending))
    if not found:
        raise LookupError(f"no {pattern} in {folder}: {advice}")
    if len(found) > 1:
        raise LookupError(
            f"{folder} has {' and '.join(p.name for p in found)}: fetch one archive and one architecture "
            "into a folder of their own (README.md beside this program) and name it with --lists"
        )
    return found[0]


def paragraphs(path: Path, fields: Collection[str]) -> Iterator[Paragraph]:
    """Paragraphs of an index with these fields of theirs; ValueError names file and line."""
    found: dict[str, str] = {}
    field = ""
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line:
            if found:
                yield found
            found, field = {}, ""
        elif line[0] in " \t":
            if field in fields:
                found[field] += f"\n{line[1:]}"
        else:
            field, colon, value = line.partition(":")
            if not colon:
                raise ValueError(f"{path}, line {number}: expected `Field: value`, found {line[:60]!r}")
            if field in fields:
                found[field] = value.strip()
    if found:
        yield found


def _text(path: Path) -> str:
    """The whole file as text."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes()).decode()
    codec = {".lz4": "lz4", ".gz": "gzip"}.get(path.suffix)
    with pa.input_stream(str(path), compression=codec) as stream:
        return bytes(stream.read()).decode()
