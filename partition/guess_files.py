"""Files of a folder -> the tables they make up, with a first look at every column.

Owns which files are read and which of them are parts of one table. Never decides what a column means.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from partition.errors import DataError, UsageError
from partition.guess_look import Column, look_at
from partition.importers import IMPORTERS
from partition.lines import lines_of, no_lines
from partition.rows import RowFile, Rows
from partition.storage import InputFile, InputFolder, reading

SAMPLE_ROWS = 10_000
"""Rows of a table that a guess starts from; what it leads to is checked on all rows."""
SPLIT_FOLDER = "with_split"
"""Where `lmgnn init --split` puts its copies; they are no tables of the user's."""
_OTHER_TABLES = (".tsv", ".json", ".jsonl", ".xlsx", ".gz", ".zip", ".feather", ".arrow", ".orc", ".npy")
"""Suffixes of files that may hold tables, but that nobody imports."""
_ANSWERS = (
    {"id", "predicted", "probability"},
    {"source", "destination", "predicted", "probability"},
    {"source", "destination", "relation", "score"},
)
_ANSWERS_MAYBE = {"rank", "label", "split"}
"""Columns of the files that `lmgnn predict` writes, and those that only some of them have."""
_VECTORS = re.compile(r"id: (large_)?string, embedding: fixed_size_list<[^>]*: float>\[\d+\]")
"""Header of what `lmgnn embed` and a run's export write. By its types too: a table of nodes may well have
these two names, but hardly lists of a fixed length."""
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True)
class FoundTable:
    """Files that make up one table."""

    name: str
    paths: tuple[str, ...]
    """As graph.toml would name them: one file, one glob, or all files."""
    files: tuple[InputFile, ...]
    columns: tuple[Column, ...]

    @property
    def suffix(self) -> str:
        return posixpath.splitext(self.files[0].path)[1]

    @property
    def loose(self) -> bool:
        return self.suffix == ".csv"

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)

    def read(self, *columns: str) -> Rows:
        """All rows of some columns as a build reads them; DataError names the file."""
        tables = [RowFile(file.name, _read(file, columns, limit=0)) for file in self.files]
        lines = lines_of(self.files) if self.loose else no_lines
        return Rows(f"table {self.name}", tuple(tables), loose=self.loose, lines_of=lines)


@dataclass(frozen=True)
class Survey:
    """All tables of a folder, and a sentence for each file that is none."""

    tables: tuple[FoundTable, ...]
    skipped: tuple[str, ...]


def survey(folder: InputFolder) -> Survey:
    """Look at every *.parquet and *.csv under the folder; UsageError if it is none or holds none.

    What begins with a dot or an underscore is left alone.
    """
    anchor = folder.file("graph.toml")
    root = posixpath.dirname(anchor.path)
    if not anchor.fs.isdir(root):
        raise UsageError(f"{folder.url}: no such folder", hint="name the folder that holds the tables")
    groups: dict[tuple[str, ...], list[InputFile]] = defaultdict(list)
    skipped = []
    for path in sorted(anchor.fs.find(root)):
        name = posixpath.relpath(path, root)
        parts = name.split("/")
        if parts[0] == SPLIT_FOLDER or any(part[0] in "._" for part in parts):
            continue
        suffix = posixpath.splitext(name)[1]
        if suffix not in IMPORTERS:
            if suffix.lower() in (*_OTHER_TABLES, *IMPORTERS):
                skipped.append(f"{name}: not read, since tables end in {' or '.join(IMPORTERS)}")
            continue
        file = InputFile(anchor.fs, path, name)
        try:
            header = _header(file)
        except DataError as error:
            skipped.append(str(error))
            continue
        if answer := _answer(header):
            skipped.append(
                f"{name}: not read, since its columns are those of {answer}; if it is a table of yours, "
                "rename one of them"
            )
            continue
        groups[(posixpath.dirname(name), suffix, _family(name), *header)].append(file)
    if not groups:
        told = f"; {skipped[0]}" if skipped else ""
        raise UsageError(
            f"{folder.url}: no readable table under it{told}", hint="tables are *.csv or *.parquet"
        )
    tables: list[FoundTable] = []
    everything = [file.name for files in groups.values() for file in files]
    for files in groups.values():
        try:
            name = _unused(_table_name([file.name for file in files]), [table.name for table in tables])
            tables.append(table_of(name, _paths(files, everything), files))
        except DataError as error:
            skipped.append(str(error))
    return Survey(tuple(tables), tuple(skipped))


