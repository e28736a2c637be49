"""A wrong table or graph.toml stops the build with a line that names the place, and nothing is written."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from partition_graphs import SMALL, write_graph

from partition.build import BuildOptions, build
from partition.errors import DataError, LMGNNError, UsageError

Change = Callable[[dict[str, Any]], None]


def cell(table: str, column: str, row: int, value: Any) -> Change:
    def change(tables: dict[str, Any]) -> None:
        tables[table]["columns"][column][row] = value

    return change


def column(table: str, name: str, values: Any) -> Change:
    def change(tables: dict[str, Any]) -> None:
        tables[table]["columns"][name] = values

    return change


def keys(table: str, text: str) -> Change:
    def change(tables: dict[str, Any]) -> None:
        tables[table]["keys"] += "\n" + text

    return change


def refused(folder: Path, **options: Any) -> LMGNNError:
    """The error of a build, which must leave no partition and no half of one."""
    store = folder.parent / "store"
    with pytest.raises(LMGNNError) as caught:
        build(str(folder), BuildOptions(**options), store=str(store), say=lambda line: None)
    left = [path.name for path in store.iterdir() if path.is_dir()] if store.exists() else []
    assert left == []
    return caught.value


PAPER, CITES = "tables/paper.parquet, row {}", "tables/cites.parquet, row {}"
BAD_DATA: dict[str, tuple[Change, tuple[str, ...]]] = {
    "null id": (cell("paper", "id", 2, None), (PAPER.format(2), "'id'", "no id")),
    "duplicate id": (cell("paper", "id", 3, "b"), (PAPER.format(3), "'id'", "'b' occurs twice")),
    "id type": (column("paper", "id", [1.5, 2.5, 3.5, 4.5]), ("tables/paper.parquet", "'id'", "double")),
    "dangling source": (cell("cites", "src_id", 1, "q"), (CITES.format(1), "'src_id'", "'q'", "paper")),
    "dangling end": (cell("writes", "dst_id", 3, "q"), ("tables/writes.parquet, row 3", "'dst_id'", "'q'")),
    "null end": (cell("cites", "dst_id", 4, None), (CITES.format(4), "'dst_id'")),
    "end type": (column("writes", "src_id", list("abcd")), ("tables/writes.parquet", "'src_id'", "int64")),
    "node split": (cell("paper", "split", 1, "message"), (PAPER.format(1), "'split'", "'message'")),
    "edge split": (cell("cites", "split", 0, "trian"), (CITES.format(0), "'split'", "'trian'", "message")),
    "split type": (column("cites", "split", [1, 2, 0, 0, 1]), ("tables/cites.parquet", "'split'", "int64")),
    "nan": (cell("cites", "weight", 2, float("nan")), (CITES.format(2), "'weight'", "NaN")),
    "infinite": (cell("paper", "year", 1, float("inf")), (PAPER.format(1), "'year'")),
    "too large": (cell("paper", "year", 1, 1e300), (PAPER.format(1), "'year'")),
    "no feature": (cell("paper", "year", 3, None), (PAPER.format(3), "'year'", "empty")),
    "feature type": (column("paper", "year", list("wxyz")), ("tables/paper.parquet", "'year'", "string")),
    "ragged feature": (
        column("paper", "year", [[1.0], [2.0, 3.0], [4.0], [5.0]]),
        (PAPER.format(1), "'year'", "a list of 2 numbers"),
    ),
    "unknown class": (keys("paper", 'classes = ["x"]'), (PAPER.format(1), "'field'", "'y'")),
    "negative label": (column("paper", "field", [0, 1, -1, 2]), (PAPER.format(2), "'field'", "-1")),
    "label type": (column("paper", "field", [0.5, 1.0, 1.0, 2.0]), ("paper.parquet", "'field'", "double")),
    "text type": (column("paper", "title", [1, 2, 3, 4]), ("tables/paper.parquet", "'title'", "int64")),
    "missing column": (keys("author", 'text = "nmae"'), ("tables/author.parquet", "'nmae'")),
}


@pytest.mark.parametrize(("change", "words"), BAD_DATA.values(), ids=BAD_DATA.keys())
def test_a_wrong_cell_is_named_with_file_and_column(
    change: Change, words: tuple[str, ...], tmp_path: Path
) -> None:
    tables = copy.deepcopy(SMALL)
    change(tables)
    error = refused(write_graph(tmp_path / "graph", tables))
    assert isinstance(error, DataError)
    assert error.exit_code == 3
    for word in words:
        assert word in str(error)


def test_a_row_is_counted_in_its_own_file(tmp_path: Path) -> None:
    folder = write_graph(tmp_path / "graph", SMALL)
    table = pyarrow.parquet.read_table(folder / "tables/author.parquet")
    more = pa.table({"id": [8, 9, 5]})
    pyarrow.parquet.write_table(more, folder / "tables/author_more.parquet")
    text = (folder / "graph.toml").read_text().replace("author.parquet", "author*.parquet")
    (folder / "graph.toml").write_text(text)
    assert table.num_rows == 3
    assert "tables/author_more.parquet, row 2" in str(refused(folder))


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_invalid_utf8_is_named_with_row_and_column(suffix: str, tmp_path: Path) -> None:
    folder = write_graph(tmp_path / "graph", SMALL, suffix=suffix)
    path = folder / f"tables/paper.{suffix}"
    if suffix == "csv":
        path.write_bytes(path.read_bytes().replace(b"edge", b"\xff\xfege"))
    else:
        table = pyarrow.parquet.read_table(path)
        raw = pa.array([b"ok", b"\xff\xfe", None, b"ok"])
        broken = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
        pyarrow.parquet.write_table(table.set_column(1, "title", broken), path)
    message = str(refused(folder))
    assert f"tables/paper.{suffix}, row 1 " in message
    assert "'title'" in message
    assert "UTF-8" in message


def test_a_missing_table_is_named(small_graph: Path) -> None:
    (small_graph / "tables/cites.parquet").unlink()
    error = refused(small_graph)
    assert isinstance(error, DataError)
    assert "tables/cites.parquet: no such file" in str(error)


def test_a_glob_that_matches_nothing_is_named(small_graph: Path) -> None:
    text = (small_graph / "graph.toml").read_text().replace("cites.parquet", "cities-*.parquet")
    (small_graph / "graph.toml").write_text(text)
    assert "cities-*.parquet" in str(refused(small_graph))


def test_a_missing_graph_file_is_named(tmp_path: Path) -> None:
    assert "graph.toml: no such file" in str(refused(tmp_path / "nothing"))


def test_a_torn_parquet_file_is_named(small_graph: Path) -> None:
    path = small_graph / "tables/paper.parquet"
    path.write_bytes(path.read_bytes()[:100])
    assert "tables/paper.parquet" in str(refused(small_graph))


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_file_without_a_byte_is_named(suffix: str, tmp_path: Path) -> None:
    folder = write_graph(tmp_path / "graph", SMALL, suffix=suffix)
    (folder / f"tables/paper.{suffix}").write_bytes(b"")
    error = refused(folder)
    assert isinstance(error, DataError)
    assert str(error).startswith(f"tables/paper.{suffix}")


BAD_TOML = {
    "unknown key": ("lable = 'x'", "label"),
    "unknown node type": ("[edges.x]\npath='p.csv'\nsource='papre'\ndestination='paper'", "'paper'"),
    "name of a reverse": (
        "[edges.rev_cites]\npath='p.csv'\nsource='paper'\ndestination='paper'",
        "rev_cites",
    ),
    "relation twice": ("[edges.cites]\npath='p.csv'\nsource='paper'\ndestination='paper'", "graph.toml"),
    "bad name": ("[nodes.'a/b']\npath='p.csv'", "a/b"),
    "no path": ("[nodes.x]\nid='id'", "path is missing"),
    "suffix": ("[nodes.x]\npath='x.xlsx'", "x.xlsx"),
    "wrong kind of value": ("[nodes.x]\npath='x.csv'\nfeatures=[1]", "features = [1]"),
}


@pytest.mark.parametrize(("extra", "word"), BAD_TOML.values(), ids=BAD_TOML.keys())
def test_a_wrong_graph_file_is_refused_with_its_key(extra: str, word: str, small_graph: Path) -> None:
    path = small_graph / "graph.toml"
    path.write_text(path.read_text() + "\n" + extra + "\n")
    error = refused(small_graph)
    assert isinstance(error, UsageError | DataError)
    assert word in str(error)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"hosts": 0}, "hosts = 0"),
        ({"method": "mtis"}, "'metis'"),
        ({"relations": ("cite",)}, "'cites'"),
        ({"tokenizer": "package:no_such_package_here/model"}, "no_such_package_here"),
        ({"tokenizer": "/no/such/folder"}, "/no/such/folder"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], word: str, small_graph: Path) -> None:
    with pytest.raises(UsageError) as caught:
        build(
            str(small_graph), BuildOptions(**options), store=str(small_graph / "store"), say=lambda line: None
        )
    assert word in str(caught.value)


def test_a_graph_without_nodes_is_refused(tmp_path: Path) -> None:
    tables = {
        "a": {"columns": {"id": pa.array([], pa.int64())}, "keys": ""},
        "r": {
            "ends": ("a", "a"),
            "columns": {"src_id": pa.array([], pa.int64()), "dst_id": pa.array([], pa.int64())},
            "keys": "",
        },
    }
    assert "no nodes" in str(refused(write_graph(tmp_path / "graph", tables)))
