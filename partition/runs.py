"""Keys sorted on disk, each with the row that it comes from, and each kept: sorted runs, read range by range.

Owns the scratch files. Unlike spill.py, which adds equal records up, it keeps them, in the order of rows.
Shape letters: R records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from partition.arrays import ArrayFile, pieces

_WINDOWS, _WINDOW = 8192, 16
"""Rows to guess ranges by: taken all over the table, since rows beside each other have much in common."""
_MOST_INT32 = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Keyed:
    """Some records."""

    keys: np.ndarray
    """int64 R."""
    rows: np.ndarray | None = None
    """Integers R, the rows that they come from; None where nobody asks."""


KeysOf = Callable[[int, int], Keyed]
"""(first row, row after the last) -> the records of these rows, ascending by row; a row may have none."""


def in_order_of_keys(folder: Path, rows: int, keys_of: KeysOf, *, range_records: int) -> Iterator[Keyed]:
    """All records of rows 0 to `rows`, ascending by (key, row), range by range.

    A run has `range_records`, and a range about as many: 50 bytes of memory each while they are sorted. Equal
    keys are never in two ranges. Scratch files lie in `folder`, which is there.
    """
    if not rows:
        return
    bounds = _bounds(rows, keys_of, range_records)
    with _Runs(folder, bounds, np.int32 if rows <= _MOST_INT32 else np.int64) as runs:
        for mine in pieces(0, rows, range_records):
            runs.add(_sorted(keys_of(mine.start, mine.stop)))
        for index in range(len(bounds) + 1):
            yield _sorted(runs.take(index))


def _bounds(rows: int, keys_of: KeysOf, range_records: int) -> np.ndarray:
    """int64, ascending, each once: the first key of every range but the first."""
    ranges = -(-rows // range_records)
    if ranges < 2:
        return np.zeros(0, dtype=np.int64)
    starts = np.linspace(0, rows, _WINDOWS, endpoint=False).astype(np.int64).tolist()
    sample = np.concatenate([keys_of(start, min(start + _WINDOW, rows)).keys for start in starts])
    sample.sort()
    return np.unique(sample[np.arange(1, ranges) * len(sample) // ranges]) if len(sample) else sample


def _sorted(records: Keyed) -> Keyed:
    """Ascending by key, equal ones in the order in which they are given."""
    if records.rows is None:
        return Keyed(np.sort(records.keys), None)  # several times as fast as an order of the keys
    order = np.argsort(records.keys, kind="stable")
    return Keyed(records.keys[order], records.rows[order])


class _Runs:
    """Sorted runs one after the other in two scratch files, and where each range begins in each run."""

    def __init__(self, folder: Path, bounds: np.ndarray, row_dtype: type) -> None:
        self._bounds = bounds
        self._keys = ArrayFile(folder / "keys.scratch", np.int64)
        self._rows = ArrayFile(folder / "rows.scratch", row_dtype)
        self._cuts: list[np.ndarray] = []
        self._held = 0
        self._with_rows = False
        self._mapped: tuple[np.ndarray, np.ndarray] | None = None

    def __enter__(self) -> _Runs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mapped = None
        for file in (self._keys, self._rows):
            file.close()
            file.path.unlink()

    def add(self, run: Keyed) -> None:
        """Ascending by key."""
        inner = np.searchsorted(run.keys, self._bounds)
        self._cuts.append(self._held + np.concatenate([[0], inner, [len(run.keys)]]))
        self._held += len(run.keys)
        self._keys.append(run.keys)
        if run.rows is not None:
            self._rows.append(run.rows)
            self._with_rows = True

    def take(self, index: int) -> Keyed:
        """A range of every run, run by run, so that equal keys are in the order of their rows."""
        if self._mapped is None:
            self._mapped = self._keys.mapped(), self._rows.mapped()
        keys, rows = self._mapped
        mine = [slice(*cuts[index : index + 2].tolist()) for cuts in self._cuts]
        joined = np.concatenate([keys[run] for run in mine])
        return Keyed(joined, np.concatenate([rows[run] for run in mine]) if self._with_rows else None)
