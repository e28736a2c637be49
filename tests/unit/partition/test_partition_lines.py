"""Lines of rows in CSV files, against a file whose rows say in which line they begin."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from partition.errors import DataError
from partition.importers import read_csv
from partition.lines import csv_line
from partition.schema import parse_schema
from partition.storage import InputFolder
from partition.tables import load_tables, table_files

TABLE = 'id,text,begins\n1,plain,2\n2,"two\n\nlines",3\n\n\n3,"a ""quote""\r\n",8\n4,,10\n'


def test_each_row_begins_in_the_line_that_it_says() -> None:
    rows = [
        int(cell.as_py())
        for batch in read_csv(io.BytesIO(TABLE.encode()), ["begins"])
        for cell in batch["begins"]
    ]
    assert rows == [2, 3, 8, 10]
    assert [csv_line(io.BytesIO(TABLE.encode()), row) for row in range(4)] == rows
    assert csv_line(io.BytesIO(TABLE.encode()), 4) is None


def test_a_bad_row_of_a_csv_table_is_named_with_its_line_in_its_own_file(tmp_path: Path) -> None:
    for name, ids in (("a", "1\n2\n"), ("b", "3\n\n2\n")):
        (tmp_path / f"node-{name}.csv").write_text(f"id\n{ids}")
    (tmp_path / "link.csv").write_text("src_id,dst_id\n1,2\n")
    schema = parse_schema(
        '[nodes.node]\npath = "node-*.csv"\n[edges.link]\npath = "link.csv"\n'
        'source = "node"\ndestination = "node"\n',
        where="graph.toml",
    )
    with pytest.raises(DataError, match=r"node-b\.csv, row 1 \(counting from 0\), line 4, column 'id'"):
        load_tables(schema, table_files(schema, InputFolder(str(tmp_path))))
