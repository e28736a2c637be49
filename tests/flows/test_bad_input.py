"""Bad input: one line that names the place and the way out, the right exit code, nothing half-written.

Through the real commands, over one small graph that is broken in one place per test.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from launch.__main__ import main as lmgnn
from partition.__main__ import main as partition

REPO = Path(__file__).resolve().parents[2]
SPLIT = ["train", "train", "train", "train", "valid", "valid", "test", "test"]
IDS = list(range(8))
AROUND = [*range(1, 8), 0]
RING = {"src_id": IDS, "dst_id": AROUND}
TABLES: dict[str, dict[str, list]] = {
    "paper": {"id": IDS, "title": [f"paper {i}" for i in IDS], "year": [1.5] * 8, "field": list("xy") * 4,
              "split": SPLIT},
    "author": {"id": [f"a{i}" for i in IDS], "rank": list("ab") * 4, "same": ["a"] * 8, "split": SPLIT},
    "venue": {"id": IDS, "rank": [0, 1] * 4},
    "cites": {**RING, "split": SPLIT},
    "reviews": {**RING, "split": SPLIT, "kind": ["a"] * 8},
    "knows": {key: [f"a{i}" for i in ids] for key, ids in RING.items()} | {"split": SPLIT},
    "no_train": {**RING, "split": [*["valid"] * 4, *["test"] * 4]},
    "no_valid": {**RING, "split": [*["train"] * 4, *["test"] * 4]},
    "no_test": {**RING, "split": [*["train"] * 4, *["valid"] * 4]},
    "one_train": {**RING, "split": ["train", *["valid"] * 3, *["test"] * 4]},
    "empty": {"src_id": pa.array([], pa.int64()), "dst_id": pa.array([], pa.int64()),
              "split": pa.array([], pa.string())},
}  # fmt: skip
COLUMNS = {
    "paper": 'text = "title"\nfeatures = ["year"]\nlabel = "field"\nsplit = "split"',
    "author": 'label = "same"\nsplit = "split"',
    "venue": 'label = "rank"',
    "reviews": 'label = "kind"',
}
"""Other columns than ids and the relations' splits."""


def write_graph(folder: Path, tables: dict[str, dict[str, list]]) -> None:
    folder.mkdir()
    lines = []
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
        if "src_id" in TABLES[name]:
            end = "author" if name == "knows" else "paper"
            lines += [f"[edges.{name}]", f'source = "{end}"', f'destination = "{end}"', 'split = "split"']
        else:
            lines.append(f"[nodes.{name}]")
        lines += [f'path = "{name}.parquet"', COLUMNS.get(name, "")]
    (folder / "graph.toml").write_text("\n".join(lines) + "\n")


Break = Callable[[Path], None]
"""Breaks the graph in a folder."""


def column(table: str, name: str, values: object) -> Break:
    def change(folder: Path) -> None:
        path = folder / f"{table}.parquet"
        columns = {**dict(zip(TABLES[table], pq.read_table(path).columns, strict=True)), name: values}
        pq.write_table(pa.table({key: column for key, column in columns.items() if column is not None}), path)

    return change


def cell(table: str, name: str, row: int, value: object) -> Break:
    return column(table, name, [*TABLES[table][name][:row], value, *TABLES[table][name][row + 1 :]])


def toml(old: str, new: str) -> Break:
    def change(folder: Path) -> None:
        text = (folder / "graph.toml").read_text()
        assert old in text
        (folder / "graph.toml").write_text(text.replace(old, new, 1))

    return change


def file(name: str, content: bytes) -> Break:
    """Replace a file; of a CSV file, let graph.toml name it instead of the Parquet file."""

    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)
        if name.endswith(".csv"):
            toml(name.replace(".csv", ".parquet"), name)(folder)

    return change


def torn(folder: Path) -> None:
    path = folder / "paper.parquet"
    path.write_bytes(path.read_bytes()[:-30])


def bad_page(folder: Path) -> None:
    path = folder / "paper.parquet"
    path.write_bytes(path.read_bytes()[:4] + bytes(60) + path.read_bytes()[64:])


def bad_utf8(folder: Path) -> None:
    raw = pa.array([b"ok"] * 3 + [b"\xff\xfe"] + [b"ok"] * 4)
    column("paper", "title", pa.Array.from_buffers(pa.string(), 8, raw.buffers()))(folder)


def twice(folder: Path) -> None:
    table = pq.read_table(folder / "venue.parquet")
    pq.write_table(table.append_column("id", table["id"]), folder / "venue.parquet")


