"""Rows of ids in a column of ids, and ids that occur twice, in bounded memory.

Owns the way: a table of all numbers from the lowest id to the highest where most of these are ids, or Arrow's
hash table, if it fits in half of the memory; else integers are sorted into a file and searched for there, and
for texts DuckDB's joins and sorts go to disk. All give the same. Never says what is wrong with an id.
Shape letters: N ids.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from partition.arrays import ArrayFile
from partition.errors import StoreError
from partition.room import Room
from partition.runs import Keyed, in_order_of_keys

_HASHED_BYTES = 120
"""Of an id in Arrow's table while it grows, its text apart: 87 to 110 with 1.6 and 20 million ids."""
_SMALL_BYTES = 64 << 20
"""A table of this size is taken whatever the limit; importing DuckDB takes as much."""
_SPARSE = 4
"""Numbers for each id at most, where ids are looked up by place,"""
_PLACE_BYTES = 4
"""each with so many bytes."""
_DUCKDB_BYTES = 256 << 20
"""DuckDB gets half of the memory, but not less than this."""
_ROWS = 1 << 16
_FULL_BYTES = 64 << 20
_FULL_WORDS = ("No space left", "max_temp_directory_size")
"""With less than this free, or with these words, DuckDB's failure is put down to a full disk."""


def rows_of(ids: pa.Array, keys: Iterable[pa.Array], room: Room) -> Iterator[np.ndarray]:
    """int64, place of each key among the ids, -1 for a key that is none; in the keys' order, in pieces.

    `ids` are int64 or large_string N, each once; keys are of that type.
    """
    asked = ids.type
    if (span := _span(ids, room)) is not None:
        yield from _by_place(ids, keys, span)
        return
    if _fits(ids, room):
        yield from _by_arrow(ids, keys)
        return
    if asked == pa.int64():
        yield from _by_order(ids, keys, room)
        return
    with _duckdb(room) as connection:
        connection.register("ids", _reader(_numbered(pieces(ids)), asked))
        connection.register("keys", _reader(_numbered(keys), asked))
        yield from _column(
            connection,
            "SELECT coalesce(ids.row, -1) AS row FROM keys LEFT JOIN ids ON keys.value = ids.value "
            "ORDER BY keys.row",
        )


def repeated(ids: pa.Array, room: Room) -> Iterator[np.ndarray]:
    """int64, ascending: rows of ids that an earlier row has as well; in pieces."""
    span = _span(ids, room)
    if span is not None or _fits(ids, room):
        first = 0
        for found in _by_arrow(ids, pieces(ids)) if span is None else _by_place(ids, pieces(ids), span):
            yield first + np.flatnonzero(found != np.arange(first, first + len(found)))
            first += len(found)
        return
    if ids.type == pa.int64():
        again = [rows[1:][np.diff(keys) == 0] for keys, rows in _in_order(ids, room.inner("order"))]
        yield np.sort(np.concatenate(again)).astype(np.int64)
        return
    with _duckdb(room) as connection:
        connection.register("given", _reader(_numbered(pieces(ids)), ids.type))
        connection.execute("CREATE TEMP TABLE ids AS SELECT * FROM given")
        yield from _column(
            connection,
            "WITH twice AS MATERIALIZED "
            "(SELECT value, min(row) AS first FROM ids GROUP BY value HAVING count(*) > 1) "
            "SELECT ids.row FROM ids JOIN twice ON ids.value = twice.value WHERE ids.row > twice.first "
            "ORDER BY ids.row",
        )


def pieces(ids: pa.Array) -> Iterator[pa.Array]:
    """The same ids, a few at a time."""
    for start in range(0, len(ids), _ROWS):
        yield ids.slice(start, _ROWS)


