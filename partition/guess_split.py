"""Copies of tables with a split column, for users whose tables have none, and graph.toml made to name them.

Owns which tables get one, the draw and the copies' names; the user's own tables stay as they are. Of a
label it only takes up what graph.toml proposes in a comment.
Shape letter: N rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from partition.columns import read_labels
from partition.errors import DataError, UsageError
from partition.guess_columns import Line
from partition.guess_copies import (
    RECORD,
    Origin,
    copied,
    origin_of,
    origins_json,
    read_origins,
    require_copies,
    why_old,
)
from partition.guess_edit import ideas, set_keys
from partition.guess_files import SPLIT_FOLDER, FoundTable, table_of
from partition.manifest import SPLITS
from partition.pieces import whole_column
from partition.schema import EdgeSchema, GraphSchema, NodeSchema, parse_schema
from partition.storage import InputFile, InputFolder, writing
from partition.tables import GraphTables, load_tables, table_files

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
    again: bool
    """Whether an older copy was there."""


@dataclass(frozen=True)
class Splits:
    """All that a split changes, before anything is written."""

    text: str
    """Of graph.toml."""
    drawn: tuple[Drawn, ...]
    _copies: Mapping[str, pa.Table]
    """Path of a copy, relative to the folder -> its rows."""
    _origins: Mapping[str, Origin]
    """Of all copies, those that stay included."""

    def check(self, folder: InputFolder) -> GraphTables:
        """What a build will read, out of copies in a temporary folder; errors as a build raises them."""
        schema = parse_schema(self.text, where="graph.toml")
        files = table_files(schema, folder)
        with tempfile.TemporaryDirectory() as scratch:
            drafts = InputFolder(scratch)
            self._write_copies(drafts)
            for drawn in self.drawn:
                files[f"[{drawn.kind}.{drawn.name}]"] = [drafts.file(drawn.path)]
            return load_tables(schema, files)

    def write(self, folder: InputFolder) -> None:
        """The copies, and what they were made of; graph.toml is the caller's, once these are there."""
        self._write_copies(folder)
        with _writer(folder, RECORD) as stream:
            stream.write(origins_json(self._origins).encode("utf-8"))

    def _write_copies(self, folder: InputFolder) -> None:
        for path, rows in self._copies.items():
            _write(rows, folder, path)


def plan_splits(text: str, folder: InputFolder, shares: Shares, *, where: str) -> Splits:
    """A split for each table of graph.toml that needs one and has none; all else stays in it. Writes nothing.

    These are the tables with a label, node types whose only proposed label is a comment (which is switched
    on), and, if nothing but such proposals could be predicted then, the relation of most edges, between texts
    if there is one. Copies that are older than their tables are made again. UsageError if there is nothing to
    do, DataError where a copy is gone and nobody knows what it was made of.
    """
    schema, origins = parse_schema(text, where=where), read_origins(folder)
    tables = list(_tables(schema, origins, folder))
    old = [table for table in tables if table.old]
    fresh = [table for table in tables if not table.old]
    require_copies(_without(schema, [t for t in tables if t.paths != t.schema.path]), folder)
    lacking = [table for table in fresh if not table.schema.split]
    chosen = [table for table in lacking if table.schema.label]
    likely = {table.name: _likely_label(text, table) for table in lacking if table.kind == "nodes"}
    if not chosen and not any(table.asks for table in tables):
        chosen = _largest_relation(schema, lacking)
    chosen = [*old, *chosen, *(t for t in lacking if t.kind == "nodes" and likely[t.name])]
    if not chosen:
        raise UsageError(
            "--split: no table needs one, and nothing was changed",
            hint="all that can be predicted has a split already: `lmgnn init FOLDER` makes a plan; to draw "
            "another split, take split out of a table of graph.toml",
        )
    drawn, copies, origins = [], {}, dict(origins)
    for table in chosen:
        label = likely.get(table.name, "") if table.kind == "nodes" else ""
        path = table.copy_path(schema)
        copies[path], column, told = _copy(table, label or table.schema.label, shares)
        about = f"a copy of {', '.join(table.paths)} with a split column"
        lines = [Line("path", path, about), Line("split", column, told)]
        if label:
            lines.insert(1, Line("label", label, f"{table.found.column(label).distinct} different values"))
        text = set_keys(text, table.kind, table.name, lines, where=where)
        origins[path] = origin_of(table.paths, table.files, ",".join(f"{100 * s:.6g}" for s in shares))
        drawn.append(Drawn(table.kind, table.name, path, label, told, table.old))
    return Splits(text, tuple(drawn), copies, origins)


