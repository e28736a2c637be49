"""The first rows of a column -> what kind of values it has, how many differ, how long they are.

Never opens a file, never decides what a column means.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from partition.pieces import whole_column
from partition.rows import Rows


@dataclass(frozen=True)
class Column:
    """What the first rows of a column look like."""

    name: str
    kind: str
    """integer, number, boolean, string, list (of numbers), empty or other."""
    type: str
    """Arrow's name for the type."""
    values: pa.Array
    """The first rows; in CSV as numbers where every cell is one."""
    distinct: int
    mean_chars: float = 0.0
    mean_words: float = 0.0

    @property
    def filled(self) -> int:
        """Sampled cells that are not empty."""
        return len(self.values) - int(self.values.null_count)


def look_at(rows: Rows, name: str) -> Column:
    """A column of the first rows."""
    values = whole_column(rows, name)
    if rows.loose:
        values = _typed(values)
    kind = "other" if rows.loose and _are_dates(values) else _kind(values)
    filled = values.drop_null()
    distinct = int(pc.count_distinct(filled).as_py()) if kind not in ("list", "other", "empty") else 0
    chars = words = 0.0
    if kind == "string" and len(filled):
        chars = float(pc.mean(pc.utf8_length(filled)).as_py())
        words = float(pc.mean(pc.list_value_length(pc.utf8_split_whitespace(filled))).as_py())
    told = "dates" if kind == "other" and rows.loose else str(values.type)
    return Column(name, kind, told, values, distinct, chars, words)


def _typed(values: pa.Array) -> pa.Array:
    """Text from CSV as int64 or double where every cell is a number; 007 is none."""
    try:
        numbers = values.cast(pa.int64())
    except pa.ArrowInvalid:
        try:
            return values.cast(pa.float64())
        except pa.ArrowInvalid:
            return values
    same = pc.all(pc.equal(numbers.cast(pa.large_string()), values)).as_py()
    return numbers if same in (True, None) else values


def _are_dates(values: pa.Array) -> bool:
    """Whether all cells of a CSV column are dates as ISO 8601 writes them."""
    if values.type != pa.large_string() or values.null_count == len(values):
        return False
    try:
        values.cast(pa.timestamp("s"))
    except pa.ArrowInvalid:
        return False
    return True


def _kind(values: pa.Array) -> str:
    of, is_ = values.type, pa.types
    if values.null_count == len(values):
        return "empty"
    if is_.is_list(of) or is_.is_large_list(of) or is_.is_fixed_size_list(of):
        inner = of.value_type
        return "list" if is_.is_floating(inner) or is_.is_integer(inner) else "other"
    if is_.is_boolean(of):
        return "boolean"
    if is_.is_integer(of):
        return "integer"
    if is_.is_floating(of) or is_.is_decimal(of):
        return "number"
    return "string" if is_.is_string(of) or is_.is_large_string(of) else "other"
