"""Tables -> one checked graph, rows in the order of the files; its arrays lie in mapped files, or in memory.

Owns what makes up a graph, and the way of each table through its checks. Never numbers nodes anew.
Shape letters: N rows, F width of the features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np
import pyarrow as pa

from partition.columns import read_ids, read_labels, read_splits, read_texts
from partition.ends import read_endpoints
from partition.errors import DataError
from partition.features import read_features
from partition.importers import IMPORTERS, LOOSE, read_csv
from partition.lines import lines_of, no_lines
from partition.quarantine import Quarantine, sift
from partition.room import IN_MEMORY, Room
from partition.rows import Ragged, RowFile, Rows
from partition.schema import EdgeSchema, GraphSchema, NodeSchema
from partition.storage import InputFile, InputFolder, reading

_Table = TypeVar("_Table")
_CHUNK_ROWS = 1 << 18
"""Edges looked at together."""
_LEAK_ROWS = 1 << 24
"""Held-out edges looked for in one reading of all others: 128 MB, and three times that while sorted."""


@dataclass(frozen=True)
class NodeTable:
    """One node type. None = the type has no such column."""

    schema: NodeSchema
    ids: pa.Array
    """int64 or large_string N, without repeats."""
    texts: pa.Array | None
    labels: np.ndarray | None
    """int32 N, -1 without a label."""
    classes: tuple[str, ...]
    splits: np.ndarray | None
    """int8 N: 0 train, 1 valid, 2 test, -1 none."""
    features: np.ndarray | None
    """float32 N x F."""

    @property
    def targets(self) -> np.ndarray:
        """int64, the rows with both a split and a label."""
        if self.labels is None or self.splits is None:
            return np.zeros(0, dtype=np.int64)
        return np.flatnonzero((self.splits >= 0) & (self.labels >= 0))


@dataclass(frozen=True)
class EdgeTable:
    """One relation as it stands in its tables."""

    schema: EdgeSchema
    source: np.ndarray
    """int64 N, rows of the source type's table."""
    destination: np.ndarray
    splits: np.ndarray | None
    """int8 N: 0 train, 1 valid, 2 test, -1 message."""
    labels: np.ndarray | None
    classes: tuple[str, ...]
    features: np.ndarray | None

    @property
    def held_out(self) -> np.ndarray:
        """bool N: validation and test edges."""
        return np.zeros(len(self.source), dtype=bool) if self.splits is None else self.splits >= 1

    def rows(self, *, held_out: bool = False, messages: bool = True) -> Iterator[np.ndarray]:
        """int64, some of the rows in order, a chunk at a time: validation and test edges, or the others."""
        for first in range(0, len(self.source), _CHUNK_ROWS):
            here = np.arange(first, min(first + _CHUNK_ROWS, len(self.source)))
            if held_out and messages:
                yield here
            elif self.splits is None:
                yield here if messages else here[:0]
            else:
                yield here[(self.splits[here[0] : here[-1] + 1] >= 1) == held_out]

    def leaks(self, *, block_rows: int = _LEAK_ROWS) -> int:
        """Validation and test edges whose two ends are also joined by an edge that messages may use."""
        if self.splits is None:
            return 0
        width = int(self.destination.max(initial=0)) + 1
        found, block, held = 0, [], 0
        for rows in self.rows(held_out=True, messages=False):
            block.append(self._keys(rows, width))
            held += len(rows)
            if held >= block_rows:
                found += self._joined(np.concatenate(block), width)
                block, held = [], 0
        return found + (self._joined(np.concatenate(block), width) if held else 0)

    def _keys(self, rows: np.ndarray, width: int) -> np.ndarray:
        """int64, one number for two ends."""
        return np.asarray(self.source[rows].astype(np.int64) * width + self.destination[rows])

    def _joined(self, keys: np.ndarray, width: int) -> int:
        """How many of some keys are those of message edges as well."""
        names, counts = np.unique(keys, return_counts=True)
        seen = np.zeros(len(names), dtype=bool)
        for rows in self.rows():
            asked = np.sort(self._keys(rows, width))  # in order a search is several times as fast
            place = np.minimum(np.searchsorted(names, asked), len(names) - 1)
            seen[place[names[place] == asked]] = True
        return int(counts[seen].sum())


@dataclass(frozen=True)
class GraphTables:
    """All node types and relations of a schema."""

    nodes: Mapping[str, NodeTable]
    edges: Mapping[str, EdgeTable]
    quarantine: Mapping[str, Quarantine] = field(default_factory=dict)
    """`nodes.TYPE` or `edges.RELATION` -> what is left out; empty where a bad row is an error."""


def table_files(schema: GraphSchema, folder: InputFolder) -> dict[str, list[InputFile]]:
    """`[nodes.x]` or `[edges.x]` -> its files; DataError if one has a suffix that nobody imports."""
    files = {}
    for kind, tables in (("nodes", schema.nodes), ("edges", schema.edges)):
        for table in tables:
            where = f"[{kind}.{table.name}]"
            files[where] = folder.files(table.path, where=where)
            for item in files[where]:
                if _suffix(item) not in IMPORTERS:
                    raise DataError(
                        f"{item.name} {where}: tables end in {' or '.join(IMPORTERS)}",
                        hint="convert it first",
                    )
    return files


