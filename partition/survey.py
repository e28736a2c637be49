"""What the tables of a graph hold, without reading them: rows from Parquet's footers, the rest from samples.

Owns how much is looked at: bounded for each file and table. Never checks a cell, never keeps a table.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from partition.errors import DataError
from partition.rows import is_text
from partition.schema import EdgeSchema, GraphSchema, NodeSchema, nearest
from partition.storage import InputFile, reading
from partition.tables import read_csv

SAMPLE_ROWS = 2000
"""Of a row group or a CSV file."""
_PLACES = 3
"""Files of a table that are sampled, and row groups of each: first, middle and last."""
_CSV_BLOCK = 1 << 20
"""Bytes of one of pyarrow's batches, as long as nobody asks it for others."""
_CSV_BLOCKS = 4
_TARGETS = ("train", "valid", "val", "validation", "test")
_HELD_OUT = _TARGETS[1:]


@dataclass(frozen=True)
class TableSurvey:
    """One table. Bytes, widths and shares are means over the sample."""

    name: str
    """`nodes.TYPE` or `edges.RELATION`."""
    rows: int
    exact: bool
    """False: rows follow from the size of CSV files and their first rows."""
    row_bytes: float
    """Of the columns that are read, in memory."""
    ids: str
    """integers or strings."""
    stored_id_bytes: float
    """Of an id in a Parquet file, compressed; 0 for a relation."""
    features: int
    """Numbers of a row."""
    label: bool
    targets: float
    """Share of the rows that are training, validation or test targets."""
    held_out: float
    """Share of the rows with a split for validation or test."""
    text_bytes: float
    texts: tuple[str, ...]
    """Of the sample; empty without a text column."""


def survey(schema: GraphSchema, files: Mapping[str, Sequence[InputFile]]) -> tuple[TableSurvey, ...]:
    """Every table of a graph, types first.

    DataError for a file that is missing, torn or lacks a column, and for a column of a strange type.
    """
    found = []
    for kind, tables in (("nodes", schema.nodes), ("edges", schema.edges)):
        for table in tables:
            name = f"{kind}.{table.name}"
            try:
                found.append(_table(name, table, files[f"[{name}]"]))
            except pa.ArrowException as error:
                raise DataError(f"[{name}]: {' '.join(str(error).split())}") from error
    return tuple(found)


def _table(name: str, schema: NodeSchema | EdgeSchema, files: Sequence[InputFile]) -> TableSurvey:
    looked = [
        _file(file, name, schema.columns, sample=i in _spread(len(files))) for i, file in enumerate(files)
    ]
    sample = _joined([batch for one in looked for batch in one.sample], schema.columns)
    node = schema if isinstance(schema, NodeSchema) else None
    ids = sample[schema.id if isinstance(schema, NodeSchema) else schema.source_id]
    texts = pc.fill_null(_text(sample[node.text]), "") if node and node.text else None
    targets, held_out = _splits(sample, schema.split, schema.label if node else "")
    return TableSurvey(
        name=name,
        rows=sum(one.rows for one in looked),
        exact=all(one.exact for one in looked),
        row_bytes=sample.nbytes / max(len(sample), 1),
        ids="integers" if _are_integers(ids) else "strings",
        stored_id_bytes=_stored_bytes(ids) if node else 0.0,
        features=sum(_width(sample[column]) for column in schema.features),
        label=bool(schema.label),
        targets=targets,
        held_out=held_out,
        text_bytes=0.0 if texts is None else float(pc.mean(pc.binary_length(texts)).as_py() or 0.0),
        texts=() if texts is None else tuple(texts.to_pylist()),
    )


@dataclass(frozen=True)
class _Look:
    """What a file told."""

    rows: int
    exact: bool
    sample: list[pa.RecordBatch]


def _file(file: InputFile, name: str, columns: Sequence[str], *, sample: bool) -> _Look:
    """DataError in the words of the build, which would find the same."""
    with reading(file.name):
        try:
            return _csv(file, columns) if file.path.endswith(".csv") else _parquet(file, columns, sample)
        except DataError as error:
            raise DataError(f"{file.name} [{name}]: {error.args[0]}", hint=error.hint) from None
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
                raise  # the disk or the network: of a torn page pyarrow raises a bare OSError
            words = " ".join(str(error).split())
            raise DataError(f"{file.name} [{name}]: not readable as a table: {words}") from error


