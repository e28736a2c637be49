"""What benchmarks/accuracy_cost.py keeps of a graph, and what it makes of curves."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from partition.build import BuildOptions, build
from partition.manifest import PartitionManifest
from pipeline.config import TrainPlan

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import curve_run
from accuracy_cost import result
from accuracy_summary import summary
from curve_run import Run, run_all
from small_graph import Cut, cut_out

GRAPH = """\
name = "ring"
[nodes.paper]
path = "paper.parquet"
label = "label"
split = "split"
[nodes.author]
path = "author.parquet"
[edges.cites]
path = "cites.parquet"
source = "paper"
destination = "paper"
split = "split"
[edges.writes]
path = "writes.parquet"
source = "author"
destination = "paper"
source_id = "author"
"""
SPLITS = ["train", "train", "valid", "test"]
PAPERS = 400


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """100 of 400 papers, each of which cites the next three and has an author of its own."""
    large, folder = tmp_path_factory.mktemp("large"), tmp_path_factory.mktemp("cut") / "small"
    ids = list(range(10, 10 + PAPERS))
    split = [SPLITS[n % 4] for n in range(PAPERS)]
    pairs = [(ids[n], ids[(n + k) % PAPERS], SPLITS[(n + k) % 4]) for n in range(PAPERS) for k in (1, 2, 3)]
    source, destination, of_edge = map(list, zip(*pairs, strict=True))
    tables = {
        "paper": {"id": ids, "label": [n % 3 for n in ids], "split": split},
        "author": {"id": [f"a{n}" for n in ids]},
        "cites": {"src_id": source, "dst_id": destination, "split": of_edge},
        "writes": {"author": [f"a{n}" for n in ids], "dst_id": ids},
    }
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), large / f"{name}.parquet")
    (large / "graph.toml").write_text(GRAPH)
    cut_out(large, folder, Cut("paper", 100, ("cites",), ("cites", "writes"), 5))
    return folder


def test_a_small_graph_is_a_graph_that_can_be_built(small, tmp_path):
    manifest = PartitionManifest.load(
        build(str(small), BuildOptions(), store=str(tmp_path), say=lambda _: None)
    )
    assert {node.name: node.count for node in manifest.node_types} == {"paper": 100, "author": 100}


def test_no_test_row_comes_along_and_few_validation_targets_do(small):
    for name in ("nodes/paper", "edges/cites"):
        splits = pq.read_table(small / f"{name}.parquet")["split"].to_pylist()
        assert "test" not in splits
        assert splits.count("valid") == 5
        assert splits.count("train") > 20


def test_kept_nodes_lie_together(small):
    """Of three edges a node, random fourths of both ends would keep 75; a neighbourhood keeps most."""
    assert pq.read_table(small / "edges" / "cites.parquet").num_rows > 100


def _points(*triples: tuple[float, float, float]) -> list[dict[str, float]]:
    names = ("targets", "lm_tokens", "value")
    return [
        {**dict(zip(names, triple, strict=True)), "wall_s": triple[1] / 10, "cpu_s": 1 + triple[1] / 100}
        for triple in triples
    ]


def test_figures_are_compared_at_equal_targets_and_at_equal_tokens():
    runs = [
        {"question": "q", "seed": 0, "setting": "joint", "points": _points((0, 0, 0.4), (64, 1000, 0.6))},
        {"question": "q", "seed": 0, "setting": "paper", "points": _points((0, 0, 0.4), (64, 100, 0.5))},
        {"question": "q", "seed": 0, "setting": "frozen", "points": _points((0, 0, 0.4), (64, 0, 0.7))},
        {"question": "q", "seed": 0, "setting": "few", "points": _points((0, 0, 0.4), (64, 10, 0.55))},
    ]
    joint, paper, frozen, few = summary(runs)
    assert (joint["last"], paper["last"], paper["minus_joint"]) == (0.6, 0.5, -0.1)
    assert joint["equal_tokens"] == pytest.approx(0.42)
    assert paper["equal_tokens"] == pytest.approx(0.5)
    assert frozen["equal_tokens"] is None
    assert few["equal_tokens"] == pytest.approx(0.55), (
        "it has spent less than the paper's and is not asked for more"
    )
    assert paper["reaches_joint"]["seeds"] == 0
    assert frozen["reaches_joint"]["seeds"] == 1
    assert joint["reaches_joint"]["wall_s"] == 100
    assert (joint["reaches_joint"]["of_joint"], frozen["reaches_joint"]["of_joint"]) == (1, 0.0909)


def test_runs_made_elsewhere_stay_in_the_results_and_those_made_again_do_not(tmp_path):
    def run(setting: str, value: float) -> dict[str, object]:
        return {
            "question": "section",
            "seed": 0,
            "setting": setting,
            "points": _points((0, 0, 0.4), (64, 9, value)),
        }

    (tmp_path / "out.json").write_text(json.dumps({"runs": [run("paper", 0.5), run("joint", 0.6)]}))
    folder = tmp_path / "work" / "section" / "seed0" / "paper"
    folder.mkdir(parents=True)
    points = [{"lm_tokens": 3 * n, "wall_s": 0.0, "cpu_s": 0.0, "value": 0.7} for n in (0, 1)]
    (folder / "curve.json").write_text(json.dumps(points))
    (folder / "events.jsonl").write_text(json.dumps({"event": "step", "targets": 64}) + "\n")
    merged = result(tmp_path / "work", tmp_path / "out.json")
    assert [(made["setting"], made["points"][-1]["value"]) for made in merged["runs"]] == [
        ("joint", 0.6),
        ("paper", 0.7),
    ]
    assert merged["runs"][1]["points"][-1]["targets"] == 64


def test_a_finished_run_is_made_again_only_once_it_or_its_start_has_changed(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(
        curve_run, "_start", lambda *_: started.append(json.loads((tmp_path / "runs.json").read_text()))
    )
    raw = {"name": "p", "graph": {"path": "g"}, "tasks": {"t": {"relations": ["cites"]}}}
    stages = [{"name": "warm", "kind": "gnn_warm", "task": "t"}]
    plan = TrainPlan.from_json(json.dumps({**raw, "stages": stages}))
    warm, joint = Run("warm", plan), Run("joint", replace(plan, name="other"), start="warm")
    run_all([warm, joint], tmp_path, tmp_path)
    for run in (warm, joint):
        (tmp_path / run.name / "curve.json").write_text("[]")
    run_all([warm, joint], tmp_path, tmp_path)
    run_all([warm, replace(joint, plan=replace(plan, seed=1))], tmp_path, tmp_path)
    (tmp_path / "joint" / "curve.json").write_text("[]")
    run_all([replace(warm, plan=replace(plan, seed=1)), joint], tmp_path, tmp_path)
    names = [[run["name"] for run in runs] for runs in started]
    assert names == [["warm", "joint"], ["joint"], ["warm", "joint"]]
