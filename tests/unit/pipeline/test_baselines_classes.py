"""Baselines of node and edge classes against scikit-learn itself, over real partitions of a small graph."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import accuracy_score, classification_report, f1_score

from partition.build import BuildOptions, build
from pipeline.baselines.classes import SPARSE_C, class_baselines, class_figures
from pipeline.baselines.compare import main, run
from pipeline.baselines.features import Features
from pipeline.baselines.links import Baseline
from pipeline.baselines.stored_graph import Edges, Labelled, StoredGraph
from pipeline.config import GraphPlan, StagePlan, TaskPlan, TrainPlan

SPLITS = ["train", "train", "valid", "test"]
GRAPH_TOML = """
[nodes.paper]
path = "paper.parquet"
text = "text"
label = "field"
split = "split"
[nodes.author]
path = "author.parquet"
label = "field"
split = "split"
[edges.cites]
path = "cites.parquet"
source = "paper"
destination = "paper"
label = "kind"
split = "split"
[edges.writes]
path = "writes.parquet"
source = "author"
destination = "paper"
"""
TASKS = {
    "field": TaskPlan(kind="node_classification", node_type="paper"),
    "author": TaskPlan(kind="node_classification", node_type="author", metric="macro_f1"),
    "kind": TaskPlan(kind="edge_classification", relations=("cites",)),
}


def _write(folder: Path, *, with_text: bool = True) -> None:
    """400 papers of three fields; half of the words, all authors and most citations keep to a field.

    A citation within a field is of one kind, others are of another.
    """
    rng = np.random.default_rng(0)
    field = np.arange(400) % 3
    words = np.array([[f"{name}{i}" for i in range(40)] for name in ("bio", "phys", "chem", "any")])
    text = [
        " ".join([*rng.choice(words[f], rng.integers(0, 2)), *rng.choice(words[3], 4)]) if with_text else ""
        for f in field
    ]
    names = np.array(["biology", "physics", "chemistry"])
    split = rng.choice(SPLITS, 400)
    folder.mkdir()
    (folder / "graph.toml").write_text(GRAPH_TOML)
    paper = {"id": np.arange(400), "text": text, "field": names[field], "split": split}
    author_split = rng.choice(SPLITS, 120)
    author = {"id": np.arange(120), "field": names[np.arange(120) % 3], "split": author_split}
    ends = rng.integers(0, 400, (3000, 2))
    ends = np.unique(ends[(field[ends[:, 0]] == field[ends[:, 1]]) | (rng.random(3000) < 0.2)], axis=0)
    kind = np.where(field[ends[:, 0]] == field[ends[:, 1]], "near", "far")
    cites = {"src_id": ends[:, 0], "dst_id": ends[:, 1], "kind": kind, "split": rng.choice(SPLITS, len(ends))}
    papers = rng.integers(0, 400, 2400)
    writes = {"src_id": 3 * rng.integers(0, 40, 2400) + field[papers], "dst_id": papers}
    for name, columns in (("paper", paper), ("author", author), ("cites", cites), ("writes", writes)):
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")


def _run_folder(folder: Path, *, with_text: bool = True, hosts: int = 1) -> Path:
    _write(folder / "graph", with_text=with_text)
    options = BuildOptions(hosts=hosts, trainers=1, cluster_size=50)
    built = build(str(folder / "graph"), options, store=str(folder / "store"), say=lambda _: None)
    plan = TrainPlan(
        name="test",
        graph=GraphPlan(str(folder / "graph")),
        tasks=TASKS,
        stages=tuple(StagePlan(name, "gnn_warm", task=name) for name in TASKS),
    )
    (folder / "plan.json").write_text(plan.to_json())
    (folder / "launch.json").write_text(json.dumps({"partition": str(built)}))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _run_folder(tmp_path_factory.mktemp("papers"))


@pytest.fixture(scope="module")
def found(folder: Path) -> Mapping[str, Mapping[str, Baseline]]:
    return run(folder)


def _papers(folder: Path) -> tuple[dict[str, list[int]], np.ndarray, list[str]]:
    """(split -> rows, labels, texts) as they stand in the table."""
    table = pq.read_table(folder / "graph" / "paper.parquet").to_pydict()
    split = np.array(table["split"])
    return {name: np.flatnonzero(split == name) for name in SPLITS}, np.array(table["field"]), table["text"]


def test_the_majority_is_that_of_training(folder: Path, found: Mapping[str, Mapping[str, Baseline]]) -> None:
    rows, labels, _ = _papers(folder)
    names, counts = np.unique(labels[rows["train"]], return_counts=True)
    common = names[counts.argmax()]
    baseline = found["field"]["majority"]
    assert baseline.choice == {"class": common}
    assert baseline.test["accuracy"] == pytest.approx((labels[rows["test"]] == common).mean())


def test_tfidf_is_the_best_of_scikit_learns_classifiers_on_validation(
    folder: Path, found: Mapping[str, Mapping[str, Baseline]]
) -> None:
    rows, labels, texts = _papers(folder)
    words = TfidfVectorizer(sublinear_tf=True).fit_transform(texts)
    valid, test = {}, {}
    for c in SPARSE_C:
        alpha = 1 / (c * len(rows["train"]))
        model = SGDClassifier(
            loss="log_loss", alpha=alpha, max_iter=8, tol=None, average=True, random_state=0
        )
        model.fit(words[rows["train"]], labels[rows["train"]])
        valid[c] = accuracy_score(labels[rows["valid"]], model.predict(words[rows["valid"]]))
        test[c] = accuracy_score(labels[rows["test"]], model.predict(words[rows["test"]]))
    baseline = found["field"]["tfidf"]
    # the partition numbers targets anew, so the two see them in another order
    assert baseline.valid["accuracy"] == pytest.approx(max(valid.values()), abs=0.04)
    assert baseline.test["accuracy"] == pytest.approx(test[baseline.choice["C"]], abs=0.04)


def test_neighbours_and_the_graph_tell_more_than_sparse_texts(
    found: Mapping[str, Mapping[str, Baseline]],
) -> None:
    test = {name: baseline.test["accuracy"] for name, baseline in found["field"].items()}
    assert set(test) == {"majority", "tfidf", "tfidf_neighbours", "graph"}
    assert test["majority"] + 0.1 < test["tfidf"] + 0.1 < test["tfidf_neighbours"]
    assert test["graph"] > 0.9


def test_nodes_without_text_are_told_by_their_neighbours(found: Mapping[str, Mapping[str, Baseline]]) -> None:
    assert set(found["author"]) == {"majority", "tfidf_neighbours", "graph"}
    assert found["author"]["tfidf_neighbours"].test["accuracy"] > 0.7


def test_kinds_of_edges_are_told_by_both_ends(found: Mapping[str, Mapping[str, Baseline]]) -> None:
    test = {name: baseline.test["macro_f1"] for name, baseline in found["kind"].items()}
    assert set(test) == {"majority", "tfidf", "tfidf_neighbours", "graph"}
    assert test["majority"] < 0.5
    assert test["graph"] > 0.7


def test_without_any_text_only_the_graph_is_left(tmp_path: Path) -> None:
    found = run(_run_folder(tmp_path, with_text=False))
    assert all(set(baselines) == {"majority", "graph"} for baselines in found.values())


def test_metrics_hold_figures_and_choices(
    folder: Path, found: Mapping[str, Mapping[str, Baseline]], capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = json.loads((folder / "metrics.json").read_text())["tasks"]
    for name, task in TASKS.items():
        for baseline, figures in found[name].items():
            value = tasks[name]["baselines"][baseline]
            assert value == figures.test[task.chosen_metric]
            assert tasks[name]["baseline_metrics"][baseline] == figures.test
            assert tasks[name]["baseline_choices"][baseline] == figures.choice
    assert main([str(folder)]) == 0
    told = capsys.readouterr().out
    assert f"kind: graph test macro_f1 {found['kind']['graph'].test['macro_f1']:.4f}" in told


def test_targets_are_those_of_the_tables_on_several_hosts(tmp_path: Path) -> None:
    folder = _run_folder(tmp_path, hosts=2)
    plan = TrainPlan.from_json((folder / "plan.json").read_text())
    graph = StoredGraph(plan, Path(json.loads((folder / "launch.json").read_text())["partition"]))
    targets = graph.labelled(TASKS["kind"])
    table = pq.read_table(folder / "graph" / "cites.parquet").to_pydict()
    expected = sorted(zip(table["src_id"], table["dst_id"], table["split"], table["kind"], strict=True))
    splits = np.array(["train", "valid", "test"])[targets.split]
    kinds = np.array(targets.classes)[targets.label]
    assert sorted(zip(*targets.ends.T.tolist(), splits, kinds, strict=True)) == expected


def test_held_out_edges_carry_no_messages(folder: Path) -> None:
    plan = TrainPlan.from_json((folder / "plan.json").read_text())
    graph = StoredGraph(plan, Path(json.loads((folder / "launch.json").read_text())["partition"]))
    table = pq.read_table(folder / "graph" / "cites.parquet").to_pydict()
    cites = graph.message_edges()["cites"]
    expected = [
        (a, b)
        for a, b, s in zip(table["src_id"], table["dst_id"], table["split"], strict=True)
        if s == "train"
    ]
    assert list(zip(cites.source.tolist(), cites.destination.tolist(), strict=True)) == expected


def test_figures_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 5, 200), rng.integers(1, 6, 200)
    figures = class_figures(true, predicted, tuple("abcdefg"))
    assert figures["accuracy"] == accuracy_score(true, predicted) == figures["micro_f1"]
    assert figures["macro_f1"] == pytest.approx(f1_score(true, predicted, average="macro", zero_division=0))
    report = classification_report(true, predicted, output_dict=True, zero_division=0)
    assert {f"f1/{c}": report[str(i)]["f1-score"] for i, c in enumerate("abcdef")} == {
        name: value for name, value in figures.items() if name.startswith("f1/")
    }


def test_one_class_in_training_is_the_answer() -> None:
    targets = Labelled(
        np.arange(6)[:, None], np.array([0, 0, 1, 1, 2, 2]), np.array([1, 1, 1, 0, 1, 0]), ("a", "b")
    )
    features = Features(["x y"] * 6, {"r": Edges(np.arange(5), np.arange(1, 6))})
    found = class_baselines(features, targets, "accuracy")
    assert {baseline.test["accuracy"] for baseline in found.values()} == {0.5}
