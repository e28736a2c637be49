"""Which node types the columns of a table point to: by names, and by looking every value up.

Owns the comparison of a column with the ids of node types. Never decides what kind of table it is.
Shape letter: N rows.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from partition.errors import DataError
from partition.guess_columns import COMMON_IDS, IdColumn, normal, thing
from partition.guess_files import FoundTable
from partition.guess_look import Column
from partition.pieces import whole_column

Ids = Mapping[str, IdColumn]
"""Node type -> its ids."""
_SOURCE = re.compile(r"(src|source|from|head|subject|citing|parent|follower|u|id_?1|start)(_.*)?")
_DESTINATION = re.compile(
    r"(dst|dest|destination|target|to|tail|object|cited|child|followee|v|id_?2|end)(_.*)?"
)


@dataclass(frozen=True)
class End:
    """What one column of a table points to."""

    column: str
    node_type: str
    """Empty if no type has a single one of these ids."""
    sure: bool
    why: str
    share: float = 0.0
    """Share of the values that are ids of the type."""
    hinted: bool = False
    """Whether a name says so too."""


def named_ends(table: FoundTable) -> tuple[str, str] | None:
    """Two columns called like the ends of an edge: src_id and dst_id, source and target, from and to."""
    names = {normal(c.name): c.name for c in table.columns if c.kind in ("integer", "string")}
    source = next((raw for name, raw in names.items() if _SOURCE.fullmatch(name)), "")
    destination = next((raw for name, raw in names.items() if _DESTINATION.fullmatch(name)), "")
    return (source, destination) if source and destination else None


def hints_of_file(table: FoundTable, types: Collection[str]) -> tuple[str, str, str]:
    """(source type, relation, destination type) after a name such as `paper__cites__paper`; or empty."""
    parts = table.name.split("__")
    if len(parts) == 3:
        return _called(parts[0], types), parts[1], _called(parts[2], types)
    name = thing(table.name)
    first = max((t for t in types if name.startswith(f"{thing(t)}_")), key=len, default="")
    last = max((t for t in types if name.endswith(f"_{thing(t)}")), key=len, default="")
    return first, table.name, last


def hint_of_column(column: str, ids: Ids) -> str:
    """The type that a column such as `venue_id` or `citing_paper_id` is called after, or the only one
    whose id has the same name; or empty."""
    same = [t for t, key in ids.items() if normal(key.column) == normal(column) not in COMMON_IDS]
    return hint_of_name(column, ids) or (same[0] if len(same) == 1 else "")


def hint_of_name(column: str, types: Collection[str]) -> str:
    """The type that a column is called after; or empty."""
    stem = thing(re.sub(r"_?(ids?|key|code|no)?_?\d*$", "", normal(column)))
    after = (t for t in types if stem.endswith(f"_{thing(t)}"))
    return _called(stem, types) or max(after, key=len, default="")


def find_end(table: FoundTable, column: str, ids: Ids, *, hint: str) -> End:
    """The type whose ids a column holds. A type that a name hints at goes before all others."""
    try:
        keys = whole_column(table.read(column), column)
    except DataError as error:
        return End(column, hint, sure=False, why=error.args[0])
    filled = keys.drop_null()
    if not len(filled):
        return End(column, hint, sure=False, why="it is empty")
    if pa.types.is_floating(filled.type):
        filled = _whole_numbers(filled)
    misses = {name: _missing(filled, key.ids, loose=table.loose) for name, key in ids.items()}
    shares = {name: 1 - len(missing) / len(filled) for name, missing in misses.items()}
    if hint and shares[hint] < 0.5:
        hint = ""
    whole = [name for name, share in shares.items() if share == 1]
    chosen = hint or (whole[0] if len(whole) == 1 else _likeliest(shares, ids))
    if not chosen:
        return End(column, "", sure=False, why="no table has a node for any of its values; write one")
    trouble = ""
    if missing := misses[chosen]:
        different = int(pc.count_distinct(missing).as_py())
        trouble = (
            f"{len(missing):,} of {len(filled):,} values ({different:,} different) are no ids of "
            f"{chosen}, such as {str(missing[0].as_py())[:40]!r}"
        )
    elif not hint and len(whole) > 1:
        trouble = f"its values are ids of {' and of '.join(whole)} alike: say which one is meant"
    elif keys.null_count:
        trouble = f"{keys.null_count:,} of {len(keys):,} cells are empty; an edge needs both ends"
    elif pa.types.is_floating(keys.type):
        trouble = f"its values are stored as {keys.type}; save them as whole numbers"
    why = trouble or f"all {len(filled):,} values are ids of {chosen}"
    return End(column, chosen, not trouble, why, shares[chosen], bool(hint))


def ends_by_values(table: FoundTable, ids: Ids) -> tuple[str, str] | None:
    """The first two columns that hold ids, where no name says which they are.

    One is enough if the other could hold ids that no table has.
    """
    found: list[str] = []
    other: list[str] = []
    for column in table.columns:
        if column.kind not in ("integer", "string"):
            continue
        end = find_end(table, column.name, ids, hint=hint_of_column(column.name, ids))
        good = end.share >= 0.5 and (end.hinted or end.sure)
        (found if good else other).append(column.name)
    pair = (found + other)[:2] if found else []
    kept = [column.name for column in table.columns if column.name in pair]
    return (kept[0], kept[1]) if len(kept) == 2 else None


def foreign_keys(table: FoundTable, columns: Sequence[Column], ids: Ids) -> list[End]:
    """Columns of a node table that hold ids of other tables.

    Whole numbers count only under the type's name, since small numbers are ids of nearly every table.
    """
    found = []
    for column in columns:
        if column.kind not in ("integer", "string", "number") or column.mean_words > 5:
            continue
        hint = hint_of_column(column.name, ids)
        if hint == table.name and column.distinct == column.filled:
            continue  # another name of the row itself
        if not hint and (column.kind != "string" or column.distinct < 2):
            continue
        end = find_end(table, column.name, ids, hint=hint)
        if end.hinted or (end.share == 1 and column.kind == "string"):
            found.append(end)
    return found


def _called(name: str, types: Collection[str]) -> str:
    return next((t for t in types if thing(t) == thing(name)), "")


def _likeliest(shares: Mapping[str, float], ids: Ids) -> str:
    """The type that misses least; of several the smallest, which says most."""
    best = max(shares, key=lambda name: (shares[name], -len(ids[name].ids)), default="")
    return best if best and shares[best] > 0 else ""


def _missing(keys: pa.Array, ids: pa.Array, *, loose: bool) -> pa.Array:
    """The keys that are no ids, compared as columns.read_endpoints does."""
    if keys.type != ids.type and loose and ids.type == pa.int64():
        good = pc.match_substring_regex(keys, r"^-?[0-9]{1,18}$")
        inside = pc.is_in(keys.filter(good).cast(pa.int64()), value_set=ids)
        return pa.concat_arrays([keys.filter(pc.invert(good)), keys.filter(good).filter(pc.invert(inside))])
    if keys.type != ids.type:
        return keys
    return keys.filter(pc.invert(pc.is_in(keys, value_set=ids)))


def _whole_numbers(values: pa.Array) -> pa.Array:
    """Ids that became fractions on the way, as pandas does to columns with gaps."""
    try:
        return values.cast(pa.int64())
    except pa.ArrowInvalid:
        return values
