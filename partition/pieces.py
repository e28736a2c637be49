"""One column of a table piece by piece, in its plain type, and the faults that are found on the way.

Owns plain types, UTF-8, and which of several faults is told. Never decides what a column means.
Shape letters: N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from partition.rows import Rows, is_text

_TOO_LARGE, _NOT_UTF8 = -2, -1
"""Ranks of what is wrong with a column whatever it means."""


@dataclass
class Faults:
    """What is wrong with a table so far; in the end the fault of lowest rank is raised, with all its rows.

    Tables are read once for all checks, but told is what a check after the other would have found first.
    """

    rows: Rows
    _found: dict[int, _Fault] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(
        self, rank: int, positions: np.ndarray, column: str, reason: str, problem: Problem, *, hint: str = ""
    ) -> None:
        """Some rows, ascending and after those of earlier calls; none are no fault."""
        if len(positions):
            fault = self._found.setdefault(rank, _Fault(column, reason, problem, hint))
            most = self.rows.most_told
            left = len(positions) if most is None else max(0, most - sum(map(len, fault.positions)))
            if left:
                fault.positions.append(positions[:left])
            fault.count += len(positions)

    def add_column(self, rank: int, column: str, problem: str, *, hint: str = "") -> None:
        """A column that is wrong as a whole."""
        self._found.setdefault(rank, _Fault(column, "", lambda _: problem, hint))

    def refuse(self) -> None:
        """Raise BadRows, or DataError for a whole column, if there is any fault."""
        if not self._found:
            return
        fault = self._found[min(self._found)]
        if not fault.count:
            self.rows.fail_column(fault.column, fault.problem(0), hint=fault.hint)
        positions = np.concatenate(fault.positions)
        self.rows.refuse(
            positions, fault.column, fault.reason, fault.problem, hint=fault.hint, count=fault.count
        )


Problem = Callable[[int], str]
"""What is said of the row at a position."""


@dataclass
class _Fault:
    column: str
    reason: str
    problem: Problem
    hint: str
    positions: list[np.ndarray] = field(default_factory=list)
    count: int = 0


@dataclass(frozen=True)
class Column:
    """A column over all files of a table."""

    rows: Rows
    name: str
    kind: pa.DataType
    """int64, large_string (valid UTF-8), or whatever else it is."""
    as_integers: bool = False
    """Texts, each of which is one."""

    def pieces(self, faults: Faults, *, rank: int = 0) -> Iterator[tuple[int, pa.Array]]:
        """(position of the first, values), at least one piece; what has no plain type is a fault."""
        empty = True
        for first, _, batch in self.rows.batches([self.name]):
            values = self.plain(batch.column(0), first, faults, rank=rank)
            if values is not None:
                empty = False
                yield first, values
        if empty:
            yield 0, pa.array([], self.kind)

    def plain(self, array: Any, first: int, faults: Faults, *, rank: int = 0) -> pa.Array | None:
        """A piece of the column in its plain type, None where that is a fault."""
        if pa.types.is_dictionary(array.type):
            array = array.cast(array.type.value_type)
        if pa.types.is_integer(array.type):
            try:
                return array.cast(pa.int64())
            except pa.ArrowInvalid:
                problem = "a number does not fit into 64 signed bits"
                faults.add_column(rank + _TOO_LARGE, self.name, problem)
                return None
        if _is_bytes(array.type):
            binary = array.cast(pa.large_binary())
            try:
                array = binary.cast(pa.large_string())
            except pa.ArrowInvalid:
                faults.add(
                    rank + _NOT_UTF8,
                    first + _bad_utf8(binary),
                    self.name,
                    "not valid UTF-8",
                    lambda _: "not valid UTF-8",
                    hint="save the table as UTF-8",
                )
                return None
        return array.cast(pa.int64() if self.as_integers else self.kind)

    def value(self, position: int) -> Any:
        """One cell, as Python has it."""
        found = self.plain(self.rows.cell(position, self.name), position, Faults(self.rows))
        return None if found is None else found[0].as_py()

    def with_integers(self) -> Column:
        """As integers where this is text from CSV, and every cell is one as Python would print it."""
        if not self.rows.loose or not is_text(self.kind):
            return self
        alike = all(_are_integers(values) for _, values in self.pieces(Faults(self.rows)))
        return replace(self, kind=pa.int64(), as_integers=True) if alike else self


def column_of(rows: Rows, name: str) -> Column:
    """A column; DataError where its files disagree about its type."""
    plain = [_plain_type(file.table.schema.field(name).type) for file in rows.files]
    kinds = {str(kind): kind for kind in plain if kind != pa.null()}
    if len(kinds) > 1:
        rows.fail_column(name, f"its files disagree about its type: {', '.join(kinds)}")
    return Column(rows, name, next(iter(kinds.values()), pa.null()))


def whole_column(rows: Rows, name: str) -> pa.Array:
    """All of a column in memory; BadRows for cells that are not valid UTF-8."""
    faults = Faults(rows)
    pieces = [values for _, values in column_of(rows, name).pieces(faults)]
    faults.refuse()
    return pa.concat_arrays(pieces)


def true(mask: Any) -> np.ndarray:
    """int64, rows of the true values."""
    return np.flatnonzero(mask.to_numpy(zero_copy_only=False))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind):
        return pa.int64()
    return pa.large_string() if _is_bytes(kind) else kind


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(is_text(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _are_integers(texts: pa.Array) -> bool:
    try:
        numbers = texts.cast(pa.int64())
    except pa.ArrowInvalid:
        return False
    return pc.all(pc.equal(numbers.cast(pa.large_string()), texts)).as_py() in (True, None)


def _bad_utf8(array: pa.Array) -> np.ndarray:
    rows = []
    for row, value in enumerate(array):
        try:
            (value.as_py() or b"").decode("utf-8")
        except UnicodeDecodeError:
            rows.append(row)
    return np.array(rows, dtype=np.int64)