def lookup_bytes(count: int, id_bytes: float, *, texts: bool, memory: int) -> int:
    """What it takes at most to look into so many ids of one type, integers or texts."""
    hashed = round(count * (_HASHED_BYTES + id_bytes))
    if hashed <= max(memory // 2, _SMALL_BYTES):
        return hashed
    if texts:
        return max(memory // 2, _DUCKDB_BYTES)
    return min(count * _SPARSE * _PLACE_BYTES, memory // 2)  # by place; where that has no room, in a file


def _fits(ids: pa.Array, room: Room) -> bool:
    return not len(ids) or _has_room(len(ids) * _HASHED_BYTES + ids.nbytes, room)


def _has_room(count: int, room: Room) -> bool:
    return room.folder is None or count <= max(room.memory // 2, _SMALL_BYTES)


def _span(ids: pa.Array, room: Room) -> tuple[int, int] | None:
    """(lowest id, how many numbers there are up to the highest), if most of these are ids and fit."""
    if ids.type != pa.int64() or not len(ids):
        return None
    found = pc.min_max(ids)
    low, high = found["min"].as_py(), found["max"].as_py()
    count = high - low + 1
    return (low, count) if count <= _SPARSE * len(ids) and _has_room(count * _PLACE_BYTES, room) else None


def _by_place(ids: pa.Array, keys: Iterable[pa.Array], span: tuple[int, int]) -> Iterator[np.ndarray]:
    """The first place of each key, by a table of all numbers of the span, and one for whatever is outside."""
    low, count = span
    places = np.full(count + 1, -1, dtype=np.int32 if len(ids) <= np.iinfo(np.int32).max else np.int64)
    # Backwards, so that of an id that is there twice the first place stays.
    for start in reversed(range(0, len(ids), _ROWS)):
        numbers = ids.slice(start, _ROWS).to_numpy() - low
        places[numbers[::-1]] = np.arange(start, start + len(numbers))[::-1]
    for key in keys:
        numbers = key.to_numpy() - low  # where that overflows, the key is outside as well
        inside = (numbers >= 0) & (numbers < count)
        yield places[np.where(inside, numbers, count)].astype(np.int64)


def _by_arrow(ids: pa.Array, keys: Iterable[pa.Array]) -> Iterator[np.ndarray]:
    """The first place of each key; within a scanner, so that the table of ids is made once for all pieces."""
    batches = (pa.record_batch([key], ["key"]) for key in keys)
    reader = pa.RecordBatchReader.from_batches(pa.schema({"key": ids.type}), batches)
    row = pc.index_in(pc.field("key"), value_set=ids)
    scanner = ds.Scanner.from_batches(reader, columns={"row": row}, use_threads=False, batch_readahead=1)
    for batch in scanner.to_batches():
        yield pc.fill_null(batch["row"], -1).to_numpy().astype(np.int64)


def _by_order(ids: pa.Array, keys: Iterable[pa.Array], room: Room) -> Iterator[np.ndarray]:
    """By halving, in ids that are sorted in a file."""
    scratch = room.inner("order")
    assert scratch.folder is not None
    files = ArrayFile(scratch.folder / "values", np.int64), ArrayFile(scratch.folder / "rows", np.int32)
    for some in _in_order(ids, scratch):
        for file, part in zip(files, some, strict=True):
            file.append(part)
    values, rows = (file.mapped() for file in files)
    scratch.clear()
    for key in keys:
        order = np.argsort(key.to_numpy())  # one after the other they are found in the same few pages
        asked = key.to_numpy()[order]
        place = np.minimum(np.searchsorted(values, asked), len(values) - 1)
        found = np.empty(len(asked), dtype=np.int64)
        found[order] = np.where(values[place] == asked, rows[place], -1)
        yield found


def _in_order(ids: pa.Array, scratch: Room) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(int64 ids ascending, equal ones by their rows; these rows), piece by piece."""
    assert scratch.folder is not None
    values = ids.to_numpy()

    def keys_of(first: int, last: int) -> Keyed:
        return Keyed(values[first:last], np.arange(first, last))

    for some in in_order_of_keys(scratch.folder, len(ids), keys_of, range_records=scratch.records):
        assert some.rows is not None
        yield some.keys, some.rows


@contextlib.contextmanager
def _duckdb(room: Room) -> Iterator[Any]:
    """A connection that keeps to the memory; DiskFullError or StoreError where it cannot."""
    # Imported here: it takes a while, and only tables that are large for the memory need it.
    import duckdb

    scratch = room.inner("duckdb")
    assert scratch.folder is not None
    settings: dict[str, Any] = {
        "memory_limit": f"{max(room.memory // 2, _DUCKDB_BYTES)}B",
        "temp_directory": str(scratch.folder),
        "threads": 1,  # more take more memory
    }
    with _reported(scratch.folder, duckdb.Error), duckdb.connect(config=settings) as connection:
        # It knows nothing of the sizes of what is handed to it, and would hash the edges and not the ids.
        connection.execute("SET disabled_optimizers = 'join_order,build_side_probe_side'")
        yield connection
    scratch.clear()


@contextlib.contextmanager
def _reported(folder: Path, kind: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kind as error:
        # It removes its files before this is asked, and takes nine tenths of what is free for its own limit.
        full = any(words in str(error) for words in _FULL_WORDS)
        if full or shutil.disk_usage(folder).free < _FULL_BYTES:
            raise OSError(errno.ENOSPC, "no space left on the device", str(folder)) from error
        problem = str(error).splitlines()[0]
        hint = "look for room on the disk, or give it more with --memory"
        raise StoreError(f"{folder}: DuckDB cannot join ids: {problem}", hint=hint) from error


def _column(connection: Any, query: str) -> Iterator[np.ndarray]:
    for batch in connection.sql(query).to_arrow_reader(_ROWS):
        yield batch.column(0).to_numpy().astype(np.int64)


def _reader(batches: Iterator[pa.RecordBatch], kind: pa.DataType) -> pa.RecordBatchReader:
    return pa.RecordBatchReader.from_batches(pa.schema({"value": kind, "row": pa.int64()}), batches)


def _numbered(pieces: Iterable[pa.Array]) -> Iterator[pa.RecordBatch]:
    first = 0
    for piece in pieces:
        rows = np.arange(first, first + len(piece))
        yield pa.record_batch([piece, pa.array(rows)], ["value", "row"])
        first += len(piece)
