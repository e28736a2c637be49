"""`lmgnn check`: counts against sums by hand, warnings with a way out, errors of data and plans."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy import build_partition, write_graph, write_lm

from partition.errors import DataError, UsageError
from partition.manifest import PartitionManifest
from partition.request import GRAPH_FILE
from partition.storage import InputFolder
from partition.tables import load_tables, table_files
from pipeline.start.check import main
from pipeline.start.facts import as_manifest
from pipeline.start.init import read_schema
from pipeline.targets import read_texts

GRAPH = """
[nodes.paper]
path = "paper.parquet"
text = "text"
label = "label"
split = "split"
[nodes.lonely]
path = "lonely.parquet"
[edges.cites]
path = "cites.parquet"
source = "paper"
destination = "paper"
split = "split"
"""
PLAN = """
name = "p"
[graph]
path = "."
[tasks.label]
kind = "node_classification"
node_type = "paper"
[[stages]]
name = "warm"
kind = "gnn_warm"
task = "label"
epochs = 2
batch_size = 1
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five papers and five citations with something odd of every kind."""
    paper = {
        "id": [0, 1, 2, 3, 4],
        "text": ["one two three", "four", "  ", None, "five six"],
        "label": ["a", "a", "b", "c", None],
        "split": ["train", "train", "valid", "test", "train"],
    }
    cites = {
        "src_id": [0, 0, 1, 2, 0],
        "dst_id": [1, 1, 1, 3, 1],
        "split": ["train", "train", "train", "valid", "test"],
    }
    pq.write_table(pa.table(paper), tmp_path / "paper.parquet")
    pq.write_table(pa.table({"id": [7, 8]}), tmp_path / "lonely.parquet")
    pq.write_table(pa.table(cites), tmp_path / "cites.parquet")
    (tmp_path / GRAPH_FILE).write_text(GRAPH)
    (tmp_path / "plan.toml").write_text(PLAN)
    return tmp_path


def answer(capsys: pytest.CaptureFixture[str], what: Path) -> dict[str, Any]:
    assert main([str(what), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_counts_are_those_of_the_tables(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = answer(capsys, folder)["graph"]
    paper, lonely = graph["nodes"]
    assert (paper["rows"], paper["with_text"], paper["mean_words"], paper["isolated"]) == (5, 3, 2.0, 1)
    assert paper["labels"]["training"] == {"a": 2, "b": 0, "c": 0}
    assert paper["labels"]["targets"] == {"train": 2, "valid": 1, "test": 1}
    assert (lonely["with_text"], lonely["isolated"]) == (None, 2)
    (cites,) = graph["edges"]
    assert (cites["duplicates"], cites["self_loops"], cites["leaks"]) == (2, 1, 1)
    assert cites["splits"] == {"train": 3, "valid": 1, "test": 1}


@pytest.mark.parametrize(
    "warning",
    [
        "2 of 5 texts are blank",
        "2 of 2 nodes have no edge",
        "2 of 3 classes have no training target (b, c)",
        "1 validation or test edges join ends that a message edge joins too",
        "1 edges join a node with itself",
    ],
)
def test_what_is_odd_is_said(folder: Path, capsys: pytest.CaptureFixture[str], warning: str) -> None:
    assert main([str(folder)]) == 0
    assert warning in capsys.readouterr().out


def test_a_plan_tells_what_each_task_and_stage_uses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task, stage = answer(capsys, folder / "plan.toml")["plan"]
    assert (task["name"], task["train"], task["valid"], task["test"]) == ("label", 2, 1, 1)
    assert (stage["name"], stage["train"], stage["steps"]) == ("warm", 2, 2)


def test_a_key_of_the_plan_is_changed_as_run_changes_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder / "plan.toml"), "--json", "--set", "stages.warm.epochs=5"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"][1]["steps"] == 5
    with pytest.raises(UsageError, match="is no plan"):
        main([str(folder), "--set", "stages.warm.epochs=5"])


def rewrite(folder: Path, table: str, *without: str) -> None:
    """A table without some columns, and graph.toml without the keys that named them."""
    path = folder / f"{table}.parquet"
    pq.write_table(pq.read_table(path).drop_columns(list(without)), path)
    head, named, tail = (folder / GRAPH_FILE).read_text().partition(f'path = "{table}.parquet"\n')
    keys, bracket, rest = tail.partition("[")
    kept = [line for line in keys.splitlines(keepends=True) if line.split(" = ")[0] not in without]
    (folder / GRAPH_FILE).write_text(head + named + "".join(kept) + bracket + rest)


def test_labels_without_a_split_are_told_what_draws_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(folder, "paper", "split")
    (warning,) = [w for w in answer(capsys, folder)["graph"]["warnings"] if "without a split" in w]
    assert warning.startswith("[nodes.paper]")
    assert "`lmgnn init FOLDER --split 80,10,10`" in warning


def test_a_graph_without_labels_and_splits_is_told_what_draws_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(folder, "paper", "label", "split")
    assert not [w for w in answer(capsys, folder)["graph"]["warnings"] if "--split" in w]
    rewrite(folder, "cites", "split")
    (warning,) = [w for w in answer(capsys, folder)["graph"]["warnings"] if "--split" in w]
    assert "nothing can be trained yet" in warning


def test_few_nodes_to_draw_candidates_from_are_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = pa.table(
        {"id": list(range(50)), "text": ["a"] * 50, "label": ["a"] * 50, "split": ["train"] * 50}
    )
    pq.write_table(tables, folder / "paper.parquet")
    plan = folder / "plan.toml"
    for negatives, said in ((6, True), (5, False)):
        task = f'[tasks.label]\nrelations = ["cites"]\neval_negatives = {negatives}\n'
        plan.write_text(re.sub(r"(?s)\[tasks\.label\].*?(?=\[\[)", task, PLAN))
        warnings = answer(capsys, plan)["graph"]["warnings"]
        assert any("drawn from 50 paper nodes: lower eval_negatives to 5" in w for w in warnings) is said


def test_a_plan_that_asks_for_what_is_not_there_is_a_usage_error(folder: Path) -> None:
    plan = folder / "plan.toml"
    plan.write_text(PLAN.replace('"paper"', '"papers"'))
    with pytest.raises(UsageError, match=r"tasks\.label\.node_type"):
        main([str(plan)])


def test_a_dangling_edge_is_a_data_error(folder: Path) -> None:
    cites = {"src_id": [0], "dst_id": [99], "split": ["train"]}
    pq.write_table(pa.table(cites), folder / "cites.parquet")
    with pytest.raises(DataError, match="99"):
        main([str(folder / GRAPH_FILE)])


def test_a_dangling_edge_that_a_build_leaves_out_is_a_warning(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cites = pq.read_table(folder / "cites.parquet")
    more = pa.table({"src_id": [0], "dst_id": [99], "split": ["train"]}).cast(cites.schema)
    pq.write_table(pa.concat_tables([cites, more]), folder / "cites.parquet")
    with pytest.raises(DataError, match="99"):
        main([str(folder / "plan.toml")])
    assert main([str(folder / "plan.toml"), "--json", "--set", "partition.bad_rows=quarantine"]) == 0
    told = " ".join(json.loads(capsys.readouterr().out)["graph"]["warnings"])
    rows = cites.num_rows + 1
    assert f"edges.cites: 1 of {rows} rows left out (1 dangling edge)" in told


def test_a_place_without_a_graph_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        main([str(tmp_path / "nowhere")])
    with pytest.raises(DataError, match=GRAPH_FILE):
        main([str(tmp_path)])


def test_types_and_relations_are_those_of_a_real_partition(tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "graph")
    real = PartitionManifest.load(
        build_partition(graph, write_lm(tmp_path / "lm"), tmp_path / "store", hosts=1, trainers=1)
    )
    inputs = InputFolder(str(graph))
    schema = read_schema(inputs.file(GRAPH_FILE))
    mine = as_manifest(load_tables(schema, table_files(schema, inputs)), schema, reverse=True)
    assert mine.relations == real.relations
    facts = [(t.name, t.count, t.text, t.feature_width, t.classes, t.targets) for t in mine.node_types]
    assert facts == [
        (t.name, t.count, t.text, t.feature_width, t.classes, t.targets) for t in real.node_types
    ]


def test_texts_and_edges_that_stages_hold_out_are_not_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph, lm = write_graph(tmp_path / "graph"), write_lm(tmp_path / "lm")
    folder = build_partition(graph, lm, tmp_path / "store", hosts=2, trainers=2)
    real = PartitionManifest.load(folder)
    (tmp_path / "plan.toml").write_text(
        PLAN.replace('path = "."', 'path = "graph"') + '[[stages]]\nname = "mlm"\nkind = "mlm"\n'
    )
    _, _, mlm = answer(capsys, tmp_path / "plan.toml")["plan"]
    parts = [len(read_texts(real, part=part, split="train")) for part in range(4)]
    assert mlm["train"] == sum(parts) < 240


def test_a_plan_s_graph_is_looked_for_in_the_checkout_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkout = Path(__file__).resolve().parents[3]
    (tmp_path / "plan.toml").write_text(
        'name = "far"\n[graph]\npath = "examples/python_packages"\n[tasks.uses]\nrelations = ["uses"]\n'
        '[[stages]]\nname = "warm"\nkind = "gnn_warm"\ntask = "uses"\n'
    )
    with pytest.raises(DataError, match=re.escape(str(checkout / "examples" / "python_packages"))):
        main([str(tmp_path / "plan.toml")])