def draw_splits(keys: Sequence[str], shares: Shares) -> np.ndarray:
    """int8 N: 0 train, 1 valid, 2 test. Of a key alone, so that old rows stay where they were when new
    ones come, and equal keys go together."""
    hashes = (hashlib.blake2b(key.encode("utf-8"), digest_size=8).digest() for key in keys)
    positions = np.array([int.from_bytes(value, "big") / 2**64 for value in hashes])
    return np.searchsorted(np.cumsum(shares)[:2], positions, side="right").astype(np.int8)


@dataclass(frozen=True)
class _Table:
    """A table of graph.toml, and the files that hold its rows: of a copy, those that it was made of."""

    kind: str
    schema: NodeSchema | EdgeSchema
    paths: tuple[str, ...]
    files: Sequence[InputFile]
    old: bool
    """Whether it is a copy that its tables have left behind."""

    @property
    def name(self) -> str:
        return self.schema.name

    @property
    def asks(self) -> bool:
        """Whether something can be predicted by it as it is."""
        return bool(self.schema.split and (self.kind == "edges" or self.schema.label))

    @cached_property
    def found(self) -> FoundTable:
        return table_of(self.name, self.paths, self.files)

    def copy_path(self, schema: GraphSchema) -> str:
        """Where its copy goes."""
        if self.old:
            return self.schema.path[0]
        clash = self.kind == "edges" and self.name in [node.name for node in schema.nodes]
        return f"{SPLIT_FOLDER}/{self.name}{'_edges' if clash else ''}{self.found.suffix}"


def _tables(schema: GraphSchema, origins: Mapping[str, Origin], folder: InputFolder) -> Iterator[_Table]:
    files = table_files(schema, folder)
    everything: list[tuple[str, NodeSchema | EdgeSchema]] = [("nodes", node) for node in schema.nodes]
    for kind, table in (*everything, *(("edges", edge) for edge in schema.edges)):
        where, origin, old = f"[{kind}.{table.name}]", copied(table, origins), False
        paths, of = table.path, files[where]
        if origin is not None:
            old = bool(table.split and why_old(paths[0], origin, folder))
            if old or not table.split:
                paths, of = origin.paths, folder.files(origin.paths, where=where)
        yield _Table(kind, table, paths, of, old)


def _without(schema: GraphSchema, remade: Sequence[_Table]) -> GraphSchema:
    """The schema's tables but those whose copies are made again."""
    gone = [table.schema for table in remade]
    nodes = tuple(node for node in schema.nodes if node not in gone)
    return replace(schema, nodes=nodes, edges=tuple(edge for edge in schema.edges if edge not in gone))


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
        words = pc.if_else(pc.is_valid(whole_column(rows, label)), words, None)
    if found.loose:
        whole = pa.table({name: whole_column(rows, name) for name in header})
    else:
        whole = pa.concat_tables([file.table for file in rows.files])
    counts = ", ".join(f"{name} {pc.sum(pc.equal(words, name)).as_py() or 0:,}" for name in SPLITS)
    told = f"drawn by a hash of the {'id' if table.kind == 'nodes' else 'two ends'}: {counts}"
    return whole.append_column(column, words), column, told


def _keys(table: _Table) -> list[str]:
    """What the draw depends on: a node's id; an edge's ends, the same for both directions."""
    schema = table.schema
    if isinstance(schema, NodeSchema):
        return [str(value) for value in whole_column(table.found.read(schema.id), schema.id).to_pylist()]
    names = schema.source_id, schema.destination_id
    rows = table.found.read(*names)
    pairs = zip(*(whole_column(rows, name).to_pylist() for name in names), strict=True)
    within = schema.source == schema.destination
    ends = ((str(a), str(b)) for a, b in pairs)
    return ["\0".join(sorted(pair) if within else pair) for pair in ends]


def _write(table: pa.Table, folder: InputFolder, path: str) -> None:
    with _writer(folder, path) as stream:
        if path.endswith(".csv"):
            pyarrow.csv.write_csv(table, stream)
        else:
            pyarrow.parquet.write_table(table, stream)


@contextlib.contextmanager
def _writer(folder: InputFolder, path: str) -> Iterator[IO[bytes]]:
    file = folder.file(path)
    with writing(Path(path)):
        file.fs.makedirs(posixpath.dirname(file.path), exist_ok=True)
        with file.fs.transaction, file.fs.open(file.path, "wb") as stream:
            yield stream
