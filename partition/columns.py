"""Columns of the tables -> checked numpy and Arrow arrays; every complaint names file, row and column.

Owns what counts as an id, a text, a label and a split; features.py and ends.py own the others. Never opens a
table.
Shape letters: N rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from partition.lookup import repeated
from partition.manifest import SPLITS
from partition.pieces import Column, Faults, column_of, true
from partition.room import IN_MEMORY, Room
from partition.rows import Rows, is_text

NO_SPLIT = -1
"""Split of a row that is no target (for an edge: messages only)."""
_SPLIT_CODES = {
    **{name: code for code, name in enumerate(SPLITS)},
    **dict.fromkeys(("val", "validation"), SPLITS.index("valid")),
    **dict.fromkeys(("none", ""), NO_SPLIT),
}
"""Words of a split column; "none" and "" stand for an empty cell, as some data sets write it."""
_MOST_CLASSES = 1_000_000
"""More integer classes than this are ids in the wrong column."""


def read_ids(rows: Rows, column: str, room: Room = IN_MEMORY) -> pa.Array:
    """Ids of a node table, int64 or large_string; DataError for a null, a duplicate, another type."""
    given = column_of(rows, column).with_integers()
    if len(rows) == 0:
        return pa.array([], pa.int64() if given.kind == pa.null() else given.kind)
    faults = Faults(rows)
    known = given.kind == pa.int64() or is_text(given.kind)

    def parts() -> Iterator[pa.Array]:
        for first, ids in given.pieces(faults):
            if ids.null_count:
                wrong = first + true(pc.is_null(ids))
                hint = "give it one or leave the row out"
                faults.add(0, wrong, column, "no id", lambda _: "the node has no id", hint=hint)
            if known and not faults:
                yield ids

    ids = _ids(given, parts(), room)
    if not known:
        problem = f"an id is an integer or a string, not {given.kind}"
        faults.add_column(1, column, problem, hint="convert it")
    faults.refuse()
    for wrong in repeated(ids, room):
        faults.add(
            0,
            wrong,
            column,
            "duplicate id",
            lambda row: f"the id {ids[row].as_py()!r} occurs twice",
            hint="leave one of the rows out",
        )
    faults.refuse()
    return ids


def read_texts(rows: Rows, column: str, room: Room = IN_MEMORY) -> pa.Array:
    """large_string N; a null counts as the empty text."""
    texts, faults = _words(rows, column), Faults(rows)
    found = room.strings(
        pc.fill_null(piece, "") for _, piece in texts.pieces(faults) if is_text(texts.kind) and not faults
    )
    if not is_text(texts.kind):
        faults.add_column(0, column, f"a text is a string, not {texts.kind}", hint="convert it")
    faults.refuse()
    return found


def read_splits(rows: Rows, column: str, *, message: bool, room: Room = IN_MEMORY) -> np.ndarray:
    """int8 N: 0 train, 1 valid, 2 test, -1 none; `message` allows that word (for edges)."""
    names, faults = _words(rows, column), Faults(rows)
    if not is_text(names.kind):
        hint = "train, valid, test or nothing"
        rows.fail_column(column, f"a split is a word, not {names.kind}", hint=hint)
    codes = {**_SPLIT_CODES, **({"message": NO_SPLIT} if message else {})}
    words = pa.array(list(codes), pa.large_string())
    lookup = np.array([*codes.values(), NO_SPLIT], dtype=np.int8)
    allowed = ", ".join([*SPLITS, *(["message"] if message else [])])

    def parts() -> Iterator[np.ndarray]:
        for first, piece in names.pieces(faults):
            found = pc.index_in(piece, value_set=words)
            faults.add(
                0,
                first + true(pc.and_(pc.is_null(found), pc.is_valid(piece))),
                column,
                "unknown split",
                lambda row: f"{names.value(row)!r} is no split",
                hint=f"allowed: {allowed}, or nothing",
            )
            yield lookup[np.asarray(pc.fill_null(found, len(codes)))]

    splits = room.numbers(np.int8, parts())
    faults.refuse()
    return splits


def read_labels(
    rows: Rows, column: str, classes: Sequence[str], room: Room = IN_MEMORY
) -> tuple[np.ndarray, tuple[str, ...]]:
    """(int32 N with -1 for no label, class names in label order)."""
    labels = column_of(rows, column).with_integers()
    empty, words = True, set[str]()
    faults = Faults(rows)
    for _, piece in labels.pieces(faults):
        filled = piece.drop_null()
        empty = empty and not len(filled)
        if is_text(labels.kind) and not classes:
            words.update(pc.unique(filled).to_pylist())
    faults.refuse()
    if empty:
        nobody = (np.full(len(piece), -1, np.int32) for _, piece in labels.pieces(faults))
        return room.numbers(np.int32, nobody), tuple(classes)
    if labels.kind == pa.int64():
        return _integer_labels(labels, classes, room)
    if not is_text(labels.kind):
        problem = f"a label is an integer or a string, not {labels.kind}"
        rows.fail_column(column, problem, hint="convert it")
    names = tuple(classes) or tuple(sorted(words))
    return _named_labels(labels, names, room), names


def _named_labels(labels: Column, names: Sequence[str], room: Room) -> np.ndarray:
    faults = Faults(labels.rows)
    known = pa.array(names, pa.large_string())

    def parts() -> Iterator[np.ndarray]:
        for first, piece in labels.pieces(faults):
            found = pc.index_in(piece, value_set=known)
            faults.add(
                0,
                first + true(pc.and_(pc.is_null(found), pc.is_valid(piece))),
                labels.name,
                "unknown label",
                lambda row: f"the label {labels.value(row)!r} is not one of the {len(names)} classes",
                hint="name it in classes of graph.toml, or leave the cell empty",
            )
            yield pc.fill_null(found, -1).to_numpy(zero_copy_only=False)

    values = room.numbers(np.int32, parts())
    faults.refuse()
    return values


def _integer_labels(labels: Column, classes: Sequence[str], room: Room) -> tuple[np.ndarray, tuple[str, ...]]:
    faults = Faults(labels.rows)
    limit = len(classes) if classes else _MOST_CLASSES

    def parts() -> Iterator[np.ndarray]:
        for first, piece in labels.pieces(faults):
            outside = pc.or_(pc.less(piece, 0), pc.greater_equal(piece, limit))
            faults.add(
                0,
                first + true(pc.fill_null(outside, False)),
                labels.name,
                "label out of range",
                lambda row: f"the label {labels.value(row)} is out of range: 0 to {limit - 1}",
                hint="leave the cell empty where there is no label",
            )
            yield pc.fill_null(piece, -1).to_numpy(zero_copy_only=False)

    values = room.numbers(np.int32, parts())
    faults.refuse()
    return values, tuple(classes) or tuple(str(i) for i in range(int(values.max()) + 1))


def _ids(given: Column, parts: Iterator[pa.Array], room: Room) -> pa.Array:
    if is_text(given.kind):
        return room.strings(parts)
    return pa.array(room.numbers(np.int64, _numbers(parts)))


def _numbers(parts: Iterator[pa.Array]) -> Iterator[np.ndarray]:
    yield np.zeros(0, dtype=np.int64)
    for part in parts:
        yield part.to_numpy()


def _words(rows: Rows, column: str) -> Column:
    """A column of texts, also where it has none: Parquet's type of nulls only."""
    found = column_of(rows, column)
    return Column(rows, column, pa.large_string()) if found.kind == pa.null() else found
