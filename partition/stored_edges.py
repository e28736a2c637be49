"""Edges and edge targets as they will be stored: under new ids, sorted, in mapped files of a scratch folder.

Owns which edges messages may use, how edges and targets are ordered, and reverses. Columns stay in the
tables; an edge knows its row there. In memory: the ids of nodes, and one range of edges.
Shape letters: E edges of a relation, T targets, F width of their features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from partition.arrays import ArrayFile, pieces
from partition.assign import Numbering
from partition.manifest import SPLITS, RelationInfo
from partition.reader import EdgeTargets
from partition.runs import Keyed, in_order_of_keys
from partition.tables import EdgeTable

_Wanted = Callable[[slice], np.ndarray | None]
"""Rows of a table -> bool, which of them count; None: all."""


@dataclass(frozen=True)
class _Sorted:
    """By (destination, source); ids are new and per type."""

    source: np.ndarray
    """int32, mapped."""
    destination: np.ndarray
    """int32, mapped, ascending."""

    def bounds(self, ids: np.ndarray) -> np.ndarray:
        """int64, place of the first with such a destination or a higher one; `ids` are integers."""
        # In the same dtype: numpy would make a copy of all destinations.
        return np.searchsorted(self.destination, np.asarray(ids, dtype=self.destination.dtype))


@dataclass(frozen=True)
class StoredRelation(_Sorted):
    """E edges that messages may use, ordered by (destination, source, row of the table)."""

    info: RelationInfo
    rows: np.ndarray | None
    """int64 E, mapped: row of the table; None without features."""
    features: np.ndarray | None
    """float32 x F, of the table's rows."""


@dataclass(frozen=True)
class StoredTargets(_Sorted):
    """T targets, ordered by (destination, source, split, row of the table)."""

    rows: np.ndarray
    """int64 T, mapped: row of the table."""
    splits: np.ndarray
    """int8, of the table's rows, and so are labels and features."""
    labels: np.ndarray | None
    features: np.ndarray | None

    def between(self, first: int, last: int) -> EdgeTargets:
        """Some of them in memory, as readers get them."""
        rows = self.rows[first:last]
        return EdgeTargets(
            source=self.source[first:last].astype(np.int64),
            destination=self.destination[first:last].astype(np.int64),
            split=self.splits[rows],
            label=np.full(len(rows), -1, dtype=np.int32) if self.labels is None else self.labels[rows],
            features=None if self.features is None else self.features[rows],
        )


def stored_relation(
    folder: Path,
    table: EdgeTable,
    numbering: Numbering,
    *,
    keep_eval_edges: bool,
    reverse: str,
    range_records: int,
) -> StoredRelation:
    """A relation's edges; `reverse` is the name that they have turned round, or empty. `folder` is made."""
    schema, splits = table.schema, table.splits

    def carries_messages(mine: slice) -> np.ndarray | None:
        return None if keep_eval_edges or splits is None else splits[mine] < 1

    rows_of = None if table.features is None else _own_rows
    keys_of = _keys_of(table, numbering, carries_messages, with_rows=rows_of is not None)
    source, destination, rows = _stored(folder, len(table.source), keys_of, range_records, rows_of)
    info = RelationInfo(
        name=schema.name,
        source=schema.source,
        destination=schema.destination,
        count=len(source),
        reverse=reverse,
        feature_width=0 if table.features is None else table.features.shape[1],
        classes=table.classes,
        targets={} if splits is None else split_counts(splits),
        id_columns=schema.id_columns,
    )
    return StoredRelation(source, destination, info, rows, table.features)


def turned_round(folder: Path, relation: StoredRelation, *, range_records: int) -> StoredRelation:
    """Each edge of a relation the other way, with its features. `folder` is made."""
    forward = relation.info
    info = RelationInfo(
        name=forward.reverse,
        source=forward.destination,
        destination=forward.source,
        count=forward.count,
        reverse=forward.name,
        is_reverse=True,
        feature_width=forward.feature_width,
    )

    places = relation.rows

    def keys_of(first: int, last: int) -> Keyed:
        mine = slice(first, last)
        keys = _packed(relation.source[mine], relation.destination[mine])
        return Keyed(keys, None if places is None else np.arange(first, last))

    rows_of = None if places is None else lambda records: places[records.rows]
    source, destination, rows = _stored(folder, forward.count, keys_of, range_records, rows_of)
    return StoredRelation(source, destination, info, rows, relation.features)


def stored_targets(
    folder: Path, table: EdgeTable, numbering: Numbering, *, range_records: int
) -> StoredTargets | None:
    """The edges of a relation with a split, in the stored graph or not; None if there are none.

    `folder` is made.
    """
    splits = table.splits
    if splits is None or not sum(split_counts(splits).values()):
        return None

    def is_target(mine: slice) -> np.ndarray:
        return np.asarray(splits[mine] >= 0)

    def by_split(records: Keyed) -> np.ndarray:
        rows = _own_rows(records)
        return rows[np.lexsort((splits[rows], records.keys))]

    keys_of = _keys_of(table, numbering, is_target, with_rows=True)
    source, destination, rows = _stored(folder, len(table.source), keys_of, range_records, by_split)
    assert rows is not None
    return StoredTargets(source, destination, rows, splits, table.labels, table.features)


def split_counts(splits: np.ndarray) -> dict[str, int]:
    """Split -> how many have it, of int8 with -1 for none."""
    counts = np.zeros(len(SPLITS), dtype=np.int64)
    for mine in pieces(0, len(splits)):
        counts += np.bincount(splits[mine][splits[mine] >= 0], minlength=len(SPLITS))
    return dict(zip(SPLITS, counts.tolist(), strict=True))


def _keys_of(
    table: EdgeTable, numbering: Numbering, wanted: _Wanted, *, with_rows: bool
) -> Callable[[int, int], Keyed]:
    sources, destinations = numbering.ids[table.schema.source], numbering.ids[table.schema.destination]

    def keys_of(first: int, last: int) -> Keyed:
        mine = slice(first, last)
        source, destination, keep = table.source[mine], table.destination[mine], wanted(mine)
        rows = np.arange(first, last) if with_rows else None
        if keep is not None:
            source, destination = source[keep], destination[keep]
            rows = None if rows is None else rows[keep]
        return Keyed(_packed(destinations[destination], sources[source]), rows)

    return keys_of


def _own_rows(records: Keyed) -> np.ndarray:
    assert records.rows is not None
    return records.rows


def _packed(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """int64 keys: ids are below 2**31 (csr.MAX_NODES)."""
    keys = high.astype(np.int64)
    keys <<= 32
    keys |= low
    return keys


def _stored(
    folder: Path,
    count: int,
    keys_of: Callable[[int, int], Keyed],
    range_records: int,
    rows_of: Callable[[Keyed], np.ndarray] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(source int32, destination int32, rows of the table), sorted and mapped, of keys (destination, source).

    `rows_of` gives the rows of the table that sorted records come from; None where nobody asks.
    """
    folder.mkdir(parents=True)
    source, destination = (ArrayFile(folder / name, np.int32) for name in ("source", "destination"))
    rows = ArrayFile(folder / "rows", np.int64)
    for records in in_order_of_keys(folder, count, keys_of, range_records=range_records):
        destination.append(records.keys >> 32)
        source.append(records.keys & 0xFFFFFFFF)
        if rows_of is not None:
            rows.append(rows_of(records))
    return source.mapped(), destination.mapped(), None if rows_of is None else rows.mapped()
