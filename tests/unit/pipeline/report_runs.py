"""Made-up but complete run folders for the tests of the report, and a reader of its pages."""

from __future__ import annotations

import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partition.manifest import FileInfo, NodeTypeInfo, PartitionManifest, RelationInfo
from pipeline import events as events_module
from pipeline.config import GraphPlan, StagePlan, TaskPlan, TrainPlan
from pipeline.events import RunRecord

METRICS: dict[str, Any] = {
    "tasks": {
        "uses": {
            "metric": "mrr",
            "test": 0.71834,
            "valid": 0.72551,
            "seconds": 371.0,
            "baselines": {"popularity": 0.20417, "TF-IDF": 0.43712, "TF-IDF + neighbours": 0.51268},
            "stages": {
                "mlm": {"valid": 0.31122},
                "graph_lm": {"valid": 0.58013},
                "gnn_warm": {"valid": 0.66604},
                "joint": {"valid": 0.72551},
            },
        }
    }
}
STAGES = {"mlm": 60, "graph_lm": 90, "gnn_warm": 120, "joint": 150}
SCRIPT = "<script>alert('planted')</script>"
WORDS = ["parse", "read", "write", "plot", "fit", "join", "token", "array", "graph", "date", "path", "hash"]


def write_plan(run: Path, stages: dict[str, int]) -> None:
    plan = TrainPlan(
        name="python-packages",
        graph=GraphPlan(path=str(run.parent / "graph")),
        tasks={"uses": TaskPlan(relations=("uses",))},
        stages=tuple(StagePlan(name=n, kind=n, task="" if n == "mlm" else "uses") for n in stages),
    )
    (run / "plan.json").write_text(plan.to_json())


def write_partition(folder: Path) -> None:
    folder.mkdir()
    manifest = PartitionManifest(
        id="6f1c2a90be77d0514c3a",
        graph_name="g6f1c2a90be77d0514c3a",
        hosts=2,
        trainers=2,
        node_types=(
            NodeTypeInfo("symbol", 9120, text=True, tokens=321_000),
            NodeTypeInfo("module", 1180, text=True, tokens=33_000),
            NodeTypeInfo("package", 41),
        ),
        relations=(
            RelationInfo(
                "uses",
                "symbol",
                "symbol",
                31_020,
                "rev_uses",
                targets={"train": 24_816, "valid": 3_102, "test": 3_102},
            ),
            RelationInfo("rev_uses", "symbol", "symbol", 31_020, "uses", is_reverse=True),
            RelationInfo("defined_in", "symbol", "module", 9120),
        ),
        clusters=(6, 5, 5, 5),
        offsets={},
        options={},
        inputs={},
        stats={
            "cut": {"hosts": 0.0812, "parts": 0.1434},
            "balance": {"hosts": {"nodes": [5210, 5131]}, "parts": {"nodes": [2600, 2610, 2550, 2581]}},
            "leaks": {"uses": 3},
        },
        files={
            "part0/graph.dgl": FileInfo(9_400_000, "0" * 64),
            "part1/graph.dgl": FileInfo(9_100_000, "0" * 64),
        },
    )
    (folder / "manifest.json").write_text(manifest.to_json())


def write_events(run: Path, stages: dict[str, int], *, ranks: int = 2) -> None:
    """Stages by two ranks; a joint stage is interrupted at step 70 and taken up again at 50."""
    for rank in range(ranks):
        with pytest.MonkeyPatch.context() as monkeypatch:
            now = [1_790_000_000.0]
            monkeypatch.setattr(events_module.time, "time", lambda now=now: now[0])
            write_events_of_rank(run, stages, now, rank, ranks)


