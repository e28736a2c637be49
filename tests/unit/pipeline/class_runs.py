"""A made-up finished run of two class tasks, for the tests of the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.metrics import accuracy_score, f1_score

from pipeline.config import GraphPlan, StagePlan, TaskPlan, TrainPlan

CLASSES = ("web", "data", "<b>games</b>")
LABELS = [0, 0, 0, 0, 0, 1, 1, 1, 2, 2]
PREDICTED = [0, 0, 0, 0, 1, 1, 1, 0, 0, 2]
PROBABILITY = [0.9, 0.8, 0.7, 0.9, 0.55, 0.9, 0.6, 0.95, 0.65, 0.9]
"""Of the ten test rows; row n is node n."""
STAGES = (
    StagePlan(name="words", kind="mlm"),
    StagePlan(name="topic_lm", kind="task_lm", task="topic"),
    StagePlan(name="topic_warm", kind="gnn_warm", task="topic"),
    StagePlan(name="kind_warm", kind="gnn_warm", task="kind", start="topic_lm"),
    StagePlan(name="topic_joint", kind="joint", task="topic", start="topic_warm"),
)
KEPT = {
    "words": ("negative_loss", -3.5),
    "topic_lm": ("accuracy", 0.5),
    "topic_warm": ("accuracy", 0.75),
    "kind_warm": ("macro_f1", 0.7),
    "topic_joint": ("accuracy", 0.8),
}
"""Stage -> its metric and what it kept."""
BASELINES: Mapping[str, Mapping[str, float]] = {
    "majority": {"accuracy": 0.5, "macro_f1": 0.2},
    "tfidf": {"accuracy": 0.61, "macro_f1": 0.52, "f1/web": 0.55, "f1/data": 0.9},
    "tfidf_neighbours": {"accuracy": 0.66, "macro_f1": 0.57, "f1/web": 0.6, "f1/data": 0.75},
    "graph": {"accuracy": 0.44, "macro_f1": 0.31},
}


def figures(labels: Sequence[str], predicted: Sequence[str], classes: Sequence[str]) -> dict[str, float]:
    """As a trainer judges them, by scikit-learn."""
    of_class = f1_score(labels, predicted, labels=classes, average=None, zero_division=0)
    return {
        "accuracy": accuracy_score(labels, predicted),
        "macro_f1": f1_score(labels, predicted, labels=classes, average="macro", zero_division=0),
        **{f"f1/{name}": float(value) for name, value in zip(classes, of_class, strict=True)},
    }


def task_entry(metric: str, test_metrics: Mapping[str, float]) -> dict[str, Any]:
    return {
        "metric": metric,
        "test": test_metrics[metric],
        "valid": 0.8,
        "test_metrics": dict(test_metrics),
        "baselines": {name: values[metric] for name, values in BASELINES.items()},
        "baseline_metrics": BASELINES,
        "baseline_choices": {"tfidf": {"C": 0.1}},
        "stages": {name: {"metric": metric, "valid": valid} for name, (metric, valid) in KEPT.items()},
        "seconds": 60.0,
    }


def write_predictions(run: Path, task: str, rows: Mapping[str, Any], described: Mapping[str, Any]) -> None:
    """Two parts, as two trainers write them; the second one has the last row alone."""
    folder = run / "export" / task / "predictions"
    folder.mkdir(parents=True)
    table = pa.table(dict(rows))
    pq.write_table(table.slice(0, len(table) - 1), folder / "part-0.parquet")
    pq.write_table(table.slice(len(table) - 1), folder / "part-1.parquet")
    (folder.parent / "task.json").write_text(json.dumps(described))


def make_class_run(folder: Path) -> Path:
    """Two tasks: topics of packages, kinds of their edges; no events, as of an old run."""
    run, graph = folder / "run", folder / "graph"
    graph.mkdir(parents=True)
    (graph / "graph.toml").write_text(
        '[nodes.package]\npath = "package.csv"\ntext = "text"\n'
        '[edges.needs]\npath = "needs.csv"\nsource = "package"\ndestination = "package"\n'
    )
    texts = [f'{n},"text of {n} <i>x</i>"' for n in range(12)]
    (graph / "package.csv").write_text("\n".join(["id,text", *texts]) + "\n")
    tasks = {
        "topic": TaskPlan(kind="node_classification", node_type="package"),
        "kind": TaskPlan(kind="edge_classification", relations=("needs",)),
    }
    run.mkdir()
    plan = TrainPlan(name="classes", graph=GraphPlan(path=str(graph)), tasks=tasks, stages=STAGES)
    (run / "plan.json").write_text(plan.to_json())
    label, predicted = ([CLASSES[c] for c in column] for column in (LABELS, PREDICTED))
    # Beside the test rows: one of training, and one without a label; both are of no account.
    columns = {
        "predicted": [*predicted, "data", "data"],
        "probability": [*PROBABILITY, 0.99, 0.99],
        "label": [*label, "web", None],
        "split": ["test"] * 10 + ["train", None],
    }
    ids = [str(n) for n in range(12)]
    of_nodes = {"plan": {"node_type": "package"}, "ends": {}}
    write_predictions(run, "topic", {"id": ids, **columns}, of_nodes)
    of_edges = {"plan": {"node_type": ""}, "ends": {"needs": ["package", "package"]}}
    write_predictions(run, "kind", {"source": ids, "destination": ids[::-1], **columns}, of_edges)
    found = figures(label, predicted, CLASSES)
    entries = {"topic": task_entry("accuracy", found), "kind": task_entry("macro_f1", found)}
    (run / "metrics.json").write_text(json.dumps({"tasks": entries}))
    return run
