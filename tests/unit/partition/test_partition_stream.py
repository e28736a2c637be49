"""Tables read in pieces of a few rows, ids looked up in either way: the same tables, the same errors."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from partition_graphs import graphs

from partition import importers, lookup, rows
from partition import room as room_of_arrays
from partition.errors import DataError
from partition.manifest import SPLITS
from partition.room import IN_MEMORY, Room
from partition.schema import EdgeSchema, NodeSchema, parse_schema
from partition.storage import InputFolder
from partition.tables import EdgeTable, GraphTables, load_tables, table_files

SPLIT_CODES = {name: code for code, name in enumerate(SPLITS)} | {"val": 1}
EXTREMES = (-(2**63), 2**63 - 1)
LOOKUPS = ("place", "memory", "disk")


@contextlib.contextmanager
def small_pieces(*, by: str = "memory") -> Iterator[None]:
    """Pieces of a few rows, not the same in files and in checks; ids looked up in one way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importers, "_BATCH_ROWS", 4)
        patch.setattr(rows, "PIECE_ROWS", 3)
        patch.setattr(lookup, "_ROWS", 5)
        patch.setattr(lookup, "_SPARSE", 100 if by == "place" else 0)
        patch.setattr(lookup, "_SMALL_BYTES", -1 if by == "disk" else 1 << 30)
        patch.setattr(room_of_arrays, "_MOST_RECORDS", 4)
        yield


