"""Ends of edges: ids in an edge table's column -> rows of the node table.

Owns what counts as an end. Never opens a table.
Shape letters: N rows of the edge table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from partition.lookup import rows_of
from partition.pieces import Column, Faults, column_of, true
from partition.room import IN_MEMORY, Room
from partition.rows import Rows


def read_endpoints(
    rows: Rows,
    column: str,
    ids: pa.Array,
    node_type: str,
    left_out: Sequence[str] = (),
    room: Room = IN_MEMORY,
) -> np.ndarray:
    """int64 N: rows of the node table that the ids in an edge table's column stand for.

    `left_out` are ids, as text, of nodes that the table had but the graph has not.
    """
    if len(rows) == 0:
        return np.zeros(0, dtype=np.int64)
    keys, faults, dangling = column_of(rows, column), Faults(rows), Faults(rows)
    if keys.kind != ids.type and rows.loose and ids.type == pa.int64():
        asked = _integers(keys, node_type, faults)
        keys = replace(keys, kind=pa.int64(), as_integers=True)
    else:
        asked = _filled(keys, faults)
    if keys.kind != ids.type and len(ids):
        for _ in asked:
            pass
        problem = f"it has {keys.kind} values, but the ids of {node_type!r} are {ids.type}"
        faults.add_column(2, column, problem)
        faults.refuse()
    places = rows_of(ids, asked, room) if len(ids) else (np.full(len(piece), -1) for piece in asked)
    found = room.numbers(np.int64, _known(keys, places, dangling, node_type))
    faults.refuse()
    if dangling:
        if left_out:
            _refuse_orphans(keys, found, node_type, left_out)
        dangling.refuse()
    return found


def _filled(keys: Column, faults: Faults) -> Iterator[pa.Array]:
    """The keys; none any more once there is a fault."""
    for first, piece in keys.pieces(faults):
        _check_filled(keys, piece, first, faults)
        if not faults:
            yield piece


def _integers(keys: Column, node_type: str, faults: Faults) -> Iterator[pa.Array]:
    """The same of texts from CSV that have to be integers."""
    for first, piece in keys.pieces(faults):
        _check_filled(keys, piece, first, faults)
        wrong = pc.invert(pc.match_substring_regex(piece, r"^-?[0-9]{1,18}$"))
        faults.add(
            1,
            first + true(pc.fill_null(wrong, False)),
            keys.name,
            "end is no integer",
            lambda row: f"{keys.value(row)!r} is no {node_type} id; those are integers",
        )
        if not faults:
            yield piece.cast(pa.int64())


def _check_filled(keys: Column, piece: pa.Array, first: int, faults: Faults) -> None:
    if piece.null_count:
        wrong = first + true(pc.is_null(piece))
        faults.add(
            0, wrong, keys.name, "no end", lambda _: "the edge has no end here", hint="leave the row out"
        )


def _known(
    keys: Column, places: Iterator[np.ndarray], dangling: Faults, node_type: str
) -> Iterator[np.ndarray]:
    """Passes rows of nodes on, and notes where there is none."""
    yield np.zeros(0, dtype=np.int64)
    what = f"dangling edge: no {node_type} node has the id {{!r}}"
    first = 0
    for found in places:
        dangling.add(
            0,
            first + np.flatnonzero(found < 0),
            keys.name,
            "dangling edge",
            lambda row: what.format(keys.value(row)),
            hint="add the node or leave the edge out",
        )
        first += len(found)
        yield found


def _refuse_orphans(keys: Column, found: np.ndarray, node_type: str, left_out: Sequence[str]) -> None:
    """BadRows for ends that were a node until it was left out; those that are none are told after these."""
    faults = Faults(keys.rows)
    gone = pa.array(left_out, pa.large_string())
    what = f"the {node_type} node {{!r}} was left out"
    for first, piece in keys.pieces(faults):
        wrong = np.flatnonzero(found[first : first + len(piece)] < 0)
        if len(wrong):
            texts = piece.take(pa.array(wrong)).cast(pa.large_string())
            orphans = first + wrong[true(pc.is_in(texts, value_set=gone))]
            faults.add(
                0, orphans, keys.name, "its node was left out", lambda row: what.format(keys.value(row))
            )
    faults.refuse()
