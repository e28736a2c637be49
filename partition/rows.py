"""The rows of one table as they were read, piece by piece, and what is said of those that are wrong.

Owns the way from a row that was read to its place in a file. Never decides what is wrong, nor what comes of
it.
Shape letters: N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from partition.errors import DataError
from partition.lines import LinesOf, no_lines, place

PIECE_ROWS = 1 << 16
"""Rows that are looked at together."""
PIECE_BYTES = 16 << 20
"""Of them all, where rows are long."""


@dataclass(frozen=True)
class Ragged:
    """A row of a CSV file with too many or too few cells, which is in no table."""

    row: int
    """From 0 within its file."""
    text: str
    expected: int
    actual: int

    @property
    def problem(self) -> str:
        return f"{self.actual} cells instead of {self.expected}"


@dataclass(frozen=True)
class RowFile:
    """What one file gave to a table, maybe mapped from a file of batches."""

    name: str
    table: pa.Table
    ragged: tuple[Ragged, ...] = ()
    """Only where they are put aside; else the first of them ends the reading."""
    dropped: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """int64, ascending: rows of `table` that are left out."""

    def __len__(self) -> int:
        return int(self.table.num_rows - len(self.dropped))

    def number(self, row: int) -> int:
        """Row of the file."""
        return _among_all(self.inner(row), np.array([ragged.row for ragged in self.ragged], dtype=np.int64))

    def inner(self, row: int) -> int:
        """Row of `table`."""
        return _among_all(row, self.dropped)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Some columns of all rows that are not left out, in pieces that do not depend on the columns."""
        row_bytes = self.table.nbytes // max(self.table.num_rows, 1) + 1
        first = 0
        most = max(1, min(PIECE_ROWS, PIECE_BYTES // row_bytes))
        for batch in self.table.select(list(columns)).to_reader(most):
            last = first + batch.num_rows
            start, stop = np.searchsorted(self.dropped, [first, last])
            if stop > start:
                kept = np.ones(batch.num_rows, dtype=bool)
                kept[self.dropped[start:stop] - first] = False
                batch = batch.filter(pa.array(kept))
            yield batch
            first = last


@dataclass(frozen=True)
class Rows:
    """The rows of one node type or relation, file by file; a *position* counts through all files."""

    where: str
    """Table of graph.toml, such as [nodes.package]."""
    files: tuple[RowFile, ...]
    loose: bool = False
    """From CSV: every column comes as text, and its meaning decides what it is."""
    lines_of: LinesOf = field(default=no_lines)
    most_told: int | None = None
    """Of the rows with one fault so many are remembered, the others only counted; None = all are."""

    def __len__(self) -> int:
        return sum(len(file) for file in self.files)

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[int, RowFile, pa.RecordBatch]]:
        """(position of the first row, its file, some columns of a few rows), in order."""
        first = 0
        for file in self.files:
            for batch in file.batches(columns):
                yield first, file, batch
                first += batch.num_rows

    def find(self, position: int) -> tuple[int, int]:
        """(index of the file, row of it that is not left out)."""
        for index, file in enumerate(self.files):
            if position < len(file):
                return index, position
            position -= len(file)
        raise IndexError(position)

    def place(self, position: int) -> str:
        """`FILE, row N (counting from 0)`, within the file; in CSV also the line."""
        index, row = self.find(position)
        file = self.files[index]
        number = file.number(row)
        return f"{file.name}, {place(number, self.lines_of(file.name, [number])[0])}"

    def fail(self, position: int, column: str, problem: str, *, hint: str = "") -> NoReturn:
        """Raise DataError for one cell."""
        raise DataError(f"{self.place(position)}, column {column!r}: {problem}", hint=hint)

    def refuse(
        self,
        positions: np.ndarray,
        column: str,
        reason: str,
        problem: Callable[[int], str],
        *,
        hint: str = "",
        count: int | None = None,
    ) -> NoReturn:
        """Raise BadRows for all cells that are wrong in one way; `problem` is what to say of a position.

        `count` says how many there are where `positions` are only the first.
        """
        raise BadRows(self, positions, column, reason, problem, hint=hint, count=count)

    def fail_column(self, column: str, problem: str, *, hint: str = "") -> NoReturn:
        """Raise DataError for a whole column."""
        names = ", ".join(file.name for file in self.files[:3])
        raise DataError(f"{names} {self.where}, column {column!r}: {problem}", hint=hint)

    def without(self, positions: np.ndarray) -> Rows:
        """All rows but some, which keep their places in the files."""
        files, first = [], 0
        for file in self.files:
            mine = positions[(positions >= first) & (positions < first + len(file))] - first
            inner = np.array([file.inner(int(row)) for row in mine], dtype=np.int64)
            files.append(replace(file, dropped=np.sort(np.concatenate([file.dropped, inner]))))
            first += len(file)
        return replace(self, files=tuple(files))

    def cell(self, position: int, column: str) -> pa.Array:
        """One cell as it was read, an array of one."""
        index, row = self.find(position)
        file = self.files[index]
        cell: Any = file.table[column].slice(file.inner(row), 1).combine_chunks()
        return cell.chunk(0) if isinstance(cell, pa.ChunkedArray) else cell

    def text(self, position: int, column: str) -> str | None:
        """One cell as text, for a person to read."""
        cell = self.cell(position, column)
        if pa.types.is_dictionary(cell.type):
            cell = cell.cast(cell.type.value_type)
        if is_text(cell.type):
            cell = cell.cast(pa.large_binary())  # it may be no valid UTF-8
        value = cell[0].as_py()
        if isinstance(value, bytes):
            return value.decode("utf-8", errors="replace")
        return None if value is None else str(value)


class BadRows(DataError):
    """Rows of a table that are wrong in one way; as an error it speaks of the first of them."""

    def __init__(
        self,
        rows: Rows,
        positions: np.ndarray,
        column: str,
        reason: str,
        problem: Callable[[int], str],
        *,
        hint: str = "",
        count: int | None = None,
    ) -> None:
        first = int(positions[0])
        super().__init__(f"{rows.place(first)}, column {column!r}: {problem(first)}", hint=hint)
        self.positions = positions
        self.count = len(positions) if count is None else count
        """Of all rows with this fault, of which `positions` may be the first only."""
        self.column = column
        self.reason = reason
        """The same words for all rows with this fault."""
        self.problem = problem


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _among_all(row: int, gone: np.ndarray) -> int:
    """Number of the row-th of all rows but some; `gone` is int64, ascending."""
    return row + int(np.searchsorted(gone - np.arange(len(gone)), row, side="right"))
