"""Columns of the tables -> checked numpy and Arrow arrays; every complaint names file, row and column.

Owns what counts as an id, a text, a label, a split and a feature. Never opens a file.
Shape letters: N rows, F width of the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from partition.manifest import SPLITS
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
_EMPTY = "feature is empty"


def read_ids(rows: Rows, column: str) -> pa.Array:
    """Ids of a node table, int64 or large_string; DataError for a null, a duplicate, another type."""
    ids = rows.column(column)
    if ids.null_count:
        hint = "give it one or leave the row out"
        rows.refuse(_true(pc.is_null(ids)), column, "no id", lambda _: "the node has no id", hint=hint)
    if rows.loose:
        ids = _integers(ids)
    if len(ids) == 0:
        return ids.cast(pa.int64()) if ids.type == pa.null() else ids
    if not (ids.type == pa.int64() or is_text(ids.type)):
        rows.fail_column(column, f"an id is an integer or a string, not {ids.type}", hint="convert it")
    codes = ids.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    if int(codes.max()) + 1 < len(codes):
        _, firsts = np.unique(codes, return_index=True)
        repeated = np.ones(len(codes), dtype=bool)
        repeated[firsts] = False
        rows.refuse(
            np.flatnonzero(repeated),
            column,
            "duplicate id",
            lambda row: f"the id {ids[row].as_py()!r} occurs twice",
            hint="leave one of the rows out",
        )
    return ids


def read_endpoints(
    rows: Rows, column: str, ids: pa.Array, node_type: str, left_out: Sequence[str] = ()
) -> np.ndarray:
    """int64 N: rows of the node table that the ids in an edge table's column stand for.

    `left_out` are ids, as text, of nodes that the table had but the graph has not.
    """
    keys = rows.column(column)
    if keys.null_count:
        wrong = _true(pc.is_null(keys))
        rows.refuse(wrong, column, "no end", lambda _: "the edge has no end here", hint="leave the row out")
    if len(keys) == 0:
        return np.zeros(0, dtype=np.int64)
    if keys.type != ids.type and rows.loose and ids.type == pa.int64():
        texts = keys
        wrong = pc.invert(pc.match_substring_regex(keys, r"^-?[0-9]{1,18}$"))
        if pc.any(wrong).as_py():
            rows.refuse(
                _true(wrong),
                column,
                "end is no integer",
                lambda row: f"{texts[row].as_py()!r} is no {node_type} id; those are integers",
            )
        keys = keys.cast(pa.int64())
    if keys.type != ids.type and len(ids):
        rows.fail_column(column, f"it has {keys.type} values, but the ids of {node_type!r} are {ids.type}")
    found = pc.index_in(keys, value_set=ids) if len(ids) else pa.nulls(len(keys), pa.int32())
    if found.null_count:
        _refuse_ends(rows, column, keys, _true(pc.is_null(found)), node_type, left_out)
    return np.asarray(found, dtype=np.int64)


def read_texts(rows: Rows, column: str) -> pa.Array:
    """large_string N; a null counts as the empty text."""
    texts = rows.column(column)
    if texts.type == pa.null():
        texts = texts.cast(pa.large_string())
    if not is_text(texts.type):
        rows.fail_column(column, f"a text is a string, not {texts.type}", hint="convert it")
    return pc.fill_null(texts, "")


def read_splits(rows: Rows, column: str, *, message: bool) -> np.ndarray:
    """int8 N: 0 train, 1 valid, 2 test, -1 none; `message` allows that word (for edges)."""
    names = rows.column(column)
    if names.type == pa.null():
        names = names.cast(pa.large_string())
    if not is_text(names.type):
        rows.fail_column(column, f"a split is a word, not {names.type}", hint="train, valid, test or nothing")
    codes = {**_SPLIT_CODES, **({"message": NO_SPLIT} if message else {})}
    words = pa.array(list(codes), pa.large_string())
    found = pc.index_in(names, value_set=words)
    wrong = pc.and_(pc.is_null(found), pc.is_valid(names))
    if pc.any(wrong).as_py():
        allowed = ", ".join([*SPLITS, *(["message"] if message else [])])
        rows.refuse(
            _true(wrong),
            column,
            "unknown split",
            lambda row: f"{names[row].as_py()!r} is no split",
            hint=f"allowed: {allowed}, or nothing",
        )
    lookup = np.array([*codes.values(), NO_SPLIT], dtype=np.int8)
    return np.asarray(lookup[np.asarray(pc.fill_null(found, len(codes)))])


def read_labels(rows: Rows, column: str, classes: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """(int32 N with -1 for no label, class names in label order)."""
    labels = rows.column(column)
    if rows.loose:
        labels = _integers(labels)
    if labels.type == pa.null() or labels.null_count == len(labels):
        return np.full(len(labels), -1, dtype=np.int32), tuple(classes)
    if labels.type == pa.int64():
        return _integer_labels(rows, column, labels, classes)
    if not is_text(labels.type):
        rows.fail_column(column, f"a label is an integer or a string, not {labels.type}", hint="convert it")
    names = tuple(classes) or tuple(sorted(pc.unique(labels.drop_null()).to_pylist()))
    found = pc.index_in(labels, value_set=pa.array(names, pa.large_string()))
    wrong = pc.and_(pc.is_null(found), pc.is_valid(labels))
    if pc.any(wrong).as_py():
        rows.refuse(
            _true(wrong),
            column,
            "unknown label",
            lambda row: f"the label {labels[row].as_py()!r} is not one of the {len(names)} classes",
            hint="name it in classes of graph.toml, or leave the cell empty",
        )
    return pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int32), names


def read_features(rows: Rows, columns: Sequence[str]) -> np.ndarray:
    """float32 N x F of numeric columns (scalars or lists of one length), side by side."""
    parts = [_feature(rows, name) for name in columns]
    values = np.concatenate(parts, axis=1) if parts else np.zeros((len(rows), 0))
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    finite = np.isfinite(values)
    if not finite.all():
        position = int(np.argwhere(~finite)[0][1])
        owners = [name for name, part in zip(columns, parts, strict=True) for _ in range(part.shape[1])]
        own = [owner == owners[position] for owner in owners]
        problem = "a feature is NaN, infinite or too large for float32"
        rows.refuse(
            np.flatnonzero(~finite[:, own].all(axis=1)),
            owners[position],
            "feature not finite",
            lambda _: problem,
            hint="replace it before",
        )
    return values


def _feature(rows: Rows, column: str) -> np.ndarray:
    array = rows.column(column)
    if array.null_count:
        wrong = _true(pc.is_null(array))
        rows.refuse(wrong, column, _EMPTY, lambda _: "a feature is empty", hint="fill it in before")
    if len(array) == 0 and array.type == pa.null():
        return np.zeros((0, 1))
    width = 1
    if pa.types.is_fixed_size_list(array.type):
        width, array = array.type.list_size, array.flatten()
    elif pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
        width = int(lengths[0]) if len(lengths) else 1
        if (lengths != width).any():
            rows.refuse(
                np.flatnonzero(lengths != width),
                column,
                "feature of another length",
                lambda row: f"a list of {lengths[row]} numbers; row 0 has {width}",
            )
        if width == 0:
            problem = "a feature without numbers: its lists are empty"
            rows.refuse(np.arange(len(rows)), column, _EMPTY, lambda _: problem)
        array = array.flatten()
    if array.null_count:
        wrong = np.unique(_true(pc.is_null(array)) // width)
        rows.refuse(wrong, column, _EMPTY, lambda _: "a feature is empty")
    if is_text(array.type) and rows.loose:
        array = _numbers(rows, column, array)
    numeric = pa.types.is_floating(array.type) or pa.types.is_integer(array.type)
    if not (numeric or pa.types.is_boolean(array.type) or pa.types.is_decimal(array.type)):
        rows.fail_column(
            column, f"a feature is a number or a list of numbers, not {array.type}", hint="convert it"
        )
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())
    numbers: np.ndarray = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return numbers.reshape(len(rows), width)


def _numbers(rows: Rows, column: str, array: pa.Array) -> pa.Array:
    try:
        return array.cast(pa.float64())
    except pa.ArrowInvalid:
        wrong = np.flatnonzero([not _is_number(text) for text in array])
        problem = "{!r} is not a number"
        rows.refuse(wrong, column, "not a number", lambda row: problem.format(array[row].as_py()))


def _is_number(text: Any) -> bool:
    try:
        text.cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _integer_labels(
    rows: Rows, column: str, labels: pa.Array, classes: Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    limit = len(classes) if classes else _MOST_CLASSES
    wrong = pc.fill_null(pc.or_(pc.less(labels, 0), pc.greater_equal(labels, limit)), False)
    if pc.any(wrong).as_py():
        rows.refuse(
            _true(wrong),
            column,
            "label out of range",
            lambda row: f"the label {labels[row].as_py()} is out of range: 0 to {limit - 1}",
            hint="leave the cell empty where there is no label",
        )
    values = pc.fill_null(labels, -1).to_numpy(zero_copy_only=False).astype(np.int32)
    return values, tuple(classes) or tuple(str(i) for i in range(int(values.max()) + 1))


def _refuse_ends(
    rows: Rows, column: str, keys: pa.Array, wrong: np.ndarray, node_type: str, left_out: Sequence[str]
) -> NoReturn:
    """BadRows for ends that are no node, first for those that were one until it was left out."""
    texts = keys.take(pa.array(wrong)).cast(pa.large_string())
    known = pc.is_in(texts, value_set=pa.array(left_out, pa.large_string()))
    orphans = wrong[_true(known)]
    if len(orphans):
        what = f"the {node_type} node {{!r}} was left out"
        rows.refuse(orphans, column, "its node was left out", lambda row: what.format(keys[row].as_py()))
    what = f"dangling edge: no {node_type} node has the id {{!r}}"
    hint = "add the node or leave the edge out"
    rows.refuse(wrong, column, "dangling edge", lambda row: what.format(keys[row].as_py()), hint=hint)


def _integers(array: pa.Array) -> pa.Array:
    """Text from CSV as int64 if every cell is an integer as Python would print it, else as it is."""
    if not is_text(array.type):
        return array
    try:
        numbers = array.cast(pa.int64())
    except pa.ArrowInvalid:
        return array
    same = pc.all(pc.equal(numbers.cast(pa.large_string()), array)).as_py()
    return numbers if same in (True, None) else array


def _true(mask: Any) -> np.ndarray:
    """int64, rows of the true values."""
    return np.flatnonzero(mask.to_numpy(zero_copy_only=False))
