"""Rows that are wrong and left out of the graph: which, why, and how many of them are too many.

Owns the cap, `quarantine/TABLE.parquet` and what is told of it. Never decides what is wrong (columns.py), and
knows no types and relations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from partition.errors import DataError, UsageError
from partition.lines import place
from partition.rows import BadRows, Rows

FAIL, QUARANTINE = "fail", "quarantine"
POLICIES = (FAIL, QUARANTINE)
FOLDER = "quarantine"
CAP = 0.01
"""Share of a table's rows: a slip here and there, not a column that means something else."""
RAGGED = "ragged row"
_SHOWN = 3
"""Rows of a table over the cap that the error names."""
_SCHEMA = pa.schema(
    {
        "file": pa.string(),
        "row": pa.int64(),
        "line": pa.int64(),
        "column": pa.string(),
        "reason": pa.string(),
        "value": pa.string(),
    }
)

_Read = TypeVar("_Read")


@dataclass(frozen=True)
class LeftOut:
    """One row that is not in the graph."""

    file: str
    row: int
    """From 0 below the header, within its file."""
    line: int | None
    """Of a CSV file, from 1."""
    column: str | None
    """None: the row as a whole."""
    reason: str
    value: str | None
    """The cell, or the whole row, as text."""


@dataclass(frozen=True)
class Quarantine:
    """What a table has lost."""

    total: int
    """Rows of the table, these included."""
    rows: tuple[LeftOut, ...]
    """By file and row."""
    ids: tuple[str, ...] = ()
    """Of a node table: the ids of the rows, as text, where they have one."""

    @property
    def reasons(self) -> dict[str, int]:
        return dict(sorted(Counter(row.reason for row in self.rows).items()))


@dataclass(frozen=True)
class _Found:
    """A row that is wrong, before its line is looked up."""

    file: int
    row: int
    column: str | None
    reason: str
    value: str | None
    problem: str
    id: str | None = None


def check_policy(policy: str, cap: float, *, key: Callable[[str], str] = str) -> None:
    """UsageError for an unknown policy or a cap that is no share; `key` makes a setting's full name."""
    if policy not in POLICIES:
        raise UsageError(f"{key('bad_rows')} = {policy!r}: expected {' or '.join(POLICIES)}")
    if not 0 < cap <= 1:
        raise UsageError(f"{key('bad_rows_cap')} = {cap}: expected more than 0, at most 1")


def cap_of(options: Mapping[str, Any]) -> float | None:
    """The cap that a partition's options ask for; None where a bad row ends the build."""
    return float(options["bad_rows_cap"]) if options.get("bad_rows", FAIL) == QUARANTINE else None


def sift(
    rows: Rows, read: Callable[[Rows], _Read], *, cap: float, id_column: str = ""
) -> tuple[_Read, Quarantine]:
    """What `read` makes of a table without the rows that it refuses, and those rows.

    It is called again after each fault with all rows that have it taken out, so the result is exactly that
    of a table without them. DataError where more than the share `cap` of the rows, and more than one, are
    wrong; so early that a column of nonsense costs no more than one fault.
    """
    total = len(rows) + sum(len(file.ragged) for file in rows.files)
    allowed = max(1, int(cap * total))
    rows = whole = replace(rows, most_told=allowed + _SHOWN)
    found = list(_ragged(rows))
    if len(found) > allowed:
        raise _too_many(whole, found, len(found), total, allowed, cap)
    while True:
        try:
            result = read(rows)
        except BadRows as bad:
            count = len(found) + bad.count
            few = bad.positions if count <= allowed else bad.positions[:_SHOWN]
            found += [_found(rows, bad, int(position), id_column) for position in few]
            if count > allowed:
                raise _too_many(whole, found, count, total, allowed, cap) from None
            rows = rows.without(bad.positions)
            continue
        ids = tuple(row.id for row in found if row.id is not None)
        return result, Quarantine(total, tuple(_with_lines(whole, found)), ids)


def write_quarantine(folder: Path, tables: Mapping[str, Quarantine]) -> None:
    """`quarantine/TABLE.parquet` of each table that has lost rows."""
    for name, table in tables.items():
        if not table.rows:
            continue
        path = folder / FOLDER / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        columns = {key: [getattr(row, key) for row in table.rows] for key in _SCHEMA.names}
        pq.write_table(pa.table(columns, schema=_SCHEMA), path)


def quarantine_stats(tables: Mapping[str, Quarantine]) -> dict[str, Any]:
    """Table -> its rows, how many of them are left out, and why."""
    return {
        name: {"rows": table.total, "left_out": len(table.rows), "reasons": table.reasons}
        for name, table in tables.items()
        if table.rows
    }


def quarantine_lines(stats: Mapping[str, Any]) -> list[str]:
    """What a person is told of `quarantine_stats`, a line for each table."""
    lines = []
    for name, table in stats.items():
        why = ", ".join(f"{count:,} {reason}" for reason, count in table["reasons"].items())
        where = f"{FOLDER}/{name}.parquet"
        lines.append(f"{name}: {table['left_out']:,} of {table['rows']:,} rows left out ({why}): {where}")
    return lines


def _ragged(rows: Rows) -> Iterator[_Found]:
    for index, file in enumerate(rows.files):
        for row in file.ragged:
            yield _Found(index, row.row, None, RAGGED, row.text, row.problem)


def _found(rows: Rows, bad: BadRows, position: int, id_column: str) -> _Found:
    index, row = rows.find(position)
    return _Found(
        file=index,
        row=rows.files[index].number(row),
        column=bad.column,
        reason=bad.reason,
        value=rows.text(position, bad.column),
        problem=bad.problem(position),
        id=rows.text(position, id_column) if id_column else None,
    )


def _with_lines(rows: Rows, found: Sequence[_Found]) -> Iterator[LeftOut]:
    ordered = sorted(found, key=lambda row: (row.file, row.row))
    for index, file in enumerate(rows.files):
        own = [row for row in ordered if row.file == index]
        lines = rows.lines_of(file.name, [row.row for row in own]) if own else []
        for row, line in zip(own, lines, strict=True):
            yield LeftOut(file.name, row.row, line, row.column, row.reason, row.value)


def _too_many(
    rows: Rows, found: Sequence[_Found], count: int, total: int, allowed: int, cap: float
) -> DataError:
    """Some rows may have faults that were not looked for any more."""
    first = sorted(found, key=lambda row: (row.file, row.row))[:_SHOWN]
    told = []
    for row in first:
        name = rows.files[row.file].name
        column = f", column {row.column!r}" if row.column else ""
        told.append(f"{name}, {place(row.row, rows.lines_of(name, [row.row])[0])}{column}: {row.problem}")
    return DataError(
        f"{rows.where}: at least {count:,} of {total:,} rows are wrong, more than the {allowed:,} that "
        f"bad_rows_cap = {cap:g} lets be left out; {'; '.join(told)}",
        hint="mend the table, or raise the cap",
    )