def _parquet(file: InputFile, columns: Sequence[str], sample: bool) -> _Look:
    with file.open() as stream:
        table = pq.ParquetFile(stream, pre_buffer=False)  # else a sample costs a whole row group
        header = table.schema_arrow.names
        for column in columns:
            if column not in header:
                words = f"no column {column!r}{nearest(column, header)}"
                raise DataError(words, hint=f"the table has {', '.join(header)}")
            if header.count(column) > 1:
                raise DataError(f"{header.count(column)} columns have the name {column!r}")
        found: list[pa.RecordBatch] = []
        for group in _spread(table.num_row_groups) if sample else []:
            batches = table.iter_batches(SAMPLE_ROWS, row_groups=[group], columns=list(columns))
            found += islice(batches, 1)
        return _Look(table.metadata.num_rows, True, found)


def _csv(file: InputFile, columns: Sequence[str]) -> _Look:
    """Rows by what the first blocks of the file have; all of them where it has no more blocks."""
    size = int(file.fs.size(file.path))
    with file.open() as stream:
        batches = read_csv(stream, columns, [])
        first = list(islice(batches, _CSV_BLOCKS))
        rows = sum(batch.num_rows for batch in first)
        exact = len(first) < _CSV_BLOCKS or next(batches, None) is None
    rows_there = rows if exact else round(rows * size / (len(first) * _CSV_BLOCK))
    return _Look(rows_there, exact, [batch.slice(0, SAMPLE_ROWS) for batch in first[:_PLACES]])


def _spread(count: int) -> set[int]:
    """First, middle and last of so many."""
    return {0, count // 2, count - 1} if count else set()


def _joined(batches: Sequence[pa.RecordBatch], columns: Sequence[str]) -> pa.Table:
    """A sample. Files that disagree about a type are left out: the build complains of them."""
    kept = [batch for batch in batches if batch.schema.equals(batches[0].schema)]
    # A dictionary is as large as all of its row group; a copy of the rows is what they take.
    every = np.arange(SAMPLE_ROWS)
    kept = [batch.take(pa.array(every[: batch.num_rows])) for batch in kept]
    return pa.Table.from_batches(kept) if kept else pa.table({name: pa.nulls(0) for name in columns})


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """As text, with what is no UTF-8 replaced: another's business here."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if is_text(column.type):
        column = column.cast(pa.large_binary())
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        words = [None if v is None else v.decode("utf-8", "replace") for v in column.to_pylist()]
        return pa.chunked_array([pa.array(words, pa.large_string())])
    return column.cast(pa.large_string())


def _are_integers(ids: pa.ChunkedArray) -> bool:
    if pa.types.is_integer(ids.type):
        return True
    if not pa.types.is_large_binary(ids.type):  # only CSV comes as such
        return False
    return pc.all(pc.match_substring_regex(_text(ids), r"^-?[0-9]{1,18}$")).as_py() is not False


def _stored_bytes(ids: pa.ChunkedArray) -> float:
    if not len(ids):
        return 0.0
    written = io.BytesIO()
    pq.write_table(pa.table({"id": ids}), written)
    return written.tell() / len(ids)


def _splits(sample: pa.Table, split: str, label: str) -> tuple[float, float]:
    """Shares of the rows that are targets, and that are held out; with `label` a target has one."""
    if not split or not len(sample):
        return 0.0, 0.0
    words = _text(sample[split])
    asked = pc.is_in(words, pa.array(_TARGETS, pa.large_string()))
    held = pc.is_in(words, pa.array(_HELD_OUT, pa.large_string()))
    if label:
        asked = pc.and_(asked, pc.is_valid(sample[label]))
    return float(pc.mean(asked).as_py()), float(pc.mean(held).as_py())


def _width(column: pa.ChunkedArray) -> int:
    """Numbers of a feature column in a row."""
    if pa.types.is_fixed_size_list(column.type):
        return int(column.type.list_size)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return int(pc.max(pc.list_value_length(column)).as_py() or 0)
    return 1
