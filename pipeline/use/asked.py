"""Which nodes or pairs a person asks about: typed, from a table, or from standard input.

Owns which columns of a table hold ids. Never looks an id up.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from partition.errors import DataError, UsageError
from partition.importers import IMPORTERS
from pipeline.use.exported import Exported, Ids, read_ids, table_columns

_PAIR_COLUMNS = (("source", "destination"), ("source_id", "destination_id"), ("src_id", "dst_id"))


@dataclass(frozen=True)
class Asked:
    """Nodes to classify, sources, or pairs."""

    nodes: Ids
    destinations: Ids | None = None


def asked_nodes(exported: Exported, given: Sequence[str], pairs: Sequence[str] | None) -> Asked:
    """Nodes of a node classification."""
    name = exported.task.node_type
    if pairs:
        raise UsageError(f"task {exported.name} classifies {name} nodes, not pairs", hint="give --ids")
    path = _file(given)
    if path is None:
        return Asked(_plain(given))
    return Asked(read_ids(path, [_column(path, (*_own(exported, name), "id", name))], flag="--ids")[0])


def asked_pairs(
    exported: Exported, relation: str, given: Sequence[str], pairs: Sequence[str] | None
) -> Asked:
    """Pairs, or for a link task sources alone."""
    ends, links = exported.ends[relation], exported.task.kind == "link_prediction"
    if pairs:
        ends_of = [next(csv.reader([text])) for text in pairs]
        for text, pair in zip(pairs, ends_of, strict=True):
            if len(pair) != 2:
                raise UsageError(f"--pairs {text}: expected SOURCE,DESTINATION")
        return Asked(*(Ids(pa.array(i, pa.large_string()), "--pairs") for i in zip(*ends_of, strict=True)))
    path = _file(given)
    if path is not None:
        known = table_columns(path)
        for names in (exported.columns[relation], ends, *_PAIR_COLUMNS):
            if len({*names} & {*known}) == 2:
                return Asked(*read_ids(path, names, flag="--ids"))
    if not links:
        wanted = " and ".join(exported.columns[relation])
        raise UsageError(
            f"task {exported.name} classifies edges: it needs pairs of {ends[0]} and {ends[1]} ids",
            hint=f"give --pairs SOURCE,DESTINATION … or --ids FILE with the columns {wanted}",
        )
    if path is None:
        return Asked(_plain(given))
    own = (exported.columns[relation][0], "source", "src_id", *_own(exported, ends[0]), ends[0], "id")
    return Asked(read_ids(path, [_column(path, own)], flag="--ids")[0])


def _own(exported: Exported, node_type: str) -> tuple[str, ...]:
    """The column that graph.toml names for a type's ids, where the run has kept it."""
    return tuple(filter(None, (exported.id_columns.get(node_type),)))


def _file(given: Sequence[str]) -> Path | None:
    """The table that --ids names: one word that ends as a table does."""
    return Path(given[0]) if len(given) == 1 and given[0].endswith(tuple(IMPORTERS)) else None


def _plain(given: Sequence[str]) -> Ids:
    """Ids as they were typed, or from standard input, one a line."""
    if list(given) == ["-"]:
        return Ids(pa.array(sys.stdin.read().splitlines(), pa.large_string()), "standard input")
    return Ids(pa.array(given, pa.large_string()), "--ids")


def _column(path: Path, names: Sequence[str]) -> str:
    """The column with the ids: the first of some names, or the only one."""
    known = table_columns(path)
    found = [name for name in names if name in known] or (known if len(known) == 1 else [])
    if not found:
        problem = f"{path} (--ids): none of its columns {', '.join(known)} holds the ids"
        raise DataError(problem, hint=f"name one {' or '.join(dict.fromkeys(names))}")
    return found[0]
