"""Answers of a finished run against formulas written out, from files as a run leaves them."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn
from toy import plan_of

from pipeline.__main__ import main
from pipeline.classes import ClassHead
from pipeline.config import TrainPlan
from pipeline.statefiles import save_tensors
from pipeline.tasks import LinkHead

WIDTH, PAPERS, AUTHORS = 16, 300, 40
CLASSES = ("art", "biology", "chess")
TASKS = {
    "topic": {"kind": "node_classification", "node_type": "paper"},
    "tone": {"kind": "edge_classification", "relations": ["cites"]},
    "links": {"relations": ["cites", "writes"], "scorer": "distmult"},
}
ENDS = {"cites": ("paper", "paper"), "writes": ("author", "paper")}
COLUMNS = {"cites": ("citing work", "cited work"), "writes": ("src_id", "dst_id")}
ID_COLUMNS = {"paper": "work no", "author": "id"}
"""As graph.toml named them."""
NAMES = {"paper": [f"paper-{i}" for i in range(PAPERS)], "author": [str(i) for i in range(AUTHORS)]}
PREDICTED = {"id": ["paper-0"], "predicted": ["art"], "probability": [0.5], "label": [None], "split": [None]}


def head_of(plan: TrainPlan, task: str) -> nn.Module:
    of, torch_seed = plan.tasks[task], 3
    torch.manual_seed(torch_seed)
    links = of.kind == "link_prediction"
    head = LinkHead(of, of.relations, WIDTH) if links else ClassHead(of, CLASSES, WIDTH)
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    return head


def write_export(run: Path, plan: TrainPlan, task: str, vectors: dict[str, np.ndarray]) -> None:
    """What export.py writes, each type in two parts."""
    folder, of = run / "export" / task, plan.tasks[task]
    for name, rows in vectors.items():
        (folder / "embeddings" / name).mkdir(parents=True)
        for part, here in enumerate((slice(0, len(rows) // 3), slice(len(rows) // 3, None))):
            values = pa.FixedSizeListArray.from_arrays(pa.array(rows[here].ravel()), WIDTH)
            table = pa.table({"id": pa.array(NAMES[name][here], pa.large_string()), "embedding": values})
            pq.write_table(table, folder / "embeddings" / name / f"part-{part}.parquet")
    (folder / "predictions").mkdir()
    pq.write_table(pa.table(PREDICTED), folder / "predictions" / "part-0.parquet")
    save_tensors(folder / "head.safetensors", head_of(plan, task).state_dict())
    classes = CLASSES if of.kind != "link_prediction" else ()
    told = {"task": task, "plan": asdict(of), "width": WIDTH, "classes": classes}
    ends, columns = ({name: table[name] for name in of.relations} for table in (ENDS, COLUMNS))
    told |= {"ends": ends, "columns": columns, "ids": ID_COLUMNS}
    (folder / "task.json").write_text(json.dumps(told))


@pytest.fixture(scope="module")
def vectors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(len(ids), WIDTH)).astype("float32") for name, ids in NAMES.items()}


@pytest.fixture(scope="module")
def plan() -> TrainPlan:
    stages = [{"name": task, "kind": "gnn_warm", "task": task} for task in TASKS]
    return plan_of(Path("graph"), Path("lm"), tasks=TASKS, stages=stages)


@pytest.fixture(scope="module")
def run(plan: TrainPlan, vectors: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run folder."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "plan.json").write_text(plan.to_json())
    (folder / "metrics.json").write_text(json.dumps({"tasks": {task: {"test": 0.5} for task in TASKS}}))
    for task in TASKS:
        write_export(folder, plan, task, vectors)
    return folder


def predict(run: Path, output: Path, *arguments: str) -> dict[str, list]:
    assert main(["predict", str(run), *arguments, "--output", str(output)]) == 0
    return pq.read_table(output).to_pydict()


def row(vectors: dict[str, np.ndarray], node_type: str, name: str) -> np.ndarray:
    return vectors[node_type][NAMES[node_type].index(name)]


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum()


def test_a_node_gets_its_likeliest_class(run, plan, vectors, tmp_path):
    found = predict(
        run, tmp_path / "a.parquet", "--task", "topic", "--ids", "paper-7", "paper-299", "paper-7"
    )
    weights = {name: value.numpy() for name, value in head_of(plan, "topic").state_dict().items()}
    assert found["id"] == ["paper-7", "paper-299", "paper-7"]
    for name, predicted, probability in zip(*found.values(), strict=True):
        expected = softmax(weights["decode.weight"] @ row(vectors, "paper", name) + weights["decode.bias"])
        assert predicted == CLASSES[expected.argmax()]
        assert probability == pytest.approx(expected.max(), abs=1e-6)


def test_top_gives_the_best_classes_in_order(run, plan, vectors, tmp_path):
    found = predict(run, tmp_path / "a.parquet", "--task", "topic", "--ids", "paper-7", "--top", "9")
    weights = {name: value.numpy() for name, value in head_of(plan, "topic").state_dict().items()}
    expected = softmax(weights["decode.weight"] @ row(vectors, "paper", "paper-7") + weights["decode.bias"])
    assert found["rank"] == [1, 2, 3]
    assert found["predicted"] == [CLASSES[c] for c in np.argsort(-expected)]
    assert found["probability"] == pytest.approx(sorted(expected, reverse=True), abs=1e-6)


@pytest.mark.parametrize(
    "columns",
    [
        ("src_id", "dst_id"),
        ("source", "destination"),
        ("source_id", "destination_id"),
        ("citing work", "cited work"),
    ],
)
def test_edges_get_the_class_of_both_ends(run, plan, vectors, tmp_path, columns):
    pairs = [("paper-1", "paper-250"), ("paper-250", "paper-1")]
    given = pa.table(dict(zip(columns, map(list, zip(*pairs, strict=True)), strict=True)))
    pyarrow.csv.write_csv(given, tmp_path / "pairs.csv")
    found = predict(run, tmp_path / "a.parquet", "--task", "tone", "--ids", str(tmp_path / "pairs.csv"))
    weights = {name: value.numpy() for name, value in head_of(plan, "tone").state_dict().items()}
    assert list(zip(found["source"], found["destination"], strict=True)) == pairs
    for (source, destination), predicted in zip(pairs, found["predicted"], strict=True):
        u, v = row(vectors, "paper", source), row(vectors, "paper", destination)
        hidden = weights["decode.0.weight"] @ np.concatenate([u, v, u * v]) + weights["decode.0.bias"]
        logits = weights["decode.2.weight"] @ np.maximum(hidden, 0) + weights["decode.2.bias"]
        assert predicted == CLASSES[logits.argmax()]


def link_scores(plan: TrainPlan, vectors: dict[str, np.ndarray], relation: str) -> np.ndarray:
    """Every source with every destination."""
    weights = {name: value.numpy() for name, value in head_of(plan, "links").state_dict().items()}
    heads, tails = (vectors[name] for name in ENDS[relation])
    return np.exp(weights["scale"]) * (heads * weights[f"diagonals.of {relation}"]) @ tails.T


def test_a_pair_is_scored_by_the_relation_asked_for(run, plan, vectors, tmp_path):
    arguments = ("--task", "links", "--relation", "writes", "--pairs", "3,paper-9", "39,paper-0")
    found = predict(run, tmp_path / "a.parquet", *arguments)
    expected = link_scores(plan, vectors, "writes")
    assert found["relation"] == ["writes", "writes"]
    assert found["score"] == pytest.approx([expected[3, 9], expected[39, 0]], rel=1e-5)


def test_the_best_destinations_are_those_of_a_full_sort_without_the_source_itself(
    run, plan, vectors, tmp_path
):
    pq.write_table(pa.table({"id": NAMES["paper"]}), tmp_path / "all.parquet")
    arguments = ("--task", "links", "--relation", "cites", "--ids", str(tmp_path / "all.parquet"))
    found = predict(run, tmp_path / "a.parquet", *arguments, "--top", "4")
    expected = link_scores(plan, vectors, "cites")
    np.fill_diagonal(expected, -np.inf)
    order = np.argsort(-expected, axis=1)[:, :4]
    assert found["source"] == [name for name in NAMES["paper"] for _ in range(4)]
    assert found["destination"] == [NAMES["paper"][i] for i in order.ravel()]
    assert found["rank"] == [1, 2, 3, 4] * PAPERS
    assert found["score"] == pytest.approx(np.take_along_axis(expected, order, 1).ravel(), rel=1e-4)


def test_more_destinations_than_there_are_give_all_others(run, tmp_path):
    arguments = ("--task", "links", "--relation", "cites", "--ids", "paper-5", "--top", "1000")
    found = predict(run, tmp_path / "a.parquet", *arguments)
    assert sorted(found["destination"]) == sorted(set(NAMES["paper"]) - {"paper-5"})


@pytest.mark.parametrize(("task", "key"), [("topic", "id"), ("links", "source")])
def test_a_table_of_nodes_is_read_by_the_column_that_graph_toml_names(run, tmp_path, task, key):
    rows = {"id": ["8", "9"], "text": ["a", "b"], "work no": ["paper-1", "paper-2"]}
    pq.write_table(pa.table(rows), tmp_path / "papers.parquet")
    more = ("--relation", "cites", "--top", "1") if task == "links" else ()
    arguments = ("--task", task, "--ids", str(tmp_path / "papers.parquet"), *more)
    assert predict(run, tmp_path / "a.parquet", *arguments)[key] == ["paper-1", "paper-2"]


def test_ids_may_come_from_standard_input(run, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("paper-3\npaper-2\n"))
    assert main(["predict", str(run), "--task", "topic", "--ids", "-", "--json"]) == 0
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == ["paper-3", "paper-2"]


def test_integer_ids_of_parquet_are_the_strings_of_the_export(run, tmp_path):
    pq.write_table(pa.table({"author": [2, 11], "paper": ["paper-1", "paper-2"]}), tmp_path / "p.parquet")
    arguments = ("--task", "links", "--relation", "writes", "--ids", str(tmp_path / "p.parquet"))
    assert predict(run, tmp_path / "a.parquet", *arguments)["source"] == ["2", "11"]


def test_without_ids_the_runs_own_predictions_are_given(run, tmp_path):
    assert predict(run, tmp_path / "a.parquet", "--task", "topic") == PREDICTED


def test_a_table_without_rows_gives_a_result_without_rows(run, tmp_path):
    (tmp_path / "none.csv").write_text("id\n")
    found = predict(run, tmp_path / "a.parquet", "--task", "topic", "--ids", str(tmp_path / "none.csv"))
    assert found == {"id": [], "predicted": [], "probability": []}


def test_what_is_printed_is_the_csv_that_is_written(run, tmp_path, capsys):
    arguments = ["predict", str(run), "--task", "topic", "--ids", "paper-1", "paper-2"]
    assert main(arguments) == 0
    printed = pyarrow.csv.read_csv(io.BytesIO(capsys.readouterr().out.encode()))
    assert main([*arguments, "--output", str(tmp_path / "a.csv")]) == 0
    assert pyarrow.csv.read_csv(tmp_path / "a.csv") == printed


def test_numbers_have_six_digits_for_people_and_all_in_parquet(run, tmp_path, capsys):
    arguments = ["--task", "links", "--relation", "cites", "--ids", "paper-5", "--top", "50"]
    whole = predict(run, tmp_path / "a.parquet", *arguments)["score"]
    assert pq.read_schema(tmp_path / "a.parquet").field("score").type == pa.float32()
    capsys.readouterr()
    assert main(["predict", str(run), *arguments]) == 0
    printed = [line.split(",")[-1] for line in capsys.readouterr().out.splitlines()[1:]]
    assert printed == [repr(float(f"{score:.6g}")) for score in whole]
    assert main(["predict", str(run), *arguments, "--json"]) == 0
    told = [json.loads(line)["score"] for line in capsys.readouterr().out.splitlines()]
    assert told == [float(text) for text in printed]


def test_a_failure_leaves_the_old_result_and_nothing_else(run, tmp_path):
    (tmp_path / "a.csv").write_text("old")
    arguments = ["--task", "topic", "--ids", "nobody", "--output", str(tmp_path / "a.csv")]
    assert main(["predict", str(run), *arguments]) == 3
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.csv", "old")]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ("--task topics", 2, "did you mean 'topic'"),
        ("", 2, "--task is one of topic, tone, links"),
        ("--task topic --ids paper-1 nobody", 3, "--ids: no paper node has the id 'nobody'"),
        (
            "--task topic --ids FOLDER/ids.csv",
            3,
            "ids.csv, row 1 (counting from 0), line 3, column 'id': no paper",
        ),
        (
            "--task topic --ids FOLDER/hole.csv",
            3,
            "hole.csv, row 1 (counting from 0), line 3, column 'id': the id is",
        ),
        ("--task topic --ids FOLDER/two.csv", 3, "two.csv (--ids): none of its columns a, b"),
        ("--task topic --ids FOLDER/gone.csv", 3, "gone.csv: no such file"),
        ("--task topic --ids FOLDER/torn.parquet", 3, "torn.parquet: not readable as a table"),
        (
            "--task topic --ids FOLDER/latin.csv",
            3,
            "row 0 (counting from 0), line 2, column 'id': not valid UTF-8",
        ),
        ("--task topic --pairs a,b", 2, "classifies paper nodes, not pairs"),
        ("--task topic --top 2", 2, "need ids"),
        ("--task topic --ids paper-1 --top -1", 2, "--top -1"),
        ("--task topic --ids paper-1 --output FOLDER/a.txt", 2, "ends in .parquet or .csv"),
        ("--task topic --ids paper-1 --output FOLDER/no/a.csv", 2, "there is no folder"),
        ("--task tone --ids paper-1", 2, "needs pairs of paper and paper ids"),
        ("--task tone --pairs paper-1", 2, "expected SOURCE,DESTINATION"),
        ("--task links --pairs 1,paper-1", 2, "--relation is one of cites, writes"),
        ("--task links --relation write --pairs 1,paper-1", 2, "did you mean 'writes'"),
        ("--task links --relation writes --pairs 1,paper-1 --top 3", 2, "--top is for sources alone"),
    ],
)
def test_a_wrong_question_is_one_line_with_its_exit_code(run, tmp_path, capsys, arguments, code, told):
    (tmp_path / "ids.csv").write_text("id\npaper-1\nnobody\n")
    (tmp_path / "hole.csv").write_text("id,b\npaper-1,1\n,2\n")
    (tmp_path / "two.csv").write_text("a,b\n1,2\n")
    (tmp_path / "torn.parquet").write_text("PAR1")
    (tmp_path / "latin.csv").write_bytes("id\ncafé\n".encode("latin-1"))
    words = arguments.replace("FOLDER", str(tmp_path)).split()
    assert main(["predict", str(run), *words]) == code
    complaint = capsys.readouterr().err
    assert told in complaint
    assert complaint.count("\n") == 1


def copy_of(run: Path, folder: Path, *without: str) -> Path:
    for path in run.rglob("*"):
        if path.is_file() and path.name not in without:
            target = folder / path.relative_to(run)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize(
    ("missing", "code", "told"),
    [
        ("metrics.json", 2, "has not finished"),
        ("plan.json", 2, "is no run"),
        ("task.json", 13, "task.json: no such file"),
        ("head.safetensors", 13, "head.safetensors cannot be read"),
    ],
)
def test_a_run_that_lacks_a_file_is_told_apart(run, tmp_path, capsys, missing, code, told):
    folder = copy_of(run, tmp_path / "run", missing)
    assert main(["predict", str(folder), "--task", "topic", "--ids", "paper-1"]) == code
    assert told in capsys.readouterr().err