PAPER, CITES = "paper.parquet, row 3 (", "cites.parquet, row 3 ("
GRAPHS: dict[str, tuple[Break, int, tuple[str, ...]]] = {
    "no graph.toml": (lambda f: (f / "graph.toml").unlink(), 3, ("graph.toml: no such file", "looked in /")),
    "TOML syntax": (toml("[nodes.paper]", "[nodes.paper"), 2, ("graph/graph.toml: not TOML", "line 1")),
    "unknown key": (toml("label", "lable"), 2, ("graph.toml: [nodes.paper]", "'lable'", "mean 'label'?")),
    "relation twice": (toml("[edges.knows]", "[edges.cites]"), 2, ("graph.toml", "edges", "cites", "twice")),
    "unknown protocol": (toml("cites.parquet", "s4://b/c.parquet"), 2, ("'s4://b/c.parquet'", "s4")),
    "no such table": (toml("cites.parquet", "sites.parquet"), 3, ("sites.parquet: no such file",)),
    "empty glob": (toml("cites.parquet", "c-*.parquet"), 3, ("[edges.cites]", "no file matches 'c-*")),
    "missing column": (column("paper", "title", None), 3, ("paper.parquet [nodes.", "no column 'title'")),
    "column twice": (twice, 3, ("venue.parquet [nodes.venue]", "2 columns", "'id'", "rename")),
    "null id": (cell("paper", "id", 3, None), 3, (PAPER, "'id'", "no id", "leave the row out")),
    "duplicate id": (cell("paper", "id", 3, 2), 3, (PAPER, "'id'", "the id 2 occurs twice", "leave one")),
    "id float": (column("paper", "id", [0.5] * 8), 3, ("paper.parquet", "'id'", "double", "convert it")),
    "dangling id": (cell("cites", "dst_id", 3, 99), 3, (CITES, "'dst_id'", "99", "dangling", "add the node")),
    "label range": (column("paper", "field", [0, 1, 1, -7] * 2), 3, (PAPER, "'field'", "-7", "out of range")),
    "class": (toml('"field"', '"field"\nclasses = ["x"]'), 3, ("paper.parquet, row 1", "'y'", "classes")),
    "text number": (column("paper", "title", IDS), 3, ("paper.parquet", "'title'", "int64", "convert it")),
    "split number": (column("cites", "split", IDS), 3, ("cites.parquet", "'split'", "int64", "train, valid")),
    "feature string": (column("paper", "year", list("abcdefgh")), 3, ("paper.parquet", "'year'", "string")),
    "feature NaN": (cell("paper", "year", 3, float("nan")), 3, (PAPER, "'year'", "NaN", "replace it")),
    "invalid UTF-8": (bad_utf8, 3, (PAPER, "'title'", "UTF-8")),
    "CSV feature": (file("paper.csv", b"id,title,year,field,split\n0,a,1_0,,\n"), 3, ("csv, row 0", "'1_0'")),
    "CSV header": (file("venue.csv", b"id,rank,\xff\n0,0,0\n"), 3, ("venue.csv", "header", "UTF-8")),
    "ragged CSV": (file("venue.csv", b"id,rank\n0,0\n1\n"), 3, ("venue.csv", "Row #3", "2 columns, got 1")),
    "empty CSV": (file("venue.csv", b""), 3, ("venue.csv", "Empty CSV", "header line")),
    "empty Parquet": (file("paper.parquet", b""), 3, ("paper.parquet", "0 bytes", "write the file again")),
    "truncated Parquet": (torn, 3, ("paper.parquet", "not readable as a table", "write the file again")),
    "torn page": (bad_page, 3, ("paper.parquet", "not readable as a table", "write the file again")),
}  # fmt: skip


def error_line(said: str) -> str:
    """The one line that tells what is wrong."""
    assert "Traceback" not in said
    (line,) = (line for line in said.splitlines() if "error:" in line)
    assert said.rstrip().endswith(line)
    return line


def left_in(store: Path) -> list[str]:
    """Partitions and halves of them; a lock file is neither."""
    return [path.name for path in store.glob("*") if path.is_dir()]


