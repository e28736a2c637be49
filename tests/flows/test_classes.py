"""Node and edge classification through all stages, over real servers and trainers."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from sklearn.metrics import accuracy_score, f1_score
from toy import build_partition, plan_of, run_processes

from pipeline.__main__ import main

TASKS = {
    "topic": {"kind": "node_classification", "node_type": "paper"},
    "field": {"kind": "node_classification", "node_type": "author"},
    "kind": {"kind": "edge_classification", "relations": ["cites"], "class_weights": "balanced"},
}
STAGES = [
    {"name": "mlm", "kind": "mlm", "epochs": 0.5, "batch_size": 16},
    {"name": "graph_lm", "kind": "graph_lm", "epochs": 0.3, "batch_size": 16, "relations": ["cites"]},
    {"name": "topic_lm", "kind": "task_lm", "task": "topic", "epochs": 1, "batch_size": 16, "lm_rate": 1e-3},
    *(
        {
            "name": f"{task}_{kind}",
            "kind": kind,
            "task": task,
            "epochs": 8 if kind == "gnn_warm" else 0.5,
            "rate": 1e-2 if kind == "gnn_warm" else 1e-3,
            "batch_size": 32,
            "train_nodes": 8,
            **({"start": "topic_lm"} if kind == "gnn_warm" else {}),
        }
        for task in TASKS
        for kind in ("gnn_warm", "joint")
    ),
]


@pytest.fixture(scope="module")
def finished(toy: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three class tasks over two trainers."""
    graph, lm, store = toy
    partition = build_partition(graph, lm, store, hosts=1, trainers=2)
    plan = plan_of(graph, lm, tasks=TASKS, stages=STAGES)
    return run_processes(plan, partition, tmp_path_factory.mktemp("classes"), hosts=1, trainers=2)


def tasks_of(run: Path) -> dict[str, dict]:
    return json.loads((run / "metrics.json").read_text())["tasks"]


@pytest.mark.parametrize(("task", "chance"), [("topic", 0.35), ("field", 0.35), ("kind", 0.55)])
def test_a_task_is_learnt_also_by_nodes_without_text(finished: Path, task: str, chance: float) -> None:
    assert tasks_of(finished)[task]["test"] > chance


@pytest.mark.parametrize("task", list(TASKS))
def test_predictions_for_the_test_split_are_those_that_were_judged(finished: Path, task: str) -> None:
    rows = pq.read_table(finished / "export" / task / "predictions").to_pylist()
    test = [row for row in rows if row["split"] == "test" and row["label"] is not None]
    true, predicted = [r["label"] for r in test], [r["predicted"] for r in test]
    figures = tasks_of(finished)[task]["test_metrics"]
    assert figures["accuracy"] == pytest.approx(accuracy_score(true, predicted))
    assert figures["macro_f1"] == pytest.approx(f1_score(true, predicted, average="macro"))
    assert figures["micro_f1"] == pytest.approx(f1_score(true, predicted, average="micro"))


def test_every_node_of_the_type_is_foretold_under_its_own_id(
    finished: Path, toy: tuple[Path, Path, Path]
) -> None:
    given = pq.read_table(toy[0] / "paper.parquet")["id"].to_pylist()
    foretold = pq.read_table(finished / "export" / "topic" / "predictions")["id"].to_pylist()
    assert sorted(foretold) == sorted(given)


@pytest.mark.parametrize("task", list(TASKS))
def test_predict_gives_for_the_same_ids_what_the_run_itself_foretold(
    finished: Path, tmp_path: Path, task: str
) -> None:
    own = pq.read_table(finished / "export" / task / "predictions")
    own = own.filter([split == "test" for split in own["split"].to_pylist()])
    pq.write_table(own, tmp_path / "test.parquet")
    out = tmp_path / "out.parquet"
    given = ["--task", task, "--ids", str(tmp_path / "test.parquet"), "--output", str(out)]
    assert main(["predict", str(finished), *given]) == 0
    found = pq.read_table(out)
    assert found["probability"].to_pylist() == pytest.approx(own["probability"].to_pylist(), abs=1e-6)
    assert found["predicted"].to_pylist() == own["predicted"].to_pylist()
