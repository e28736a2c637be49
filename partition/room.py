"""Where the arrays of a graph lie while it is built: files of a scratch folder, mapped, or memory.

Owns those files. What comes piece by piece is written piece by piece and handed back as one array, so that
tables may be larger than memory. Never looks at what the values mean.
Shape letters: N rows, F width.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from partition.arrays import ArrayFile
from partition.storage import writing

_names = itertools.count()
_LEAST_RECORDS, _MOST_RECORDS = 1 << 17, 1 << 21


@dataclass(frozen=True)
class Room:
    """A folder for arrays and what memory there is beside it; without a folder all is held in memory."""

    folder: Path | None = None
    memory: int = 0
    """Bytes that a step may take; nothing is bounded without a folder."""

    @property
    def records(self) -> int:
        """So many are sorted at a time: 50 bytes each, a tenth of the memory, and 100 MB at most."""
        return min(max(self.memory >> 9, _LEAST_RECORDS), _MOST_RECORDS)

    @property
    def spilled(self) -> int:
        """The same of records that are added up (spill.py), which take twice as much."""
        return self.records // 2

    def inner(self, name: str) -> Room:
        """A room of its own, empty; what an earlier one of that name held is gone."""
        if self.folder is None:
            return self
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return Room(folder, self.memory)

    def clear(self) -> None:
        """Remove the files; what is mapped of them stays readable as long as somebody holds it."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def numbers(self, dtype: Any, parts: Iterable[np.ndarray]) -> np.ndarray:
        """One array, read only where it is mapped, out of parts of N or N x F; at least one part."""
        if self.folder is None:
            return np.concatenate([part.astype(dtype, copy=False) for part in parts])
        tail: tuple[int, ...] = ()
        file = ArrayFile(self._path(), dtype)
        for part in parts:
            tail = part.shape[1:]
            file.append(part)
        values = file.mapped()
        return values.reshape(-1, *tail) if len(values) else np.zeros((0, *tail), dtype)

    def strings(self, parts: Iterable[pa.Array]) -> pa.Array:
        """One large_string array out of parts without nulls."""
        if self.folder is None:
            return pa.concat_arrays([pa.array([], pa.large_string()), *parts])
        offsets, texts = ArrayFile(self._path(), np.int64), ArrayFile(self._path(), np.uint8)
        end = 0
        offsets.append(np.zeros(1, np.int64))
        for part in parts:
            _, inner, values = part.buffers()
            if not len(part):
                continue
            own = np.frombuffer(inner, np.int64)[part.offset : part.offset + len(part) + 1]
            first, last = int(own[0]), int(own[-1])
            offsets.append(own[1:] + (end - first))
            if last > first:
                texts.append(np.frombuffer(values, np.uint8)[first:last])
            end += last - first
        places = offsets.mapped()
        buffers = pa.py_buffer(places), pa.py_buffer(texts.mapped())
        return pa.LargeStringArray.from_buffers(len(places) - 1, *buffers)

    def table(self, batches: Iterable[pa.RecordBatch], columns: Iterable[str]) -> pa.Table:
        """All batches as one table; `columns` are what it has where there are none."""
        arriving = iter(batches)
        first = next(arriving, None)
        if first is None:
            return pa.table({name: pa.nulls(0) for name in columns})
        if self.folder is None:
            return pa.Table.from_batches([first, *arriving])
        path, folder = self._path(), self.folder
        plain = _decoded(first)
        # `writing` is for the disk alone: reading the next batch has errors of its own.
        with writing(folder):
            sink = pa.OSFile(str(path), "wb")
            writer = pa.ipc.new_file(sink, plain.schema)
        try:
            for batch in itertools.chain([plain], map(_decoded, arriving)):
                with writing(folder):
                    writer.write_batch(batch)
        finally:
            with writing(folder):
                writer.close()
                sink.close()
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()

    def _path(self) -> Path:
        assert self.folder is not None
        return self.folder / f"{next(_names)}.scratch"


IN_MEMORY = Room()


def give_back() -> None:
    """Hand memory that is free in this process to the system, where the next step will not need as much.

    Arrow and glibc keep it otherwise: the steps' peaks would add up.
    """
    pa.default_memory_pool().release_unused()
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _decoded(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Without dictionaries: files of batches can hold one of each column, Parquet has one per row group."""
    if not any(pa.types.is_dictionary(column.type) for column in batch.columns):
        return batch
    columns = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in batch.columns]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
