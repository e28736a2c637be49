"""The rows of one table as they were read, and what is said of those that are wrong.

Owns the way from a row in memory to its place in a file. Never decides what is wrong, nor what comes of it.
Shape letters: N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from partition.errors import DataError
from partition.lines import LinesOf, no_lines, place


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
    """What one file gave to a table."""

    name: str
    table: pa.Table
    numbers: np.ndarray | None = None
    """int64 N, row of the file that each one is; None = they are all there."""
    ragged: tuple[Ragged, ...] = ()
    """Only where they are put aside; else the first of them ends the reading."""

    def number(self, row: int) -> int:
        return row if self.numbers is None else int(self.numbers[row])


@dataclass(frozen=True)
class Rows:
    """The rows of one node type or relation, file by file; a *position* counts through all files."""

    where: str
    """Table of graph.toml, such as [nodes.package]."""
    files: tuple[RowFile, ...]
    loose: bool = False
    """From CSV: every column comes as text, and its meaning decides what it is."""
    lines_of: LinesOf = field(default=no_lines)

    def __len__(self) -> int:
        return sum(file.table.num_rows for file in self.files)

    def find(self, position: int) -> tuple[int, int]:
        """(index of the file, row of its table)."""
        for index, file in enumerate(self.files):
            if position < file.table.num_rows:
                return index, position
            position -= file.table.num_rows
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
    ) -> NoReturn:
        """Raise BadRows for all cells that are wrong in one way; `problem` is what to say of a position."""
        raise BadRows(self, positions, column, reason, problem, hint=hint)

    def fail_column(self, column: str, problem: str, *, hint: str = "") -> NoReturn:
        """Raise DataError for a whole column."""
        names = ", ".join(file.name for file in self.files[:3])
        raise DataError(f"{names} {self.where}, column {column!r}: {problem}", hint=hint)

    def without(self, positions: np.ndarray) -> Rows:
        """All rows but some, which keep their places in the files."""
        files, first = [], 0
        for file in self.files:
            count = file.table.num_rows
            kept = np.ones(count, dtype=bool)
            kept[positions[(positions >= first) & (positions < first + count)] - first] = False
            numbers = np.arange(count) if file.numbers is None else file.numbers
            files.append(replace(file, table=file.table.filter(pa.array(kept)), numbers=numbers[kept]))
            first += count
        return replace(self, files=tuple(files))

    def text(self, position: int, column: str) -> str | None:
        """One cell as text, for a person to read."""
        index, row = self.find(position)
        cell: Any = self.files[index].table[column].slice(row, 1).combine_chunks()
        if pa.types.is_dictionary(cell.type):
            cell = cell.cast(cell.type.value_type)
        if is_text(cell.type):
            cell = cell.cast(pa.large_binary())  # it may be no valid UTF-8
        value = cell[0].as_py()
        if isinstance(value, bytes):
            return value.decode("utf-8", errors="replace")
        return None if value is None else str(value)

    def column(self, name: str) -> pa.Array:
        """One column over all files: int64, large_string (valid UTF-8), or whatever else it is."""
        arrays, broken, first = [], [], 0
        for file in self.files:
            try:
                arrays.append(self._plain(file.table[name].combine_chunks(), name))
            except _NotUTF8 as error:
                broken.append(first + _bad_utf8(error.array))
            first += file.table.num_rows
        if broken:
            hint = "save the table as UTF-8"
            self.refuse(
                np.concatenate(broken), name, "not valid UTF-8", lambda _: "not valid UTF-8", hint=hint
            )
        kinds = {str(array.type): array.type for array in arrays if array.type != pa.null()}
        if len(kinds) > 1:
            self.fail_column(name, f"its files disagree about its type: {', '.join(kinds)}")
        kind = next(iter(kinds.values()), pa.null())
        return pa.concat_arrays([array.cast(kind) for array in arrays])

    def _plain(self, array: Any, name: str) -> pa.Array:
        if isinstance(array, pa.ChunkedArray):
            array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
        if pa.types.is_dictionary(array.type):
            array = array.cast(array.type.value_type)
        if pa.types.is_integer(array.type):
            try:
                return array.cast(pa.int64())
            except pa.ArrowInvalid:
                self.fail_column(name, "a number does not fit into 64 signed bits")
        if is_text(array.type) or pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
            binary = array.cast(pa.large_binary())
            try:
                return binary.cast(pa.large_string())
            except pa.ArrowInvalid:
                raise _NotUTF8(binary) from None
        return array


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
    ) -> None:
        first = int(positions[0])
        super().__init__(f"{rows.place(first)}, column {column!r}: {problem(first)}", hint=hint)
        self.positions = positions
        self.column = column
        self.reason = reason
        """The same words for all rows with this fault."""
        self.problem = problem


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


class _NotUTF8(Exception):
    def __init__(self, array: pa.Array) -> None:
        super().__init__()
        self.array = array


def _bad_utf8(array: Sequence[Any]) -> np.ndarray:
    rows = []
    for row, value in enumerate(array):
        try:
            (value.as_py() or b"").decode("utf-8")
        except UnicodeDecodeError:
            rows.append(row)
    return np.array(rows, dtype=np.int64)
