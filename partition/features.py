"""Columns of numbers -> features side by side; every complaint names file, row and column.

Owns what counts as a feature. Never opens a table.
Shape letters: N rows, F width of all columns together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from partition.pieces import Column, Faults, column_of, true
from partition.room import IN_MEMORY, Room
from partition.rows import Rows, is_text

_RANKS = 10
"""Ranks of faults for each column; those of a column come before all of the next."""
_EMPTY = "feature is empty"


def read_features(rows: Rows, columns: Sequence[str], room: Room = IN_MEMORY) -> np.ndarray:
    """float32 N x F of numeric columns (scalars or lists of one length), side by side."""
    faults = Faults(rows)
    readers = [_Feature(column_of(rows, name), faults, _RANKS * (i + 1)) for i, name in enumerate(columns)]
    finite = _Finite(Faults(rows))

    def parts() -> Iterator[np.ndarray]:
        empty = True
        for first, _, batch in rows.batches(columns):
            pieces = [r.read(batch.column(i), first) for i, r in enumerate(readers)]
            known = [piece for piece in pieces if piece is not None]
            if len(known) == len(pieces) and not faults:
                empty = False
                yield finite.check(first, columns, known)
        if empty:
            known = [
                values for r in readers if (values := r.read(pa.array([], r.column.kind), 0)) is not None
            ]
            yield np.concatenate([np.zeros((0, 0)), *known], axis=1)

    values = room.numbers(np.float32, parts())
    faults.refuse()
    finite.faults.refuse()
    return values


@dataclass
class _Finite:
    """Looks for values that are no numbers, in the column that has the first of them."""

    faults: Faults
    column: int | None = None

    def check(self, first: int, names: Sequence[str], parts: Sequence[np.ndarray]) -> np.ndarray:
        """float32 N x F of some rows; `parts` are float64, a column each."""
        with np.errstate(over="ignore"):
            found = [part.astype(np.float32) for part in parts]
        values = np.concatenate(found, axis=1)
        if not np.isfinite(values).all():
            wrong = np.stack([~np.isfinite(part).all(axis=1) for part in found], axis=1)
            if self.column is None:
                self.column = int(np.argwhere(wrong)[0][1])
            problem = "a feature is NaN, infinite or too large for float32"
            self.faults.add(
                0,
                first + np.flatnonzero(wrong[:, self.column]),
                names[self.column],
                "feature not finite",
                lambda _: problem,
                hint="replace it before",
            )
        return values


@dataclass
class _Feature:
    """One column as it is read; lists are as long as the first."""

    column: Column
    faults: Faults
    rank: int
    width: int | None = None

    def read(self, raw: Any, first: int) -> np.ndarray | None:
        """float64, rows x width; None where something is wrong with them."""
        array = self.column.plain(raw, first, self.faults, rank=self.rank)
        if array is None:
            return None
        if array.null_count:
            wrong = first + true(pc.is_null(array))
            self._add(0, wrong, _EMPTY, "a feature is empty", hint="fill it in before")
            return None
        count = len(array)
        if count == 0 and array.type == pa.null():
            return np.zeros((0, self.width or 1))
        if (flat := self._flat(array, first)) is None:
            return None
        width = self._width(array)
        if flat.null_count:
            self._add(3, first + np.unique(true(pc.is_null(flat)) // width), _EMPTY, "a feature is empty")
            return None
        numbers = self._numbers(flat, first)
        return None if numbers is None else numbers.reshape(count, width)

    def _flat(self, array: Any, first: int) -> pa.Array | None:
        """The numbers of all rows one after the other, None where lists differ in length."""
        kind = array.type
        if pa.types.is_fixed_size_list(kind):
            return array.flatten()
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            return array
        if len(array) == 0:
            return array.flatten()
        lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
        width = self.width = int(lengths[0]) if self.width is None else self.width
        if (lengths != width).any():
            wrong = first + np.flatnonzero(lengths != width)
            value = self.column.value
            self.faults.add(
                self.rank + 1,
                wrong,
                self.column.name,
                "feature of another length",
                lambda row: f"a list of {len(value(row))} numbers; row 0 has {width}",
            )
            return None
        if width == 0:
            everyone = first + np.arange(len(array))
            self._add(2, everyone, _EMPTY, "a feature without numbers: its lists are empty")
            return None
        return array.flatten()

    def _width(self, array: Any) -> int:
        if pa.types.is_fixed_size_list(array.type):
            return int(array.type.list_size)
        return 1 if self.width is None else self.width

    def _numbers(self, array: pa.Array, first: int) -> np.ndarray | None:
        if is_text(array.type) and self.column.rows.loose:
            try:
                array = array.cast(pa.float64())
            except pa.ArrowInvalid:
                wrong = first + np.flatnonzero([not _is_number(text) for text in array])
                self.faults.add(
                    self.rank + 4,
                    wrong,
                    self.column.name,
                    "not a number",
                    lambda row: f"{self.column.value(row)!r} is not a number",
                )
                return None
        kind = array.type
        numeric = pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)
        if not (numeric or pa.types.is_boolean(kind)):
            problem = f"a feature is a number or a list of numbers, not {kind}"
            self.faults.add_column(self.rank + 5, self.column.name, problem, hint="convert it")
            return None
        if pa.types.is_boolean(kind):
            array = array.cast(pa.int8())
        numbers: np.ndarray = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        return numbers

    def _add(self, rank: int, positions: np.ndarray, reason: str, problem: str, *, hint: str = "") -> None:
        self.faults.add(self.rank + rank, positions, self.column.name, reason, lambda _: problem, hint=hint)


def _is_number(text: Any) -> bool:
    try:
        text.cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True