@pytest.mark.parametrize(("change", "code", "words"), GRAPHS.values(), ids=GRAPHS.keys())
def test_a_broken_graph_is_refused_before_anything_is_written(
    change: Break, code: int, words: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_graph(tmp_path / "graph", TABLES)
    change(tmp_path / "graph")
    assert partition(["build", str(tmp_path / "graph"), "--store", str(tmp_path / "store")]) == code
    line = error_line(capfd.readouterr().err)
    for word in words:
        assert word in line
    assert left_in(tmp_path / "store") == []


CONFIG = json.dumps({"max_position_embeddings": 40})
ROBERTA = json.dumps({"max_position_embeddings": 42, "model_type": "roberta", "pad_token_id": 1})
SHARDS = json.dumps({"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}})
MODELS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "no weights": ({"config.json": CONFIG}, ("holds no weights", "model.safetensors")),
    "torn weights": ({"config.json": CONFIG, "model.safetensors": "version https://git-lfs"}, ("not whole",)),
    "missing shard": ({"config.json": CONFIG, "model.safetensors.index.json": SHARDS}, ("not whole", "1-of")),
    "empty weights": ({"config.json": CONFIG, "pytorch_model.bin": ""}, ("not whole", "is empty")),
    "few positions": ({"config.json": CONFIG}, ("max_length = 41", "40 positions", "model.max_length to 40")),
    "kept positions": ({"config.json": ROBERTA}, ("max_length = 41", "40 positions", "max_length to 40")),
    "broken config": ({"config.json": "{"}, ("config.json",)),
    "no tokenizer": ({}, ("holds no tokenizer",)),
}  # fmt: skip


@pytest.mark.parametrize("case", MODELS)
def test_a_model_folder_that_cannot_serve_is_refused_by_the_partitioner(
    case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files, words = MODELS[case]
    write_graph(tmp_path / "graph", TABLES)
    (tmp_path / "lm").mkdir()
    for name, text in files.items():
        (tmp_path / "lm" / name).write_text(text)
    length = "41" if case in ("few positions", "kept positions") else "40"
    store, flags = tmp_path / "store", ["--tokenizer", str(tmp_path / "lm"), "--max-length", length]
    assert partition(["build", str(tmp_path / "graph"), "--store", str(store), *flags]) == 2
    line = error_line(capfd.readouterr().err)
    for word in (str(tmp_path / "lm"), *words):
        assert word in line
    assert left_in(store) == []


PLAN = """
name = "bad"
[graph]
path = "graph"
[partition]
store = "STORE"
[tasks.t]
relations = ["cites"]
[[stages]]
name = "s"
kind = "joint"
task = "t"
"""
PLANS = {
    "TOML syntax": ("[graph]", "[graph", ("line 3",)),
    "TOML table twice": ("[tasks.t]", "[graph]\n[tasks.t]", ("graph", "twice")),
    "unknown key": ("relations", "relation", ("tasks.t.relation: unknown key", "mean 'relations'?")),
    "unknown task kind": (
        "relations",
        'kind = "link"\nrelations',
        ("tasks.t.kind = 'link'", "link_prediction or"),
    ),
    "unknown stage kind": ('"joint"', '"jiont"', ("stages.s.kind = 'jiont'", "gnn_warm, joint")),
    "unknown task": ('task = "t"', 'task = "tt"', ("stages.s.task = 'tt'", "did you mean 't'?")),
    "task's relation twice": ('["cites"]', '["cites", "cites"]', ("tasks.t.relations", "once")),
    "graph's relation twice": ('"graph"', '"graph"\nrelations = ["a", "a"]', ("graph.relations", "once")),
    "not a number": ('task = "t"', 'task = "t"\nrate = nan', ("stages[0].rate = nan", "finite")),
}


@pytest.mark.parametrize(("old", "new", "words"), PLANS.values(), ids=PLANS.keys())
def test_a_broken_plan_is_refused_without_a_run_folder(
    old: str, new: str, words: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert old in PLAN
    (tmp_path / "plan.toml").write_text(PLAN.replace(old, new, 1))
    run = tmp_path / "run"
    assert lmgnn(["run", "--config", str(tmp_path / "plan.toml"), "--run-dir", str(run)]) == 2
    line = error_line(capfd.readouterr().err)
    for word in ("plan.toml: ", *words):
        assert word in line
    assert not run.exists()


def test_a_missing_plan_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert lmgnn(["run", "--config", str(tmp_path / "none.toml")]) == 2
    assert f"{tmp_path}/none.toml: no such plan" in error_line(capfd.readouterr().err)


def run_job(
    folder: Path, plan: str, *flags: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, object]]:
    """(the ended command, its outcome.json)."""
    (folder / "plan.toml").write_text(plan)
    run = folder / "run"
    command = [sys.executable, "-P", "-m", "launch", "run", "--config", str(folder / "plan.toml"), "--json"]
    done = subprocess.run(
        [*command, "--run-dir", str(run), "--trainers-per-node", "2", *flags],
        env={**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert not (run / "launch.json").exists(), "servers and trainers were started"
    return done, json.loads((run / "outcome.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph without a fault; its partition is built by the first test and found by the others."""
    folder = tmp_path_factory.mktemp("whole")
    write_graph(folder / "graph", TABLES)
    return folder


LINKS, TASK, TEXT = 'relations = ["{}"]', 'kind = "joint"\ntask = "t"', 'kind = "graph_lm"\ntask = "t"'
NODES = 'kind = "node_classification"\nnode_type = "{}"'
EDGES = 'kind = "edge_classification"\nrelations = ["{}"]'
MISFITS = {
    "no such relation": (LINKS.format("sites"), TASK, ("tasks.t.relations", "'sites'", "cites")),
    "no train": (LINKS.format("no_train"), TASK, ("tasks.t.relations", "no training edges", "split column")),
    "no valid": (LINKS.format("no_valid"), TASK, ("tasks.t.relations", "no valid edges", "split column")),
    "no test": (LINKS.format("no_test"), TASK, ("tasks.t.relations", "no test edges", "split column")),
    "empty table": (LINKS.format("empty"), TASK, ("tasks.t.relations", "'empty'", "no training edges")),
    "few targets": (LINKS.format("one_train"), TASK, ("1 training edges", "2 trainers", "start fewer")),
    "graph_lm without text": (LINKS.format("knows"), TEXT, ("stages.s", "'author' has no text")),
    "nodes without split": (NODES.format("venue"), TASK, ("tasks.t", "'venue'", "no training nodes")),
    "edges without labels": (EDGES.format("cites"), TASK, ("tasks.t.relations", "no labels", "label =")),
    "one class of nodes": (NODES.format("author"), TASK, ("tasks.t", "'author'", "one class", "two or more")),
    "one class of edges": (EDGES.format("reviews"), TASK, ("tasks.t.relations", "one class", "two or more")),
}  # fmt: skip


@pytest.mark.parametrize(("task", "stage", "words"), MISFITS.values(), ids=MISFITS.keys())
def test_a_plan_that_does_not_fit_its_graph_is_refused_before_a_trainer_starts(
    task: str, stage: str, words: tuple[str, ...], whole: Path, tmp_path: Path
) -> None:
    plan = PLAN.replace('"graph"', json.dumps(str(whole / "graph"))).replace("STORE", str(whole / "store"))
    plan = plan.replace('relations = ["cites"]', task).replace(TASK, stage)
    done, outcome = run_job(tmp_path, plan)
    assert (done.returncode, outcome["exit_code"]) == (2, 2)
    line = error_line(done.stderr)
    for word in words:
        assert word in line
        assert word in str(outcome["message"])


def tokenizer_alone(folder: Path) -> None:
    (folder.parent / "lm").mkdir()
    (folder.parent / "lm" / "vocab.txt").write_text("[PAD]\n")


STEPS: dict[str, tuple[Break, str, int, str]] = {
    "data": (cell("paper", "id", 3, None), "", 3, "paper.parquet, row 3"),
    "model folder": (lambda _: None, "model.lm=/no/such/model", 2, "/no/such/model"),
    "tokenizer alone": (tokenizer_alone, "model.lm=FOLDER/lm", 2, "holds no model (config.json is missing)"),
    "hub name": (lambda _: None, "model.lm=nobody/no-such-model", 13, "nobody/no-such-model"),
}


@pytest.mark.parametrize(("change", "override", "code", "word"), STEPS.values(), ids=STEPS.keys())
def test_what_the_partitioner_refuses_becomes_the_exit_code_of_the_run(
    change: Break, override: str, code: int, word: str, tmp_path: Path
) -> None:
    write_graph(tmp_path / "graph", TABLES)
    change(tmp_path / "graph")
    plan = PLAN.replace("STORE", str(tmp_path / "store"))
    done, outcome = run_job(
        tmp_path, plan, *(["--set", override.replace("FOLDER", str(tmp_path))] if override else [])
    )
    assert (done.returncode, outcome["exit_code"]) == (code, code)
    assert word in error_line(done.stderr)
    assert word in str(outcome["message"])
    assert left_in(tmp_path / "store") == []