def write_files(folder: Path, tables: Mapping[str, Any], *, suffix: str, files: int) -> Path:
    """Like `partition_graphs.write_graph`, each table cut into some files."""
    lines = []
    for name, table in tables.items():
        columns = pa.table(table["columns"], schema=table.get("schema"))
        bounds = [columns.num_rows * i // files for i in range(files + 1)]
        for number, (first, last) in enumerate(itertools.pairwise(bounds)):
            path = folder / f"{name}-{number}.{suffix}"
            piece = columns.slice(first, last - first)
            if suffix == "csv":
                pyarrow.csv.write_csv(piece, path)
            else:
                pq.write_table(piece, path, row_group_size=7)
        kind = "edges" if "ends" in table else "nodes"
        lines += [f"[{kind}.{name}]", f'path = "{name}-*.{suffix}"', table["keys"]]
        if "ends" in table:
            lines += ['source = "{}"\ndestination = "{}"'.format(*table["ends"])]
    (folder / "graph.toml").write_text("\n".join(lines) + "\n")
    return folder


def loaded(folder: Path, room: Room = IN_MEMORY, *, cap: float | None = None) -> GraphTables:
    schema = parse_schema((folder / "graph.toml").read_text(), where="graph.toml")
    return load_tables(schema, table_files(schema, InputFolder(str(folder))), cap=cap, room=room)


def same(found: Any, expected: Any) -> bool:
    if expected is None or found is None:
        return found is expected
    return found.dtype == expected.dtype and found.shape == expected.shape and bool((found == expected).all())


def labels(schema: NodeSchema | EdgeSchema, columns: Mapping[str, Any]) -> np.ndarray | None:
    if not schema.label:
        return None
    names = list(schema.classes)
    values = (v if v is None or isinstance(v, int) else names.index(v) for v in columns[schema.label])
    return np.array([-1 if v is None else v for v in values], np.int32)


def splits(schema: NodeSchema | EdgeSchema, columns: Mapping[str, Any]) -> np.ndarray | None:
    if not schema.split:
        return None
    return np.array([SPLIT_CODES.get(word, -1) for word in columns[schema.split]], np.int8)


def features(schema: NodeSchema | EdgeSchema, columns: Mapping[str, Any]) -> np.ndarray | None:
    if not schema.features:
        return None
    if not columns["id" if isinstance(schema, NodeSchema) else "src_id"]:
        return np.zeros((0, len(schema.features)), np.float32)  # nothing tells how long lists are
    widths = {name: 2 if name == "vector" else 1 for name in schema.features}
    parts = [np.array(columns[name], np.float32).reshape(-1, width) for name, width in widths.items()]
    return np.concatenate(parts, axis=1)


def check(tables: Mapping[str, Any], graph: GraphTables) -> None:
    """Against the Python lists that the files were written from."""
    places = {}
    for name, node in graph.nodes.items():
        columns = tables[name]["columns"]
        assert node.ids.to_pylist() == columns["id"]
        places[name] = {own: row for row, own in enumerate(columns["id"])}
        assert (node.texts is None) == (not node.schema.text)
        if node.texts is not None:
            assert node.texts.to_pylist() == [text or "" for text in columns["text"]]
        assert same(node.labels, labels(node.schema, columns))
        assert same(node.splits, splits(node.schema, columns))
        assert same(node.features, features(node.schema, columns))
    for name, edge in graph.edges.items():
        columns = tables[name]["columns"]
        for found, column, end in zip(
            (edge.source, edge.destination), ("src_id", "dst_id"), tables[name]["ends"], strict=True
        ):
            assert same(found, np.array([places[end][key] for key in columns[column]], np.int64))
        assert same(edge.labels, labels(edge.schema, columns))
        assert same(edge.splits, splits(edge.schema, columns))
        assert same(edge.features, features(edge.schema, columns))


def for_csv(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The same without lists, which CSV does not have."""
    found = {}
    for name, table in tables.items():
        schema, keys = table.get("schema"), table["keys"].replace(', "vector"', "")
        columns = {key: values for key, values in table["columns"].items() if key != "vector"}
        kept = None if schema is None else pa.schema([field for field in schema if field.name != "vector"])
        found[name] = {**table, "columns": columns, "schema": kept, "keys": keys}
    return found


@pytest.mark.parametrize("by", LOOKUPS)
@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@settings(max_examples=12, deadline=None)
@given(tables=graphs(), files=st.integers(1, 3))
def test_pieces_of_several_files_make_the_whole_tables(
    by: str, suffix: str, tables: dict[str, Any], files: int
) -> None:
    if suffix == "csv":
        tables = for_csv(tables)
    with tempfile.TemporaryDirectory() as folder, small_pieces(by=by):
        graph = write_files(Path(folder), tables, suffix=suffix, files=files)
        check(tables, loaded(graph, Room(Path(folder) / "room")))


@settings(max_examples=25, deadline=None)
@given(
    ids=st.lists(st.integers(-5, 30)),
    keys=st.lists(st.lists(st.integers(-5, 40) | st.sampled_from(EXTREMES), max_size=9), max_size=4),
    texts=st.booleans(),
)
def test_all_ways_to_look_ids_up_find_what_a_dictionary_finds(
    ids: list[int], keys: list[list[int]], texts: bool
) -> None:
    def column(values: list[int]) -> pa.Array:
        return pa.array(
            [f"é\0{v}" for v in values] if texts else values, pa.large_string() if texts else pa.int64()
        )

    first = {own: row for row, own in reversed(list(enumerate(ids)))}
    distinct = list(dict.fromkeys(ids))
    asked = [column(piece) for piece in keys]
    expected = [distinct.index(key) if key in first else -1 for piece in keys for key in piece]
    for by in LOOKUPS:
        with small_pieces(by=by), tempfile.TemporaryDirectory() as folder:
            room = Room(Path(folder))
            again = [row for piece in lookup.repeated(column(ids), room) for row in piece.tolist()]
            assert again == [row for row, own in enumerate(ids) if first[own] < row]
            found = [row for piece in lookup.rows_of(column(distinct), asked, room) for row in piece.tolist()]
            assert found == expected


ROWS = 20
NODES: dict[str, Any] = {
    "id": [f"n{i}" for i in range(ROWS)],
    "size": [float(i) for i in range(ROWS)],
    "kind": ["x", "y"] * (ROWS // 2),
    "part": ["train", "test"] * (ROWS // 2),
}
LINKS: dict[str, Any] = {"src_id": NODES["id"], "dst_id": NODES["id"][::-1]}
WRONG: dict[str, tuple[str, str, Any, str]] = {
    "duplicate id": ("node", "id", "n2", "the id 'n2' occurs twice"),
    "no id": ("node", "id", None, "the node has no id"),
    "feature": ("node", "size", float("nan"), "a feature is NaN"),
    "label": ("node", "kind", "z", "the label 'z' is not one of the 2 classes"),
    "split": ("node", "part", "trian", "'trian' is no split"),
    "dangling": ("link", "dst_id", "n99", "no node node has the id 'n99'"),
    "no end": ("link", "src_id", None, "the edge has no end here"),
}


def two_files(folder: Path, table: str, column: str, row: int, value: Any, *, suffix: str) -> Path:
    """20 nodes and links in two files of ten rows each, with one cell changed."""
    tables: dict[str, Any] = {
        "node": {
            "columns": {**NODES},
            "keys": 'id = "id"\nfeatures = ["size"]\nlabel = "kind"\nclasses = ["x", "y"]\nsplit = "part"',
        },
        "link": {"ends": ("node", "node"), "columns": {**LINKS}, "keys": ""},
    }
    columns = tables[table]["columns"]
    columns[column] = [value if i == row else given for i, given in enumerate(columns[column])]
    return write_files(folder, tables, suffix=suffix, files=2)


@pytest.mark.parametrize("by", LOOKUPS)
@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize(("table", "column", "value", "problem"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_cell_in_a_later_piece_of_the_second_file_is_named(
    by: str, suffix: str, table: str, column: str, value: Any, problem: str, tmp_path: Path
) -> None:
    folder = two_files(tmp_path, table, column, 17, value, suffix=suffix)
    with small_pieces(by=by), pytest.raises(DataError) as caught:
        loaded(folder, Room(tmp_path / "room"))
    line = ", line 9" if suffix == "csv" else ""
    place = f"{table}-1.{suffix}, row 7 (counting from 0){line}, column '{column}': "
    assert str(caught.value).startswith(place)
    assert problem in str(caught.value)


@pytest.mark.parametrize("by", LOOKUPS)
@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_rows_left_out_in_many_pieces_leave_the_others_and_are_told_in_order(
    by: str, suffix: str, tmp_path: Path
) -> None:
    folder = two_files(tmp_path, "node", "id", 17, "n3", suffix=suffix)
    with small_pieces(by=by):
        graph = loaded(folder, Room(tmp_path / "room"), cap=1.0)
    ids = [f"n{i}" for i in range(ROWS) if i != 17]
    assert graph.nodes["node"].ids.to_pylist() == ids
    kept = [(s, d) for s, d in zip(LINKS["src_id"], LINKS["dst_id"], strict=True) if "n17" not in (s, d)]
    link = graph.edges["link"]
    assert [(ids[s], ids[d]) for s, d in zip(link.source, link.destination, strict=True)] == kept
    told = {
        name: [(row.file, row.row, row.reason) for row in table.rows]
        for name, table in graph.quarantine.items()
    }
    assert told == {
        "nodes.node": [(f"node-1.{suffix}", 7, "duplicate id")],
        "edges.link": [
            (f"link-0.{suffix}", 2, "dangling edge"),
            (f"link-1.{suffix}", 7, "dangling edge"),
        ],
    }


@settings(max_examples=50, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(-1, 2)), max_size=40),
    block=st.integers(1, 9),
)
def test_leaks_are_counted_block_by_block(pairs: list[tuple[int, int, int]], block: int) -> None:
    schema = EdgeSchema("r", ("r.csv",), "a", "a")
    columns = np.array(pairs, np.int64).reshape(-1, 3)
    table = EdgeTable(schema, columns[:, 0], columns[:, 1], columns[:, 2].astype(np.int8), None, (), None)
    messages = {(s, d) for s, d, split in pairs if split < 1}
    expected = sum(split >= 1 and (s, d) in messages for s, d, split in pairs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("partition.tables._CHUNK_ROWS", 3)
        assert table.leaks(block_rows=block) == expected
