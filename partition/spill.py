"""Records sorted by (row, column) that need not fit in memory: put aside by ranges of rows, read in order.

Owns two scratch files and how equal records are added up. Knows nothing of graphs.
Shape letters: R records, B ranges of rows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np

RANGE_RECORDS = 1 << 20
"""Records of a range, hubs apart: 8 MB of keys, and four times that while they are sorted; and the range
before it, 16 MB, is with the caller."""
_BINS = 1 << 16
"""Records are counted in so many bins of rows, not row by row: half a megabyte at any size."""


@dataclass(frozen=True)
class Records:
    """Some records; equal ones may occur again, here or in others."""

    rows: np.ndarray
    """Integers R, from 0 on and less than 2**31."""
    columns: np.ndarray
    """The same."""
    weights: np.ndarray | None = None
    """Integers R, from 1 on; None: one each."""


Item = TypeVar("Item")
Done = TypeVar("Done")
Source = Callable[[], Iterable[Records]]
"""Called twice; has to give the same records both times."""


def in_order(
    folder: Path, rows: int, source: Source, *, range_records: int = RANGE_RECORDS
) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """(first row, row after the last, keys, weights) range by range, from row 0 to `rows`.

    keys are int64, row << 32 | column, ascending, each once; weights int64, what equal records add up to.
    """
    starts, capacity = _ranges(rows, source, range_records)
    with _Spill(folder, starts, capacity) as spill:
        for some in one_ahead(lambda records: _added_up(*_keys(records)), source()):
            spill.add(*some)
        ranges = one_ahead(lambda index: _added_up(*spill.take(index)), range(len(capacity)))
        for (first, last), some in zip(pairwise(starts.tolist()), ranges, strict=True):
            yield first, last, *some


def one_ahead(work: Callable[[Item], Done], items: Iterable[Item]) -> Iterator[Done]:
    """What `work` makes of each item, in their order, in a thread that is one item ahead of the caller."""
    with ThreadPoolExecutor(1) as pool:
        before: Future[Done] | None = None
        for item in items:
            coming = pool.submit(work, item)
            if before is not None:
                yield before.result()
            before = coming
        if before is not None:
            yield before.result()


def _ranges(rows: int, source: Source, range_records: int) -> tuple[np.ndarray, np.ndarray]:
    """(int64 B + 1, first row of each range, then `rows`; int64 B, records of each, repeats included)."""
    shift = max(0, (rows - 1).bit_length() - _BINS.bit_length() + 1)
    bins = (rows >> shift) + 1
    counts = np.zeros(bins, dtype=np.int64)
    for records in source():
        counts += np.bincount(records.rows >> shift, minlength=bins)
    starts, capacity, held = [0], [], 0
    for index, count in enumerate(counts.tolist()):
        if held and held + count > range_records:
            starts.append(index << shift)
            capacity.append(held)
            held = 0
        held += count
    return np.array([*starts, rows], dtype=np.int64), np.array([*capacity, held], dtype=np.int64)


def _keys(records: Records) -> tuple[np.ndarray, np.ndarray]:
    keys = records.rows.astype(np.int64)
    keys <<= 32
    keys |= records.columns
    weights = np.ones(len(keys), np.int32) if records.weights is None else records.weights
    return keys, weights


def _added_up(keys: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(int64 keys ascending, each once; int64 sums of their weights)."""
    if len(keys) == 0:
        return keys, weights.astype(np.int64)
    if (weights == 1).all():
        keys.sort()  # several times as fast as an order of the keys
        starts = _changes(keys)
        return keys[starts], np.diff(starts, append=len(keys))
    order = np.argsort(keys)
    keys = keys[order]
    starts = _changes(keys)
    return keys[starts], np.add.reduceat(weights[order].astype(np.int64), starts)


def _changes(keys: np.ndarray) -> np.ndarray:
    """int64, where a key differs from the one before."""
    return np.concatenate([[0], np.flatnonzero(keys[1:] != keys[:-1]) + 1])


class _Spill:
    """Two scratch files, in which every range of rows has room for all its records."""

    def __init__(self, folder: Path, starts: np.ndarray, capacity: np.ndarray) -> None:
        self._first_keys = starts << 32
        self._offset = np.concatenate([[0], np.cumsum(capacity)])
        self._held = np.zeros(len(capacity), dtype=np.int64)
        self._paths = [folder / "keys.scratch", folder / "weights.scratch"]
        self._files = [os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600) for path in self._paths]

    def __enter__(self) -> _Spill:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file, path in zip(self._files, self._paths, strict=True):
            os.close(file)
            path.unlink()

    def add(self, keys: np.ndarray, weights: np.ndarray) -> None:
        """Keys ascending, each once."""
        at = np.searchsorted(keys, self._first_keys)
        at[-1] = len(keys)
        weights = np.minimum(weights, np.iinfo(np.int32).max).astype(np.int32)
        for index in np.flatnonzero(np.diff(at)):
            place = int(self._offset[index] + self._held[index])
            mine = slice(at[index], at[index + 1])
            _write(self._files[0], keys[mine], place * 8)
            _write(self._files[1], weights[mine], place * 4)
            self._held[index] += at[index + 1] - at[index]

    def take(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(int64 keys, int32 weights) of a range, as they were added."""
        place, count = int(self._offset[index]), int(self._held[index])
        keys = np.fromfile(self._paths[0], np.int64, count, offset=place * 8)
        return keys, np.fromfile(self._paths[1], np.int32, count, offset=place * 4)


def _write(file: int, values: np.ndarray, place: int) -> None:
    """All of an array at a place in a file; not through a map, where a full disk kills the process."""
    left = values.data.cast("B")
    while left:
        written = os.pwrite(file, left, place)
        left, place = left[written:], place + written
