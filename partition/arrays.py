"""Numbers in files: written piece by piece, then mapped, so that they may be larger than memory.

Owns how such a file is written and mapped. Knows nothing of what the numbers are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

PIECE = 1 << 20
"""Rows handled at a time."""


def pieces(first: int, last: int, size: int = 0) -> Iterator[slice]:
    """The rows from `first` to before `last`, so many at a time, or PIECE."""
    size = size or PIECE
    for start in range(first, last, size):
        yield slice(start, min(start + size, last))


class ArrayFile:
    """A one-dimensional array that grows in a new file; OSError with ENOSPC if the disk is full."""

    def __init__(self, path: Path, dtype: Any) -> None:
        self.path = path
        self.dtype = np.dtype(dtype)
        self._file = path.open("wb")

    def append(self, values: np.ndarray) -> None:
        """All values of an array of any shape, row by row; each has to fit the file's dtype."""
        if values.size:
            # Written, not mapped: on a full disk a map kills the process.
            self._file.write(np.ascontiguousarray(values, dtype=self.dtype).data.cast("B"))

    def close(self) -> None:
        self._file.close()

    def mapped(self) -> np.ndarray:
        """What was appended; nothing can be appended any more. The file may be removed meanwhile."""
        self.close()
        return mapped(self.path, self.dtype)


def mapped(path: Path, dtype: Any) -> np.ndarray:
    """A file's numbers. Not to be changed; who tries changes a copy (torch wants it writable)."""
    if path.stat().st_size:
        return np.asarray(np.memmap(path, dtype, mode="c"))
    return np.zeros(0, dtype=dtype)  # nothing can be mapped of an empty file


def write_npy(path: Path, dtype: Any, shape: Sequence[int], blocks: Iterable[np.ndarray]) -> None:
    """A NumPy file of an array that comes as blocks of rows, all together of that shape; OSError with ENOSPC
    if the disk is full."""
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
        "fortran_order": False,
        "shape": tuple(shape),
    }
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype=dtype).tobytes())


def gathered(path: Path, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`values[rows]` in a new file, mapped; `values` has one or two dimensions, `rows` are integers."""
    width = values[:1].size or 1
    file = ArrayFile(path, values.dtype)
    for mine in pieces(0, len(rows), max(PIECE // width, 1)):
        file.append(values[rows[mine]])
    return file.mapped().reshape(len(rows), *values.shape[1:])