def table_of(name: str, paths: Sequence[str], files: Sequence[InputFile]) -> FoundTable:
    """Files that are known to make up one table; DataError if one cannot be read."""
    return FoundTable(name, tuple(paths), tuple(files), _look(files))


def _answer(header: Sequence[str]) -> str:
    """Which command has written a file with this header, or empty if none of ours did."""
    if {column.split(": ")[0] for column in header} - _ANSWERS_MAYBE in _ANSWERS:
        return "an answer of lmgnn predict"
    return "what lmgnn embed writes" if _VECTORS.fullmatch(", ".join(header)) else ""


def _header(file: InputFile) -> list[str]:
    """Column names, in Parquet with their types; DataError if the file cannot be a table of ours."""
    with file.open() as stream, reading(file.name):
        try:
            if file.path.endswith(".parquet"):
                schema = pyarrow.parquet.ParquetFile(stream).schema_arrow
                return [f"{field.name}: {field.type}" for field in schema]
            parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
            names: list[str] = pyarrow.csv.open_csv(stream, parse_options=parse).schema.names
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _unreadable(file, error) from None
    for separator, called in _SEPARATORS.items():
        if len(names) == 1 and separator in names[0]:
            raise DataError(f"{file.name}: cells are separated by {called}", hint="save it with commas")
    if len(set(names)) < len(names):
        raise DataError(f"{file.name}: its header has a name twice", hint="rename a column")
    return names


def _family(name: str) -> str:
    """What the parts of a table have in common: `papers-00001-of-00004` is `papers-#-of-#`."""
    stem = posixpath.splitext(posixpath.basename(name))[0]
    return "part" if re.match(r"part[-_.]?\d", stem) else re.sub(r"\d+", "#", stem)


def _table_name(names: Sequence[str]) -> str:
    """The file's stem, or what its parts share, as a name that graph.toml takes."""
    stem = posixpath.splitext(posixpath.basename(names[0]))[0]
    folder = posixpath.basename(posixpath.dirname(names[0]))
    if len(names) > 1 or re.fullmatch(r"(part)?[-_.\d]+", stem):
        stem = re.sub(r"([-_.]?(of|part)?[-_.]?\d+)+", "", "" if stem.startswith("part") else stem) or folder
    return re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_-") or "table"


def _unused(name: str, taken: Sequence[str]) -> str:
    number = 2
    while (candidate := name if number == 2 else f"{name}_{number - 1}") in taken:
        number += 1
    return candidate


def _paths(files: Sequence[InputFile], everything: Sequence[str]) -> tuple[str, ...]:
    """A glob where one names these files and no others, else all of them."""
    names = [file.name for file in files]
    if len(names) == 1:
        return (names[0],)
    folder, suffix = posixpath.dirname(names[0]), posixpath.splitext(names[0])[1]
    for stem in ("*", re.sub(r"\d+", "*", posixpath.basename(names[0]).removesuffix(suffix))):
        glob = posixpath.join(folder, stem + suffix)
        inside = [name for name in everything if posixpath.dirname(name) == folder]
        if [name for name in inside if fnmatch(name, glob)] == names:
            return (glob,)
    return tuple(names)


def _look(files: Sequence[InputFile]) -> tuple[Column, ...]:
    tables, left = [], SAMPLE_ROWS
    for file in files:
        if left > 0:
            tables.append(RowFile(file.name, _read(file, None, limit=left)))
            left -= tables[-1].table.num_rows
    rows = Rows("", tuple(tables), loose=files[0].path.endswith(".csv"))
    return tuple(look_at(rows, name) for name in tables[0].table.column_names)


def _read(file: InputFile, columns: Sequence[str] | None, *, limit: int) -> pa.Table:
    """Some or all (None) columns; `limit` 0 = all rows."""
    suffix = posixpath.splitext(file.path)[1]
    with file.open() as stream, reading(file.name):
        try:
            if columns is None and suffix == ".parquet":
                columns = pyarrow.parquet.ParquetFile(stream).schema_arrow.names
            elif columns is None:
                columns = _header(file)
            batches, count = [], 0
            for batch in IMPORTERS[suffix](stream, columns):
                batches.append(batch)
                count += batch.num_rows
                if limit and count >= limit:
                    break
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(file, error) from None
    if not batches:
        return pa.table({name: pa.nulls(0) for name in columns})
    table = pa.Table.from_batches(batches)
    return table.slice(0, limit) if limit else table


def _unreadable(file: InputFile, error: Exception) -> DataError:
    """What a library says about the content of a file; a disk's or network's own trouble passes through."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    return DataError(f"{file.name}: not readable as a table: {' '.join(str(error).split())}")