def load_tables(
    schema: GraphSchema,
    files: Mapping[str, Sequence[InputFile]],
    *,
    cap: float | None = None,
    room: Room = IN_MEMORY,
) -> GraphTables:
    """Read and check everything; DataError names the first cell that is wrong.

    With a cap, rows that are wrong are left out, up to this share of each table. In a room with a folder,
    arrays are mapped from there, and what memory it has is kept to at any size of the tables.
    """
    left_out: dict[str, Quarantine] = {}

    def read(
        where: str, columns: Sequence[str], make: Callable[[Rows, Room], _Table], id_column: str = ""
    ) -> _Table:
        name = where.strip("[]")
        raw = room.inner(f"{name}.rows")
        rows = _read(where, files[where], columns, raw, put_ragged_aside=cap is not None)
        if cap is None:
            table = make(replace(rows, most_told=1), room.inner(name))
        else:
            # Each attempt has the room for itself: what the one before has made of the column is gone.
            table, left_out[name] = sift(
                rows, lambda some: make(some, room.inner(name)), cap=cap, id_column=id_column
            )
        raw.clear()
        return table

    nodes, edges = {}, {}
    for node in schema.nodes:
        make_nodes = partial(_node_table, node, ids_last=cap is not None)
        nodes[node.name] = read(f"[nodes.{node.name}]", node.columns, make_nodes, node.id)
    gone = {name.removeprefix("nodes."): table.ids for name, table in left_out.items()}
    for edge in schema.edges:
        make_edges = partial(_edge_table, edge, nodes=nodes, gone=gone)
        edges[edge.name] = read(f"[edges.{edge.name}]", edge.columns, make_edges)
    return GraphTables(nodes, edges, left_out)


def _unreadable(file: InputFile, where: str, error: Exception) -> DataError:
    """What pyarrow says about the content of a file, on one line."""
    problem, hint = " ".join(str(error).split()), "write the file again"
    if _suffix(file) == ".csv":
        empty = "empty csv" in problem.lower()
        hint = "a table has a header line, also without rows" if empty else "the header is row 1"
    return DataError(f"{file.name} {where}: not readable as a table: {problem}", hint=hint)


def _suffix(file: InputFile) -> str:
    return next((suffix for suffix in IMPORTERS if file.path.endswith(suffix)), "")


def _read(
    where: str, files: Sequence[InputFile], columns: Sequence[str], room: Room, *, put_ragged_aside: bool
) -> Rows:
    parts = [_read_file(where, file, columns, room, put_ragged_aside=put_ragged_aside) for file in files]
    loose = [_suffix(file) in LOOSE for file in files]
    if any(loose) != all(loose):
        raise DataError(f"{where}: CSV and Parquet files together", hint="convert them to one format")
    return Rows(where, tuple(parts), loose=all(loose), lines_of=lines_of(files) if all(loose) else no_lines)


def _read_file(
    where: str, file: InputFile, columns: Sequence[str], room: Room, *, put_ragged_aside: bool
) -> RowFile:
    ragged: list[Ragged] = []
    read = IMPORTERS[_suffix(file)]
    if read is read_csv and put_ragged_aside:
        read = partial(read_csv, ragged=ragged)
    with file.open() as stream, reading(file.name):
        try:
            table = room.table(read(stream, columns), columns)
        except DataError as error:
            raise DataError(f"{file.name} {where}: {error.args[0]}", hint=error.hint) from None
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
                raise  # the disk or the network: of a torn Parquet page pyarrow raises a bare OSError
            raise _unreadable(file, where, error) from error
    return RowFile(file.name, table, tuple(ragged))


def _node_table(schema: NodeSchema, rows: Rows, room: Room, *, ids_last: bool) -> NodeTable:
    """With `ids_last`, of two rows with one id that without another fault becomes the node."""
    labels, classes = read_labels(rows, schema.label, schema.classes, room) if schema.label else (None, ())
    ids = None if ids_last else read_ids(rows, schema.id, room)
    texts = read_texts(rows, schema.text, room) if schema.text else None
    splits = read_splits(rows, schema.split, message=False, room=room) if schema.split else None
    features = read_features(rows, schema.features, room) if schema.features else None
    ids = read_ids(rows, schema.id, room) if ids is None else ids
    return NodeTable(schema, ids, texts, labels, classes, splits, features)


def _edge_table(
    schema: EdgeSchema,
    rows: Rows,
    room: Room,
    *,
    nodes: Mapping[str, NodeTable],
    gone: Mapping[str, Sequence[str]],
) -> EdgeTable:
    def ends(column: str, node_type: str) -> np.ndarray:
        left_out = gone.get(node_type, ())
        return read_endpoints(rows, column, nodes[node_type].ids, node_type, left_out, room)

    labels, classes = read_labels(rows, schema.label, schema.classes, room) if schema.label else (None, ())
    return EdgeTable(
        schema=schema,
        source=ends(schema.source_id, schema.source),
        destination=ends(schema.destination_id, schema.destination),
        splits=read_splits(rows, schema.split, message=True, room=room) if schema.split else None,
        labels=labels,
        classes=classes,
        features=read_features(rows, schema.features, room) if schema.features else None,
    )
