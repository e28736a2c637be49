"""Formats of tables by suffix: open files -> record batches of the wanted columns.

Owns how Parquet and CSV are read. Never judges a cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import IO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from partition.errors import DataError
from partition.rows import Ragged
from partition.schema import nearest

Importer = Callable[[IO[bytes], Sequence[str]], Iterator[pa.RecordBatch]]
"""(open file, wanted columns) -> batches; the header must have been checked against the columns."""
_BATCH_BYTES = 16 << 20
_BATCH_ROWS = 1 << 16
_READ_BYTES = 1 << 20


def read_parquet(stream: IO[bytes], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Batches of a few megabytes, out of row groups that are read page by page."""
    # What is buffered beforehand is held until the end: the whole file.
    table = pyarrow.parquet.ParquetFile(stream, buffer_size=_READ_BYTES, pre_buffer=False)
    _check_header(table.schema_arrow.names, columns)
    whole = sum(table.metadata.row_group(group).total_byte_size for group in range(table.num_row_groups))
    rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES * table.metadata.num_rows // max(whole, 1)))
    yield from table.iter_batches(rows, columns=list(columns))


def read_csv(
    stream: IO[bytes], columns: Sequence[str], ragged: list[Ragged] | None = None
) -> Iterator[pa.RecordBatch]:
    """All columns as bytes: their meaning, not a guess at the first rows, decides what they are.

    An empty cell is null, unless it is quoted. Rows with too many or too few cells are an error, or go into
    the list `ragged`.
    """
    aside = None if ragged is None else _Aside(ragged)
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=aside)
    read = pyarrow.csv.ReadOptions(use_threads=False)  # else no error tells its row; as fast (54 MB: 0.29 s)
    try:
        header = pyarrow.csv.open_csv(stream, read_options=read, parse_options=parse).schema.names
    except UnicodeDecodeError:
        raise DataError("the header is not valid UTF-8", hint="save the table as UTF-8") from None
    _check_header(header, columns)
    stream.seek(0)
    if ragged is not None:
        ragged.clear()  # reading the header has looked at the first rows
    yield from pyarrow.csv.open_csv(
        stream,
        read_options=read,
        parse_options=parse,
        convert_options=pyarrow.csv.ConvertOptions(
            include_columns=list(columns),
            column_types={name: pa.large_binary() for name in columns},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


IMPORTERS: dict[str, Importer] = {".parquet": read_parquet, ".csv": read_csv}
"""Suffix -> importer; add a format here."""
LOOSE = (".csv",)
"""Formats in which every value is text."""


class _Aside:
    """pyarrow's handler of rows with a wrong number of cells: remembers them."""

    def __init__(self, rows: list[Ragged]) -> None:
        self._rows = rows

    def __call__(self, row: pyarrow.csv.InvalidRow) -> str:
        if row.number is None or "\n" in row.text or "\r" in row.text:
            return "error"  # most likely a quote left open, which has swallowed other rows
        self._rows.append(Ragged(row.number - 2, row.text, row.expected_columns, row.actual_columns))
        return "skip"


def _check_header(header: Sequence[str], columns: Sequence[str]) -> None:
    for name in columns:
        if name not in header:
            raise DataError(
                f"no column {name!r}{nearest(name, header)}", hint=f"the table has {', '.join(header)}"
            )
        if header.count(name) > 1:
            raise DataError(f"{header.count(name)} columns have the name {name!r}", hint="rename all but one")
