"""A run on a graph that has grown takes over text embeddings of the run before; others are encoded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy import build_partition, plan_of, run_processes, write_graph, write_lm

from pipeline.events import read_events

WARM = {"name": "warm", "kind": "gnn_warm", "task": "cites", "epochs": 1}
PAPERS, NEW = 240, 5
CHANGED = "common0 topic1word3 topic1word4 topic1word5 common2"


def grow(graph: Path) -> None:
    """Three papers with one new text, two with texts that are there, and a text that has changed."""
    papers = pq.read_table(graph / "paper.parquet").to_pydict()
    papers["id"] += [f"new-{i}" for i in range(NEW)]
    papers["text"] += ["topic2word1 topic3word2 common1"] * 3 + papers["text"][3:5]
    papers["label"] += papers["label"][:NEW]
    papers["split"] += [None] * NEW
    papers["text"][7] = CHANGED
    pq.write_table(pa.table(papers), graph / "paper.parquet")
    cites = pq.read_table(graph / "cites.parquet").to_pydict()
    cites["src_id"] += [f"new-{i}" for i in range(NEW)]
    cites["dst_id"] += [f"paper-{i}" for i in range(NEW)]
    cites["split"] += ["train"] * NEW
    cites["kind"] += ["within"] * NEW
    pq.write_table(pa.table(cites), graph / "cites.parquet")


def run_of(root: Path, graph: Path, lm: Path, name: str, *, hosts: int, start: str, **changes: Any) -> Path:
    partition = build_partition(graph, lm, root / "store", hosts=hosts, trainers=1)
    plan = plan_of(graph, lm, stages=[{**WARM, "start": start}], **changes)
    return run_processes(plan, partition, root / name, hosts=hosts, trainers=1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One on the graph before, over two hosts; then two on the graph after it, over one: the second finds
    nothing, since what was kept is hidden from it."""
    root = tmp_path_factory.mktemp("kept")
    graph, lm = write_graph(root / "graph", papers=PAPERS), write_lm(root / "lm")
    made = {"first": run_of(root, graph, lm, "first", hosts=2, start="")}
    grow(graph)
    start = f"{made['first']}:warm"
    made["second"] = run_of(root, graph, lm, "second", hosts=1, start=start)
    (made["first"] / "texts").rename(root / "hidden")
    made["anew"] = run_of(root, graph, lm, "anew", hosts=1, start=start)
    return made


def counted(run: Path) -> list[int]:
    """[taken over, encoded] of the run's only pass over all texts."""
    [told] = [e for e in read_events(run) if e["event"] == "texts"]
    return told["texts"]["paper"]


def trainer_logs(run: Path) -> str:
    return "".join(path.read_text() for path in (run / "logs").rglob("*trainer*.log"))


def test_only_texts_that_no_paper_had_are_encoded(runs: dict[str, Path]) -> None:
    assert counted(runs["first"]) == [0, PAPERS]
    assert counted(runs["second"]) == [PAPERS + NEW - 4, 4]
    assert f"text embeddings of paper: {PAPERS + NEW - 4} taken over, 4 encoded" in trainer_logs(
        runs["second"]
    )


def test_a_run_that_cannot_keep_them_says_why_and_goes_on(
    tmp_path: Path,
) -> None:
    graph, lm = write_graph(tmp_path / "graph", papers=PAPERS), write_lm(tmp_path / "lm")
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "texts").write_text("where a folder should be")
    run = run_of(tmp_path, graph, lm, "blocked", hosts=1, start="")
    assert "text embeddings are not kept for later runs" in trainer_logs(run)
    assert [e for e in read_events(run) if e["event"] == "run_end"]


def test_a_run_whose_predecessor_has_lost_them_encodes_all_and_says_so(runs: dict[str, Path]) -> None:
    assert counted(runs["anew"]) == [0, PAPERS + NEW]
    assert f"text embeddings of paper: 0 taken over, {PAPERS + NEW} encoded" in trainer_logs(runs["anew"])


def records(run: Path) -> np.ndarray:
    """The kept embedding of each paper by id; the runs on the larger graph have one partition."""
    [path] = (run / "texts").rglob("part-0.records.npy")
    return np.load(path)[:, :-2].copy().view(np.float16)


def test_what_is_taken_over_equals_what_is_encoded_anew(runs: dict[str, Path]) -> None:
    taken, anew = records(runs["second"]), records(runs["anew"])
    assert len(taken) == PAPERS + NEW
    np.testing.assert_allclose(taken, anew, rtol=2e-3, atol=1e-4)


def test_metrics_do_not_depend_on_whether_texts_were_taken_over(runs: dict[str, Path]) -> None:
    found = [json.loads((runs[name] / "metrics.json").read_text())["tasks"] for name in ("second", "anew")]
    assert found[0]["cites"]["test_metrics"] == pytest.approx(found[1]["cites"]["test_metrics"], abs=0.01)
