"""Copies of tables with a split column, for users whose tables have none, and graph.toml made to name them.

Owns which tables get one, the draw and the copies' names; the user's own tables stay as they are. Of a
label it only takes up what graph.toml proposes in a comment.
Shape letter: N rows.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from partition.columns import read_labels
from partition.errors import DataError, UsageError
from partition.guess_columns import Line
from partition.guess_edit import ideas, set_keys
from partition.guess_files import SPLIT_FOLDER, FoundTable, table_of
from partition.manifest import SPLITS
from partition.schema import EdgeSchema, GraphSchema, NodeSchema, parse_schema
from partition.storage import InputFile, InputFolder, writing
from partition.tables import table_files

Shares = tuple[float, float, float]
"""Of training, validation and test rows; they add up to 1."""


def parse_shares(text: str) -> Shares:
    """`80,10,10` -> (.8, .1, .1); UsageError unless these are three numbers above 0."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != len(SPLITS) or not all(0 < value < float("inf") for value in values):
        raise UsageError(f"--split {text}: expected {', '.join(SPLITS)} as three numbers, such as 80,10,10")
    train, valid, test = (value / sum(values) for value in values)
    return train, valid, test


@dataclass(frozen=True)
class Drawn:
    """A table of graph.toml that was given a split."""

    kind: str
    """nodes or edges."""
    name: str
    path: str
    """The copy's, relative to the folder."""
    label: str
    """Column that was an idea and has become the label; else empty."""
    told: str
    """How the rows were shared out."""


def with_splits(
    text: str, folder: InputFolder, shares: Shares, *, where: str
) -> tuple[str, tuple[Drawn, ...]]:
    """graph.toml's text with a split for each table that needs one and has none; all else stays in it.

    Writes a copy of each such table. These are the tables with a label, node types whose only proposed
    label is a comment (which is switched on), and, if nothing but such proposals or nothing at all could
    be predicted then, the relation of most edges, between texts if there is one. UsageError if no table
    needs one.
    """
    schema = parse_schema(text, where=where)
    files = table_files(schema, folder)
    tables = [_Table("nodes", node, files[f"[nodes.{node.name}]"]) for node in schema.nodes]
    tables += [_Table("edges", edge, files[f"[edges.{edge.name}]"]) for edge in schema.edges]
    lacking = [table for table in tables if not table.schema.split]
    chosen = [table for table in lacking if table.schema.label]
    likely = {table.name: _likely_label(text, table) for table in lacking if table.kind == "nodes"}
    chosen += [table for table in lacking if table.kind == "nodes" and likely[table.name]]
    if not any(table.schema.label for table in chosen) and (not chosen or len(lacking) == len(tables)):
        chosen += _largest_relation(schema, lacking)
    if not chosen:
        raise UsageError(
            "--split: no table needs one",
            hint="all that can be predicted has a split already; take split out of a table to draw anew",
        )
    drawn = []
    for table in chosen:
        label = likely.get(table.name, "") if table.kind == "nodes" else ""
        clash = table.kind == "edges" and table.name in [node.name for node in schema.nodes]
        path = f"{SPLIT_FOLDER}/{table.name}{'_edges' if clash else ''}{table.found.suffix}"
        copy, column, told = _copy(table, label or table.schema.label, shares)
        about = f"a copy of {', '.join(table.schema.path)} with a split column"
        lines = [Line("path", path, about), Line("split", column, told)]
        if label:
            lines.insert(1, Line("label", label, f"{table.found.column(label).distinct} different values"))
        text = set_keys(text, table.kind, table.name, lines, where=where)
        _write(copy, folder, path)
        drawn.append(Drawn(table.kind, table.name, path, label, told))
    return text, tuple(drawn)


def draw_splits(keys: Sequence[str], shares: Shares) -> np.ndarray:
    """int8 N: 0 train, 1 valid, 2 test. Of a key alone, so that old rows stay where they were when new
    ones come, and equal keys go together."""
    hashes = (hashlib.blake2b(key.encode("utf-8"), digest_size=8).digest() for key in keys)
    positions = np.array([int.from_bytes(value, "big") / 2**64 for value in hashes])
    return np.searchsorted(np.cumsum(shares)[:2], positions, side="right").astype(np.int8)


class _Table:
    """A table of graph.toml and the files that it names."""

    def __init__(self, kind: str, schema: NodeSchema | EdgeSchema, files: Sequence[InputFile]) -> None:
        self.kind, self.schema, self.name = kind, schema, schema.name
        self._files = files

    @cached_property
    def found(self) -> FoundTable:
        return table_of(self.name, self.schema.path, self._files)


def _likely_label(text: str, table: _Table) -> str:
    """The label column of a node type without one, if a comment proposes just one that can be read."""
    proposed = [] if table.schema.label else ideas(text, "nodes", table.name, "label")
    known = [name for name in proposed if name in [column.name for column in table.found.columns]]
    if len(proposed) != 1 or not known:
        return ""
    try:
        read_labels(table.found.read(known[0]), known[0], ())
    except DataError:
        return ""
    return known[0]


def _largest_relation(schema: GraphSchema, lacking: Sequence[_Table]) -> list[_Table]:
    texts = {node.name for node in schema.nodes if node.text}
    ends = {edge.name: {edge.source, edge.destination} for edge in schema.edges}
    relations = [table for table in lacking if table.kind == "edges"]
    between = [table for table in relations if ends[table.name] <= texts]
    sizes = {r.name: len(r.found.read(*r.schema.columns)) for r in between or relations}
    return [max(between or relations, key=lambda r: sizes[r.name])] if sizes else []


def _copy(table: _Table, label: str, shares: Shares) -> tuple[pa.Table, str, str]:
    """(all columns and the split, the split column's name, how it was drawn)."""
    found = table.found
    header = [column.name for column in found.columns]
    column = "split" if "split" not in header else "lmgnn_split"
    rows = found.read(*header)
    splits = draw_splits(_keys(table), shares)
    words = pa.array(np.array(SPLITS)[splits].tolist(), pa.string())
    if label:  # a row without one is no target
        words = pc.if_else(pc.is_valid(rows.column(label)), words, None)
    if found.loose:
        whole = pa.table({name: rows.column(name) for name in header})
    else:
        whole = pa.concat_tables([part for _, part in rows.files])
    counts = ", ".join(f"{name} {pc.sum(pc.equal(words, name)).as_py() or 0:,}" for name in SPLITS)
    told = f"drawn by a hash of the {'id' if table.kind == 'nodes' else 'two ends'}: {counts}"
    return whole.append_column(column, words), column, told


def _keys(table: _Table) -> list[str]:
    """What the draw depends on: a node's id; an edge's ends, the same for both directions."""
    schema = table.schema
    if isinstance(schema, NodeSchema):
        return [str(value) for value in table.found.read(schema.id).column(schema.id).to_pylist()]
    names = schema.source_id, schema.destination_id
    rows = table.found.read(*names)
    pairs = zip(*(rows.column(name).to_pylist() for name in names), strict=True)
    within = schema.source == schema.destination
    ends = ((str(a), str(b)) for a, b in pairs)
    return ["\0".join(sorted(pair) if within else pair) for pair in ends]


def _write(table: pa.Table, folder: InputFolder, path: str) -> None:
    file = folder.file(path)
    with writing(Path(path)):
        file.fs.makedirs(posixpath.dirname(file.path), exist_ok=True)
        with file.fs.transaction, file.fs.open(file.path, "wb") as stream:
            if path.endswith(".csv"):
                pyarrow.csv.write_csv(table, stream)
            else:
                pyarrow.parquet.write_table(table, stream)
