"""`partition build --dry-run` beside the real build: rows, methods, disk, reuse, refusals."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from collections import namedtuple
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from partition_foreseen import command, foreseen, made, told
from partition_graphs import SMALL, communities, write_graph
from partition_remotes import files_of, quiet
from s3_server import FaultyS3

from partition.__main__ import main
from partition.build import BuildOptions, build
from partition.refusals import DISK_FACTOR

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that headers of files count for little."""
    return write_graph(tmp_path_factory.mktemp("large") / "graph", communities(groups=100))


@pytest.mark.parametrize("hosts", [1, 4])
@pytest.mark.parametrize("texts", [True, False])
def test_the_forecast_is_like_the_build(
    hosts: int, texts: bool, graph: Path, tmp_path: Path, tokenizer: str
) -> None:
    options = {"hosts": hosts, "trainers": 2, "tokenizer": tokenizer if texts else ""}
    run = foreseen(graph, tmp_path, **options)
    found = told(run)
    assert not os.listdir(tmp_path)
    manifest = made(graph, tmp_path, **options)
    assert run.id == manifest.id
    assert run.refusals == ()
    rows = {t.name: t.count for t in manifest.node_types}
    assert {t.name.removeprefix("nodes."): t.rows for t in found.nodes} == rows
    assert {r.table.name: r.table.rows for r in found.relations} == {
        "edges.cites": 16000,
        "edges.writes": 4000,
    }
    assert all(table.exact for table in found.tables)
    stored = sum(relation.count for relation in manifest.relations)
    assert found.sizes.stored_edges == pytest.approx(stored, rel=0.05)
    size = sum(info.size for info in manifest.files.values())
    assert size / DISK_FACTOR < found.disk_bytes < size * DISK_FACTOR
    methods = [(c["level"], c["method"]) for c in manifest.stats["methods"]]
    assert [(level.level, level.method) for level in found.levels] == methods
    tokens = sum(t.tokens for t in manifest.node_types)
    assert sum(t.count for t in found.tokens.values()) == pytest.approx(tokens, rel=0.1)


def test_rows_of_a_small_csv_table_are_exact_and_of_a_large_one_close(tmp_path: Path) -> None:
    rng = random.Random(0)
    ids = [f"node number {i}" for i in range(200_000)]
    tables: dict[str, Any] = {
        "paper": {
            "columns": {"id": ids, "title": ["word " * rng.randrange(40) for _ in ids]},
            "keys": 'text = "title"',
        },
        "author": {"columns": {"id": [3, 1, 2]}, "keys": ""},
        "writes": {"ends": ("author", "paper"), "columns": {"src_id": [3], "dst_id": [ids[5]]}, "keys": ""},
    }
    found = told(foreseen(write_graph(tmp_path / "graph", tables, suffix="csv"), tmp_path / "store"))
    rows = {table.name: (table.rows, table.exact, table.ids) for table in found.tables}
    assert rows["nodes.author"] == (3, True, "integers")
    assert rows["edges.writes"] == (1, True, "integers")
    count, exact, kind = rows["nodes.paper"]
    assert (exact, kind) == (False, "strings")
    assert count == pytest.approx(len(ids), rel=0.02)


def test_what_is_in_the_store_is_found_there(graph: Path, tmp_path: Path, s3: FaultyS3, bucket: str) -> None:
    assert not foreseen(graph, tmp_path, hosts=2).found
    made(graph, tmp_path, hosts=2)
    there = foreseen(graph, tmp_path, hosts=2)
    assert (there.found, there.told) == (True, None)
    store, cache = f"s3://{bucket}/kept", str(tmp_path / "cache")
    elsewhere = foreseen(graph, store, cache=cache, hosts=2)
    assert (elsewhere.found, elsewhere.place) == (False, f"{store}/{there.id}")
    assert s3.keys(bucket) == []
    assert not Path(cache).exists()
    build(str(graph), BuildOptions(hosts=2), store=store, say=quiet, cache=cache)
    assert foreseen(graph, store, cache=cache, hosts=2).found


def test_without_reuse_a_partition_with_a_parent_does_not_count(graph: Path, tmp_path: Path) -> None:
    made(graph, tmp_path, hosts=2)
    child = made(graph, tmp_path, hosts=4)
    assert child.reuse.how == "regrouped" or not child.parent
    run = foreseen(graph, tmp_path, hosts=4, reuse=False)
    assert (run.found, run.id == child.id) == (not child.parent, not child.parent)


REUSES: Mapping[str, tuple[dict[str, Any], str, bool]] = {
    "the same tables, other texts": ({"max_length": 8}, "kept", True),
    "other hosts": ({"hosts": 4, "cluster_size": 50}, "regrouped", True),
    "another seed": ({"seed": 1}, "", True),
}