def write_events_of_rank(run: Path, stages: dict[str, int], now: list[float], rank: int, ranks: int) -> None:
    draw = np.random.default_rng(rank)
    attempt = 1
    options: dict[str, Any] = {"run": "r1", "rank": rank, "heartbeat": None, "console": io.StringIO()}
    record = RunRecord(run, attempt=attempt, **options)
    record.event(
        "run_start", versions={"torch": "2.13.0", "dgl": "1.1.3"}, host="n1", device="cpu", world=ranks
    )
    for name, steps in stages.items():
        record.stage(name, kind=name, steps=steps, targets=4_000)
        if rank == 0:
            evaluate(record, name, 0.0)
        begun, order = now[0], [*range(1, steps + 1)]
        if name == "joint":
            order = [*range(1, 71), *range(51, steps + 1)]
        for position, step in enumerate(order):
            if name == "joint" and position == 70:
                record.close()
                attempt = 2
                record = RunRecord(run, attempt=attempt, **options)
                record.event("run_start", versions={"torch": "2.13.0"}, host="n1", device="cpu", world=ranks)
                record.stage(name, kind=name, steps=steps, targets=4_000, done=50)
            now[0] += 0.6
            record.step(
                step,
                loss=3 * math.exp(-2 * step / steps) + 0.2 * draw.random(),
                rate=1e-3,
                lm_rate=2e-5,
                grad_norm=1.0,
                targets=64,
                lm_rows_trained=0 if name == "gnn_warm" else 32,
                lm_rows_forward=200 if name == "joint" else 0,
                lm_tokens=0 if name == "gnn_warm" else 6000,
                lm_tokens_trained=0 if name == "gnn_warm" else 1500,
                lm_tokens_forward=0 if name == "gnn_warm" else 1500,
                lm_padding_trained=0 if name == "gnn_warm" else 100,
                lm_padding_forward=0 if name == "gnn_warm" else 110,
                sample_s=0.05,
                fetch_s=0.04,
                compute_s=0.4,
                step_s=0.06,
                remote_rows=20,
                nodes=900,
            )
            if step % (steps // 3) == 0 and rank == 0:
                evaluate(record, name, step / steps)
        record.event("stage_end", seconds=now[0] - begun, peak_bytes=(900 + 50 * rank) * 2**20)
    record.event("test", task="uses", metric="mrr", value=METRICS["tasks"]["uses"]["test"])
    record.event("run_end")
    record.close()


FIGURES = {
    "mlm": (-8.5, -7.25),
    "graph_lm": (0.21, 0.58),
    "gnn_warm": (0.28, 0.666),
    "joint": (0.664, 0.72551),
}
"""Stage -> its own metric at its first and last step."""


def evaluate(record: RunRecord, stage: str, done: float) -> None:
    """One evaluation of 2 s; its metrics carry the same seconds."""
    first, last = FIGURES[stage]
    metrics = {"mrr": first + (last - first) * done, "hits@1": 0.1, "hits@10": 0.9}
    if stage == "mlm":
        metrics = {"negative_loss": metrics["mrr"]}
    for name, value in metrics.items():
        record.event("eval", split="valid", metric=name, value=value, seconds=2.0, best=True)


def write_examples(run: Path) -> None:
    """Four examples of integer ids, and the tables that hold their texts."""
    graph = run.parent / "graph"
    graph.mkdir()
    (graph / "graph.toml").write_text(
        '[nodes.symbol]\npath = "symbol.csv"\ntext = "text"\n'
        '[edges.uses]\npath = "uses.csv"\nsource = "symbol"\ndestination = "symbol"\n'
    )
    texts = [f'"def {word}_all(folder): {word} a table & join {SCRIPT}"' for word in WORDS]
    lines = [f"{100 + n},{text}" for n, text in enumerate(texts)]
    (graph / "symbol.csv").write_text("\n".join(["id,text", *lines]) + "\n")
    (graph / "uses.csv").write_text("src_id,dst_id\n")
    for when, true_at, scores in (("before", 3, (0.9, 0.8, 0.7, 0.6)), ("after", 0, (9.0, 6.0, 3.0, 1.0))):
        examples = []
        for n in range(4):
            others = [str(100 + (n + 2 + k) % 12) for k in range(4)]
            true = str(100 + n + 1)
            ids = [*others[:true_at], true, *others[true_at:]]
            best = [{"id": i, "score": s, "true": i == true} for i, s in zip(ids, scores, strict=False)]
            examples.append(
                {
                    "relation": "uses",
                    "source_type": "symbol",
                    "destination_type": "symbol",
                    "query": str(100 + n),
                    "true": true,
                    "rank": true_at + 1,
                    "candidates": 101,
                    "best": best,
                }
            )
        (run / "report" / f"{when}.json").write_text(json.dumps(examples))


def write_projection(run: Path, *, nodes: int = 150, groups: int = 12) -> None:
    draw = np.random.default_rng(0)
    group = draw.integers(groups, size=nodes)
    group[: nodes // 4] = 0
    centres = draw.normal(size=(groups, 24))
    edges = np.array(
        [(i, j) for i in range(nodes) for j in draw.choice(np.flatnonzero(group == group[i]), 1)]
    )
    arrays: dict[str, Any] = {
        name: (centres[group] * pull + draw.normal(size=(nodes, 24))).astype(np.float32)
        for name, pull in [("text", 0.15), ("graph_lm", 0.6), ("lm_gnn", 1.4)]
    }
    names = np.array(
        ["numpy", "scipy", "networkx", "jinja2", "rich", *[f"package{n}" for n in range(groups)]]
    )
    np.savez(run / "report" / "projection.npz", **arrays, group=names[group], edges=edges)


def make_run(tmp_path: Path, stages: dict[str, int]) -> Path:
    folder = tmp_path / "run"
    (folder / "report").mkdir(parents=True)
    write_plan(folder, stages)
    write_partition(tmp_path / "partition")
    write_events(folder, stages)
    write_examples(folder)
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    launch = {
        "partition": str(tmp_path / "partition"),
        "command": "launch/run.sh --nodes 2 --config examples/python_packages/plan.toml --set seed=1",
        "hosts": 2,
        "trainers_per_host": 2,
        "versions": {"lm-gnn": "0.1.0", "python": "3.11.2"},
    }
    (folder / "launch.json").write_text(json.dumps(launch))
    outcome = {
        "exit_code": 0,
        "class": "done",
        "message": "",
        "seconds": 402.4,
        "peak_bytes": 5 * 2**30,
        "restarts": 1,
    }
    (folder / "outcome.json").write_text(json.dumps(outcome))
    return folder


class Reader(HTMLParser):
    """Collects tags, attributes and the text a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self._stack: list[str] = []
        self.feed(html)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in ("meta", "br", "link", "img"):
            self._stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._stack and self._stack.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" in self._stack:
            return
        self.words.append(data)
        if {"td", "th"} & set(self._stack):
            self.rows[-1][-1] += data


def svg_texts(html: str, prefix: str) -> str:
    """What is written inside the charts whose ids start with a prefix."""
    charts = [c for c in re.findall(r"<svg.*?</svg>", html, re.DOTALL) if f'id="{prefix}' in c]
    assert charts
    return " ".join(Reader(chart).text for chart in charts)
