"""Copies of tables with a split column, for users whose tables have none.

Owns the draw and the copies' names; the user's own tables stay as they are. Never guesses a column.
Shape letter: N rows.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from partition.errors import UsageError
from partition.guess import GraphGuess, TableGuess
from partition.guess_columns import Line
from partition.guess_files import SPLIT_FOLDER
from partition.manifest import SPLITS
from partition.storage import InputFolder, writing

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


def with_splits(guess: GraphGuess, folder: InputFolder, shares: Shares) -> GraphGuess:
    """Write a copy for each table that needs a split, and point the guess at the copies.

    These are the tables with a label and no split; if that leaves nothing to predict, the relation of
    most edges, between texts if there is one. UsageError if there is no such table.
    """
    chosen = [table for kind in ("nodes", "edges") for table in guess.of(kind) if _lacks_split(table)]
    if not chosen and not any(_has_targets(table) for table in guess.tables):
        chosen = _largest_relation(guess)
    if not chosen:
        raise UsageError("--split: no table needs one", hint="all that can be predicted has a split already")
    nodes = [table.name for table in guess.of("nodes")]
    tables = list(guess.tables)
    for table in chosen:
        clash = table.kind == "edges" and table.name in nodes
        path = f"{SPLIT_FOLDER}/{table.name}{'_edges' if clash else ''}{table.table.suffix}"
        tables[tables.index(table)] = _copy(table, folder, path, shares)
    return replace(guess, tables=tuple(tables))


def draw_splits(keys: Sequence[str], shares: Shares) -> np.ndarray:
    """int8 N: 0 train, 1 valid, 2 test. Of a key alone, so that old rows stay where they were when new
    ones come, and equal keys go together."""
    hashes = (hashlib.blake2b(key.encode("utf-8"), digest_size=8).digest() for key in keys)
    positions = np.array([int.from_bytes(value, "big") / 2**64 for value in hashes])
    return np.searchsorted(np.cumsum(shares)[:2], positions, side="right").astype(np.int8)


def _lacks_split(table: TableGuess) -> bool:
    return bool(table.value("label")) and not table.value("split")


def _has_targets(table: TableGuess) -> bool:
    return table.sure and bool(table.value("split")) and (table.kind == "edges" or bool(table.value("label")))


def _largest_relation(guess: GraphGuess) -> list[TableGuess]:
    texts = {table.name for table in guess.of("nodes") if table.value("text")}
    relations = list(guess.of("edges"))
    between = [r for r in relations if {r.value("source"), r.value("destination")} <= texts]
    sizes = {r.name: len(r.table.read(r.value("source_id"))) for r in between or relations}
    return [max(between or relations, key=lambda r: sizes[r.name])] if sizes else []


def _copy(guess: TableGuess, folder: InputFolder, path: str, shares: Shares) -> TableGuess:
    header = [column.name for column in guess.table.columns]
    column = "split" if "split" not in header else "lmgnn_split"
    rows = guess.table.read(*header)
    splits = draw_splits(_keys(guess), shares)
    words = pa.array(np.array(SPLITS)[splits].tolist(), pa.string())
    if label := guess.value("label"):  # a row without one is no target
        words = pc.if_else(pc.is_valid(rows.column(label)), words, None)
    if guess.table.loose:
        table = pa.table({name: rows.column(name) for name in header})
    else:
        table = pa.concat_tables([part for _, part in rows.files])
    _write(table.append_column(column, words), folder, path)
    counts = ", ".join(f"{name} {pc.sum(pc.equal(words, name)).as_py() or 0:,}" for name in SPLITS)
    told = f"drawn by a hash of the {'id' if guess.kind == 'nodes' else 'two ends'}: {counts}"
    lines = [line for line in guess.lines if line.key not in ("path", "split")]
    copied = Line("path", path, f"a copy of {', '.join(guess.table.paths)} with a split column")
    notes = tuple(note for note in guess.notes if not note.startswith("a label without a split"))
    return replace(guess, lines=(copied, *lines, Line("split", column, told)), notes=notes)


def _keys(guess: TableGuess) -> list[str]:
    """What the draw depends on: a node's id; an edge's ends, the same for both directions."""
    if guess.kind == "nodes":
        column = guess.value("id")
        return [str(value) for value in guess.table.read(column).column(column).to_pylist()]
    names = guess.value("source_id"), guess.value("destination_id")
    rows = guess.table.read(*names)
    pairs = zip(*(rows.column(name).to_pylist() for name in names), strict=True)
    within = guess.value("source") == guess.value("destination")
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