@pytest.mark.parametrize("change", REUSES, ids=str)
def test_what_would_be_reused_is_what_is_reused(
    change: str, graph: Path, tmp_path: Path, tokenizer: str
) -> None:
    options, how, certain = REUSES[change]
    usual = {"hosts": 2, "tokenizer": tokenizer, "cluster_size": options.get("cluster_size", 500)}
    parent = made(graph, tmp_path, **usual)
    found = told(foreseen(graph, tmp_path, **{**usual, **options})).likely
    assert (found.how, found.certain) == (how, certain)
    assert found.tokens == (frozenset() if "max_length" in options else {"paper"})
    manifest = made(graph, tmp_path, **{**usual, **options})
    assert (manifest.reuse.how, manifest.parent) == (how, parent.id if how else "")


@pytest.mark.parametrize(("table", "how"), [("labels", "kept"), ("nodes", "extended"), ("many", "")])
def test_other_tables_may_be_reused(table: str, how: str, graph: Path, tmp_path: Path) -> None:
    made(graph, tmp_path / "store", hosts=2)
    tables = communities(groups=100)
    columns = tables["author"]["columns"] if table != "labels" else tables["paper"]["columns"]
    if table == "labels":
        columns["label"][:5] = [0, 1, 2, 0, 1]
    else:
        columns["id"] += list(range(10_000, 10_010 if table == "nodes" else 12_000))
    write_graph(tmp_path / "graph", tables)
    found = told(foreseen(tmp_path / "graph", tmp_path / "store", hosts=2)).likely
    assert (found.how, found.certain) == (how, not how)
    assert made(tmp_path / "graph", tmp_path / "store", hosts=2).reuse.how == how


def test_a_kept_cut_needs_no_room_for_what_is_linked(graph: Path, tmp_path: Path, tokenizer: str) -> None:
    afresh = told(foreseen(graph, tmp_path, tokenizer=tokenizer)).peak_disk
    made(graph, tmp_path)
    assert told(foreseen(graph, tmp_path, tokenizer=tokenizer)).peak_disk < afresh


def test_words_and_json_tell_the_same(
    graph: Path, tmp_path: Path, tokenizer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--hosts", "2", "--tokenizer", tokenizer]
    assert main(command(graph, tmp_path, *flags)) == 0
    words = capsys.readouterr().out
    assert main([*command(graph, tmp_path, *flags), "--json"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["tables"]["nodes.paper"] == {"rows": 4000, "exact": True, "ids": "strings"}
    for text in ("nodes.paper: 4,000 rows, strings as ids", "hosts cut by metis", f"partition {line['id']} "):
        assert text in words
    assert f"LM tokens of paper: about {line['tokens']['paper']['tokens']:,} (500 texts tried)" in words
    assert line["disk"]["host"] == pytest.approx(line["disk"]["partition"] / 2, abs=1)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_table_that_cannot_be_read_is_named(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_graph(tmp_path / "graph", SMALL, suffix=suffix)
    table = folder / f"tables/author.{suffix}"
    columns = {"number": pa.array([1])}
    if suffix == "csv":
        pa.csv.write_csv(pa.table(columns), table)
    else:
        pa.parquet.write_table(pa.table(columns), table)
    assert main(command(folder, tmp_path / "store")) == 3
    error = capsys.readouterr().err
    assert f"tables/author.{suffix} [nodes.author]: no column 'id'" in error
    table.write_bytes(b"")
    assert main(command(folder, tmp_path / "store")) == 3
    assert f"tables/author.{suffix} [nodes.author]: not readable as a table" in capsys.readouterr().err
    table.unlink()
    assert main(command(folder, tmp_path / "store")) == 3
    shutil.rmtree(folder)
    assert not files_of(tmp_path)


def test_what_is_wrong_with_cells_is_left_to_the_build(tmp_path: Path) -> None:
    tables = copy.deepcopy(SMALL)
    bytes_of = [None, b"ok", b"\xff\xfe", b"ok"]
    raw = pa.array(bytes_of, pa.binary())
    tables["paper"]["columns"]["title"] = pa.Array.from_buffers(pa.string(), 4, raw.buffers())
    tables["paper"]["columns"]["year"] = [{"a": 1}, None, None, None]
    tables["cites"]["columns"]["split"] = [1, 2, 3, 4, None]
    found = told(foreseen(write_graph(tmp_path / "graph", tables), tmp_path / "store"))
    assert [table.rows for table in found.tables] == [4, 3, 5, 4]


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_every_kind_of_column_is_foreseen(suffix: str, tmp_path: Path) -> None:
    found = told(foreseen(write_graph(tmp_path / "graph", SMALL, suffix=suffix), tmp_path / "store"))
    tables = {table.name: table for table in found.tables}
    assert (tables["nodes.paper"].features, tables["edges.cites"].features) == (1, 1)
    assert tables["nodes.paper"].targets == pytest.approx(3 / 4)
    assert tables["edges.cites"].held_out == pytest.approx(2 / 5)
    assert found.sizes.stored_edges == pytest.approx(2 * (3 + 4))
