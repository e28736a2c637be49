"""With `bad_rows="quarantine"` wrong rows are beside the graph, not in it, each with its place and reason."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from partition_graphs import SMALL, write_graph
from partition_parts import Parts, quiet

from partition.__main__ import main
from partition.build import BuildOptions, build
from partition.errors import DataError, UsageError
from partition.manifest import PartitionManifest
from partition.store import verify

NAN = float("nan")
OPTIONS: dict[str, Any] = {"bad_rows": "quarantine", "bad_rows_cap": 1.0}
Row = tuple[str, str, int, str | None, str, str | None]
"""Table, file, row, column, reason, value."""


def with_cells(*cells: tuple[str, str, int, Any], keys: dict[str, str] | None = None) -> dict[str, Any]:
    """The small graph with some cells (table, column, row, value) changed, and lines of graph.toml added."""
    tables = copy.deepcopy(SMALL)
    for table, column, row, value in cells:
        tables[table]["columns"][column][row] = value
    for table, line in (keys or {}).items():
        tables[table]["keys"] += f"\n{line}"
    return tables


def without(tables: dict[str, Any], rows: dict[str, set[int]]) -> dict[str, Any]:
    """The same tables with some rows cleaned away."""
    clean = copy.deepcopy(tables)
    for name, gone in rows.items():
        columns = clean[name]["columns"]
        clean[name]["columns"] = {
            key: [value for row, value in enumerate(values) if row not in gone]
            for key, values in columns.items()
        }
    return clean


def quarantined(path: Path) -> list[Row]:
    """All files of `quarantine/`, one after the other."""
    found = []
    for file in sorted((path / "quarantine").glob("*.parquet")):
        for row in pq.read_table(file).to_pylist():
            values = (row[key] for key in ("file", "row", "column", "reason", "value"))
            found.append((file.stem, *values))
    return found


def data_files(parts: Parts) -> dict[str, str]:
    """Checksums of features, tokens, ids and targets; two graph.dgl of one graph differ in some bytes."""
    files = {name: info.sha256 for name, info in parts.manifest.files.items() if name.startswith("part")}
    return {name: sha256 for name, sha256 in files.items() if not name.endswith("graph.dgl")}


def papers(row: int, column: str, reason: str, value: str | None) -> Row:
    return ("nodes.paper", "tables/paper.parquet", row, column, reason, value)


def cites(row: int, column: str, reason: str, value: str | None) -> Row:
    return ("edges.cites", "tables/cites.parquet", row, column, reason, value)


D_GONE = [
    cites(2, "dst_id", "its node was left out", "d"),
    cites(3, "src_id", "its node was left out", "d"),
    ("edges.writes", "tables/writes.parquet", 3, "dst_id", "its node was left out", "d"),
]
"""What goes along with the last paper."""
KINDS: dict[str, tuple[dict[str, Any], list[Row]]] = {
    "duplicate id": (
        with_cells(("paper", "id", 3, "a"), ("cites", "src_id", 3, "b"), ("cites", "dst_id", 2, "b"),
                   ("writes", "dst_id", 3, "b")),
        [papers(3, "id", "duplicate id", "a")],
    ),
    "null id": (
        with_cells(("paper", "id", 3, None), ("cites", "src_id", 3, "b"), ("cites", "dst_id", 2, "b"),
                   ("writes", "dst_id", 3, "b")),
        [papers(3, "id", "no id", None)],
    ),
    "dangling source": (
        with_cells(("cites", "src_id", 1, "q")),
        [cites(1, "src_id", "dangling edge", "q")],
    ),
    "null end": (with_cells(("cites", "dst_id", 4, None)), [cites(4, "dst_id", "no end", None)]),
    "nan": (
        with_cells(("cites", "weight", 1, NAN), ("paper", "year", 3, NAN)),
        [*D_GONE, cites(1, "weight", "feature not finite", "nan"),
         papers(3, "year", "feature not finite", "nan")],
    ),
    "infinite": (
        with_cells(("paper", "year", 3, float("inf"))),
        [*D_GONE, papers(3, "year", "feature not finite", "inf")],
    ),
    "no feature": (
        with_cells(("paper", "year", 3, None)),
        [*D_GONE, papers(3, "year", "feature is empty", None)],
    ),
    "ragged feature": (
        with_cells(*(("paper", "year", row, [1.0] * (1 + row // 3)) for row in range(4))),
        [*D_GONE, papers(3, "year", "feature of another length", "[1.0, 1.0]")],
    ),
    "label": (
        with_cells(("paper", "field", 3, "z"), keys={"paper": 'classes = ["x", "y"]'}),
        [*D_GONE, papers(3, "field", "unknown label", "z")],
    ),
    "integer label": (
        with_cells(*(("paper", "field", row, value) for row, value in enumerate((0, 1, None, -1)))),
        [*D_GONE, papers(3, "field", "label out of range", "-1")],
    ),
    "node split": (
        with_cells(("paper", "split", 3, "message")),
        [*D_GONE, papers(3, "split", "unknown split", "message")],
    ),
    "edge split": (
        with_cells(("cites", "split", 0, "trian")),
        [cites(0, "split", "unknown split", "trian")],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("tables", "expected"), KINDS.values(), ids=KINDS.keys())
def test_the_graph_is_that_of_the_cleaned_tables_and_each_row_is_accounted_for(
    tables: dict[str, Any], expected: list[Row], tmp_path: Path, tokenizer: str
) -> None:
    gone: dict[str, set[int]] = {}
    for table, _, row, *_ in expected:
        gone.setdefault(table.split(".")[1], set()).add(row)
    clean = without(tables, gone)
    write_graph(tmp_path / "dirty" / "graph", tables)
    write_graph(tmp_path / "clean" / "graph", clean)
    dirty = Parts(clean, tmp_path / "dirty", 2, 1, tokenizer=tokenizer, **OPTIONS)
    assert sorted(map(str, quarantined(dirty.path))) == sorted(map(str, expected))

    stats = dict(dirty.manifest.stats)
    counted = stats.pop("quarantine")
    for name, rows in gone.items():
        kind = "edges" if "ends" in tables[name] else "nodes"
        count = counted[f"{kind}.{name}"]
        assert count["rows"] == len(tables[name]["columns"].popitem()[1])
        assert count["left_out"] == sum(count["reasons"].values()) == len(rows)
    counts = {t.name: t.count for t in dirty.manifest.node_types}
    assert counts == {name: len(clean[name]["columns"]["id"]) for name in counts}

    fresh = Parts(clean, tmp_path / "clean", 2, 1, tokenizer=tokenizer)
    assert dirty.ids == fresh.ids
    assert sorted(dirty.edges()) == sorted(fresh.edges())
    assert (dirty.manifest.node_types, dirty.manifest.relations) == (
        fresh.manifest.node_types,
        fresh.manifest.relations,
    )
    assert (stats, dirty.manifest.keys) == (fresh.manifest.stats, fresh.manifest.keys)
    assert data_files(dirty) == data_files(fresh)


def test_of_two_rows_with_one_id_the_one_without_another_fault_stays(tmp_path: Path) -> None:
    tables = with_cells(("author", "id", 1, 7), ("writes", "src_id", 0, 6))
    tables["author"]["columns"]["rank"] = [NAN, 2.0, 3.0]
    tables["author"]["keys"] += '\nfeatures = ["rank"]'
    write_graph(tmp_path / "graph", tables)
    parts = Parts(without(tables, {"author": {0}}), tmp_path, 1, 1, **OPTIONS)
    assert sorted(parts.ids["author"]) == [6, 7]
    reason = "feature not finite"
    assert quarantined(parts.path) == [("nodes.author", "tables/author.parquet", 0, "rank", reason, "nan")]


def csv_graph(folder: Path) -> Path:
    write_graph(folder, SMALL, suffix="csv")
    paper = b'id,title,year,field,split\n"a","two\n\nlines",1,x,train\n\n'
    paper += b"b,\xff\xfege,2,y,valid\nc,,three,x,test\nd,text,4,x\n"
    paper += b"e,ok,5,y,train\nf,graph,6,,train,more\ng,,7,y,\n"
    (folder / "tables/paper.csv").write_bytes(paper)
    (folder / "tables/cites.csv").write_bytes(
        b"src_id,dst_id,weight,split\na,e,1,train\nb,a,1,train\ne,g,1,valid\nd,a,2,\ng,a,x,\n"
    )
    (folder / "tables/writes.csv").write_bytes(b"src_id,dst_id\n5,a\n6,e\nsix,e\n,g\n7,g\n")
    return folder


def test_rows_of_csv_files_have_their_lines(tmp_path: Path) -> None:
    folder = csv_graph(tmp_path / "graph")
    path = build(str(folder), BuildOptions(**OPTIONS), store=str(tmp_path / "s"), say=quiet)
    found = {
        file.stem: [tuple(row.values())[1:] for row in pq.read_table(file).to_pylist()]
        for file in (path / "quarantine").glob("*.parquet")
    }
    assert found == {
        "nodes.paper": [
            (1, 6, "title", "not valid UTF-8", "\ufffd\ufffdge"),
            (2, 7, "year", "not a number", "three"),
            (3, 8, None, "ragged row", "d,text,4,x"),
            (5, 10, None, "ragged row", "f,graph,6,,train,more"),
        ],
        "edges.cites": [
            (1, 3, "src_id", "its node was left out", "b"),
            (3, 5, "src_id", "dangling edge", "d"),
            (4, 6, "weight", "not a number", "x"),
        ],
        "edges.writes": [
            (2, 4, "src_id", "end is no integer", "six"),
            (3, 5, "src_id", "no end", None),
        ],
    }
    manifest = PartitionManifest.load(path)
    assert {t.name: t.count for t in manifest.node_types} == {"paper": 3, "author": 3}
    assert {r.name: r.count for r in manifest.relations if not r.is_reverse} == {"cites": 1, "writes": 3}
    assert {key: value["rows"] for key, value in manifest.stats["quarantine"].items()} == {
        "nodes.paper": 7, "edges.cites": 5, "edges.writes": 5
    }  # fmt: skip


def test_ragged_rows_of_a_file_of_many_blocks_keep_their_numbers(tmp_path: Path) -> None:
    rows = [f"{i},{'x' * 90}" + ",more" * (i % 9_000 == 8_999) for i in range(40_000)]
    (tmp_path / "node.csv").write_text("\n".join(["id,text", *rows]) + "\n")
    (tmp_path / "link.csv").write_text("src_id,dst_id\n0,39999\n")
    (tmp_path / "graph.toml").write_text(
        '[nodes.node]\npath = "node.csv"\nid = "id"\ntext = "text"\n'
        '[edges.link]\npath = "link.csv"\nsource = "node"\ndestination = "node"\n'
    )
    options = BuildOptions(method="random", bad_rows="quarantine")
    path = build(str(tmp_path), options, store=str(tmp_path / "s"), say=quiet)
    table = pq.read_table(path / "quarantine/nodes.node.parquet").to_pydict()
    assert table["row"] == [8_999, 17_999, 26_999, 35_999]
    assert table["line"] == [row + 2 for row in table["row"]]
    assert PartitionManifest.load(path).node_type("node").count == 40_000 - 4


def test_a_quote_left_open_swallows_no_rows(tmp_path: Path) -> None:
    folder = csv_graph(tmp_path / "graph")
    path = folder / "tables/writes.csv"
    path.write_bytes(b'src_id,dst_id\n5,a\n6,"e\n7,e\n7,g\n"x,y\n')
    with pytest.raises(DataError, match=r"tables/writes\.csv \[edges\.writes\]: not readable as a table"):
        build(str(folder), BuildOptions(**OPTIONS), store=str(tmp_path / "s"), say=quiet)


@pytest.mark.parametrize("kind", ["string", "dictionary"])
def test_invalid_utf8_in_parquet_is_left_out(kind: str, tmp_path: Path) -> None:
    folder = write_graph(tmp_path / "graph", SMALL)
    path = folder / "tables/paper.parquet"
    raw = pa.array([b"ok", b"ok", None, b"\xffx"])
    broken = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
    broken = broken.dictionary_encode() if kind == "dictionary" else broken
    pq.write_table(pq.read_table(path).set_column(1, "title", broken), path)
    found = quarantined(build(str(folder), BuildOptions(**OPTIONS), store=str(tmp_path / "s"), say=quiet))
    assert found == [*D_GONE, papers(3, "title", "not valid UTF-8", "\ufffdx")]


def many(wrong: int) -> dict[str, Any]:
    """200 nodes, so many of which have no feature."""
    years = [NAN if row in range(10, 10 + wrong) else 1.0 for row in range(200)]
    return {
        "item": {"columns": {"id": list(range(200)), "year": years}, "keys": 'features = ["year"]'},
        "next": {"ends": ("item", "item"), "columns": {"src_id": [0], "dst_id": [1]}, "keys": ""},
    }


def test_a_table_over_the_cap_ends_the_build_with_its_first_rows(tmp_path: Path) -> None:
    options = BuildOptions(bad_rows="quarantine")
    two = write_graph(tmp_path / "two", many(2))
    build(str(two), options, store=str(tmp_path / "s"), say=quiet)
    four = write_graph(tmp_path / "four", many(4))
    with pytest.raises(DataError) as caught:
        build(str(four), options, store=str(tmp_path / "t"), say=quiet)
    told = "column 'year': a feature is NaN, infinite or too large for float32"
    rows = "; ".join(f"tables/item.parquet, row {row} (counting from 0), {told}" for row in (10, 11, 12))
    assert str(caught.value) == (
        "[nodes.item]: at least 4 of 200 rows are wrong, more than the 2 that bad_rows_cap = 0.01 lets be "
        f"left out; {rows} (mend the table, or raise the cap)"
    )
    assert caught.value.exit_code == 3
    assert [path.name for path in (tmp_path / "t").iterdir() if path.is_dir()] == []


def test_ragged_rows_count_towards_the_cap(tmp_path: Path) -> None:
    folder = csv_graph(tmp_path / "graph")
    options = BuildOptions(bad_rows="quarantine", bad_rows_cap=0.01)
    with pytest.raises(DataError, match=r"at least 2 of 7 rows.*row 3 .*, line 8: 4 cells instead of 5"):
        build(str(folder), options, store=str(tmp_path / "s"), say=quiet)


def test_the_default_ends_at_the_first_wrong_row(tmp_path: Path) -> None:
    folder = write_graph(tmp_path / "graph", with_cells(("paper", "year", 3, NAN)))
    with pytest.raises(DataError) as caught:
        build(str(folder), BuildOptions(), store=str(tmp_path / "s"), say=quiet)
    assert str(caught.value) == (
        "tables/paper.parquet, row 3 (counting from 0), column 'year': a feature is NaN, infinite or too "
        "large for float32 (replace it before)"
    )


def test_policy_and_cap_are_part_of_the_id_where_they_matter(small_graph: Path, tmp_path: Path) -> None:
    def made(**options: Any) -> PartitionManifest:
        path = build(str(small_graph), BuildOptions(**options), store=str(tmp_path / "s"), say=quiet)
        return PartitionManifest.load(path)

    fail, other, third = made(), made(bad_rows="quarantine"), made(bad_rows="quarantine", bad_rows_cap=0.5)
    assert len({fail.id, other.id, third.id}) == 3
    assert made(bad_rows_cap=0.5).id == fail.id
    assert "quarantine" not in fail.stats
    assert other.stats["quarantine"] == {}
    assert not [name for name in other.files if name.startswith("quarantine")]


@pytest.mark.parametrize(("options", "word"), [
    ({"bad_rows": "drop"}, "bad_rows = 'drop': expected fail or quarantine"),
    ({"bad_rows_cap": 0.0}, "bad_rows_cap = 0.0"),
    ({"bad_rows_cap": 2.0}, "bad_rows_cap = 2.0"),
])  # fmt: skip
def test_a_wrong_policy_is_refused(options: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        BuildOptions(**options)


def test_the_commands_say_what_was_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_graph(tmp_path / "graph", with_cells(("cites", "dst_id", 4, None)))
    build_it = ["build", str(folder), "--store", str(tmp_path / "s"), "--bad-rows", "quarantine", "--json"]
    told = "edges.cites: 1 of 5 rows left out (1 no end): quarantine/edges.cites.parquet"
    for _ in ("built", "found"):
        assert main(build_it) == 0
        output = capsys.readouterr()
        assert f"  {told}\n" in output.err
    path = json.loads(output.out.splitlines()[-1])["path"]
    assert main(["show", path]) == 0
    assert f"quarantine {told}\n" in capsys.readouterr().out
    assert "quarantine/edges.cites.parquet" in verify(path).files
    assert main(["verify", path, "--deep"]) == 0


def test_rows_left_out_are_never_those_of_another_partition(tmp_path: Path) -> None:
    """A partition with the same graph is linked to, but its quarantine is its own."""
    tables = with_cells(("cites", "dst_id", 4, None))
    clean = without(tables, {"cites": {4}})
    first = write_graph(tmp_path / "clean", clean)
    store = str(tmp_path / "s")
    build(str(first), BuildOptions(), store=store, say=quiet)
    lines: list[str] = []
    path = build(
        str(write_graph(tmp_path / "dirty", tables)), BuildOptions(**OPTIONS), store=store, say=lines.append
    )
    assert PartitionManifest.load(path).reuse.how == "kept"
    assert quarantined(path) == [cites(4, "dst_id", "no end", None)]
