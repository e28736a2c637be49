"""The report of a made-up but complete run: right figures, escaped texts, nothing loaded."""

from __future__ import annotations

import io
import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partition.errors import UsageError
from partition.manifest import FileInfo, NodeTypeInfo, PartitionManifest, RelationInfo
from pipeline import events as events_module
from pipeline import projection as projection_module
from pipeline.config import GraphPlan, StagePlan, TaskPlan, TrainPlan
from pipeline.events import RunRecord
from pipeline.projection import project
from pipeline.report import main, redact, render
from pipeline.runview import read_run

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


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A short run of one stage that a test may damage."""
    return make_run(tmp_path, {"graph_lm": 12})


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all four stages with a projection; only read."""
    folder = make_run(tmp_path_factory.mktemp("full"), STAGES)
    write_projection(folder)
    return folder


@pytest.fixture(scope="module")
def page(full: Path) -> str:
    return render(full)


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


def test_the_headline_says_metric_best_baseline_time_and_size(page: str) -> None:
    expected = (
        "LM-GNN reaches MRR 0.718 on uses (best baseline: TF-IDF + neighbours 0.513), "
        "in 6:42 on 2 hosts × 2 trainers."
    )
    assert expected in Reader(page).text


def test_the_result_table_and_chart_hold_exactly_the_metrics(page: str) -> None:
    task = METRICS["tasks"]["uses"]
    rows = {row[0]: row[1:] for row in Reader(page).rows if row}
    assert rows["LM-GNN"][0] == f"{task['test']:.3f}"
    for name, value in task["baselines"].items():
        gain = f"{task['test'] - value:+.3f}"
        assert rows[name] == [f"{value:.3f}", gain]
    drawn = re.findall(r"\b0\.\d{3}\b", svg_texts(page, "comparison-uses"))
    assert sorted(drawn) == sorted(f"{v:.3f}" for v in [task["test"], *task["baselines"].values()])


def test_a_baseline_that_wins_is_shown_as_winning(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["tasks"]["uses"]["baselines"]["TF-IDF"] = 0.9
    (run / "metrics.json").write_text(json.dumps(metrics))
    html = render(run)
    assert "best baseline: TF-IDF 0.900" in Reader(html).text
    assert '<td class="down">−0.182</td>' in html


def test_each_stage_shows_its_own_metric_and_what_it_gained_since_its_first_step(page: str) -> None:
    text = Reader(page).text
    assert "held-out loss 7.250 from 8.500 at its start (−1.250) lower is better" in text
    for stage in ("graph_lm", "gnn_warm", "joint"):
        first, last = FIGURES[stage]
        gain = f"({last - first:+.3f})"
        assert f"validation MRR of uses {last:.3f} from {first:.3f} at its start {gain}" in text


def test_a_loss_that_fell_counts_as_better_and_one_that_rose_as_worse(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for figures, colour in (((-8.5, -7.25), "up"), ((-7.25, -8.5), "down")):
        monkeypatch.setitem(FIGURES, "mlm", figures)
        for name in ("events.jsonl", "events-1.jsonl"):
            (run / name).unlink()
        write_events(run, {"mlm": 12})
        assert f'class="{colour}">({figures[0] - figures[1]:+.3f})'.replace("-", "−") in render(run)


def test_a_stage_whose_start_was_best_says_that_it_changed_nothing(run: Path) -> None:
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    for event in events:
        if event["event"] == "eval":
            event["best"] = event["step"] == 0
    (run / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    text = Reader(render(run)).text
    assert "validation MRR of uses 0.210 from 0.210 at its start (+0.000)" in text
    assert "the model that the stage began with was kept" in text


def test_a_stage_without_a_first_evaluation_shows_its_figure_alone(run: Path) -> None:
    lines = (run / "events.jsonl").read_text().splitlines(keepends=True)
    first = '"step": 0, "event": "eval"'
    (run / "events.jsonl").write_text("".join(line for line in lines if first not in line))
    text = Reader(render(run)).text
    assert "validation MRR of uses 0.580" in text
    assert "at its start" not in text


def test_an_evaluation_of_three_metrics_costs_its_seconds_once(full: Path) -> None:
    for stage in read_run(full).stages:
        assert stage.times["eval"] == 4 * 2.0  # before the first step, and three times later


def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    reader = Reader(page)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(reader.tags)
    assert "http:" not in page
    assert "https:" not in page
    assert "@import" not in page
    targets = [
        value for _, name, value in reader.attributes if name in ("src", "href", "xlink:href", "action")
    ]
    assert targets
    assert all(target.startswith("#") for target in targets)
    assert all(match.startswith("#") for match in re.findall(r"url\(([^)]*)\)", page))


def test_texts_of_examples_are_escaped_and_shown_as_they_are(page: str) -> None:
    assert SCRIPT not in page
    assert Reader(page).text.count("alert('planted')") == 4 * (1 + 2 * 4)


def test_an_example_shows_query_ranks_and_the_true_answer_marked(page: str) -> None:
    text = Reader(page).text
    assert "100 uses 101 def parse_all(folder): parse a table & join" in text
    assert "rank of the true answer among 101: 4 → 1" in text
    marked = re.findall(r'<li class="true"><small>([\d.]+)</small><code>(\d+)</code>', page)
    assert marked == [(score, str(101 + n)) for n in range(4) for score in ("0.60", "9.00")]


def test_examples_without_tables_show_their_ids_and_say_why(run: Path) -> None:
    (run.parent / "graph" / "symbol.csv").unlink()
    text = Reader(render(run)).text
    assert "Texts of the ranking examples could not be read, ids stand alone: symbol.csv" in text
    assert "among 101: 4 → 1" in text
    assert "alert" not in text


def test_examples_of_a_run_that_has_not_finished_are_left_out(run: Path) -> None:
    (run / "report" / "after.json").unlink()
    text = Reader(render(run)).text
    assert "have no answers of the trained model yet" in text
    assert "among 101" not in text


def test_names_of_stages_and_tasks_are_escaped_in_charts_too(run: Path) -> None:
    (run / "metrics.json").write_text(json.dumps(METRICS).replace("TF-IDF", "<b onclick=x>$T$"))
    html = render(run)
    assert "<b onclick" not in html
    assert "<b onclick=x>$T$ + neighbours" in svg_texts(html, "comparison-uses")


def test_ids_are_unique_and_references_find_theirs(page: str) -> None:
    ids = [value for _, name, value in Reader(page).attributes if name == "id"]
    assert len(ids) == len(set(ids))
    referred = set(re.findall(r'(?:href="#|url\(#)([^")]+)', page))
    assert referred <= set(ids)


def test_the_same_run_gives_the_same_bytes(run: Path) -> None:
    def without_date(html: str) -> str:
        return re.sub(r"Made \d{4}-\d\d-\d\d \d\d:\d\d UTC", "", html)

    assert without_date(render(run)) == without_date(render(run))


def test_charts_follow_light_and_dark(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    for chart in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        assert set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{3,6})", chart)) == set()
        used = set(re.findall(r"var\((--[\w]+)\)", chart))
        assert used
        assert all(f"{variable}:" in page for variable in used)


def test_repeated_steps_of_a_restart_count_once(full: Path, page: str) -> None:
    view = read_run(full)
    joint = view.stages[-1]
    assert joint.steps == 150
    assert joint.totals["targets"] == 2 * 150 * 64
    assert joint.totals["lm_rows_forward"] == 2 * 150 * 200
    assert [step for step, _ in joint.loss] == list(range(1, 151))
    assert view.repeated_steps == 20
    text = Reader(page).text
    assert "20 steps since the last checkpoint had to be repeated." in text
    assert "Attempt 2 began" in text


def test_costs_per_target_equal_hand_counts(page: str) -> None:
    rows = {row[0]: row for row in Reader(page).rows if row and len(row) == 8}
    assert rows["joint"][3:7] == ["0.50", "3.12", "93.8", "0.31"]
    assert rows["gnn_warm"][3:7] == ["0.00", "0.00", "0.00", "0.31"]
    assert rows["joint"][7] == "950.0 MiB"


def test_partition_facts_come_from_the_manifest(page: str) -> None:
    text = Reader(page).text
    for fact in (
        "10 341 nodes",
        "40 140 edges",
        "2 × 2 hosts × trainers",
        "8.1 % of the edges join two hosts",
        "14.3 % of the edges join two parts",
        "17.6 MiB on disk",
        "6f1c2a90be77d0514c3a",
        "3 held-out edges of uses also occur",
    ):
        assert fact in text


def test_a_failed_run_says_what_failed_first(run: Path) -> None:
    events = (run / "events.jsonl").read_text().splitlines()
    (run / "events.jsonl").write_text("\n".join(events[:9]) + "\n")
    (run / "metrics.json").unlink()
    outcome = {
        "exit_code": 10,
        "class": "worker failed",
        "message": "trainer 1 failed",
        "first_failed": {
            "host": "n2",
            "role": "trainer",
            "rank": 1,
            "returncode": 137,
            "reading": "SIGKILL: killed",
        },
        "seconds": 61,
    }
    (run / "outcome.json").write_text(json.dumps(outcome))
    text = Reader(render(run)).text
    assert "This run has not finished; 1 stage began in 1:01 on 2 hosts × 2 trainers." in text
    assert "The run ended with code 10 (worker failed): trainer 1 failed" in text
    assert "First to fail: trainer 1 on host n2: SIGKILL: killed." in text
    assert "has no test figures yet" in text


def test_an_outcome_older_than_the_end_of_the_run_is_not_this_ones(run: Path) -> None:
    outcome = {"exit_code": 10, "class": "worker failed", "message": "an earlier start", "seconds": 5}
    (run / "outcome.json").write_text(json.dumps(outcome))
    os.utime(run / "outcome.json", (1_790_000_000.0, 1_790_000_000.0))
    text = Reader(render(run)).text
    assert "an earlier start" not in text
    assert "LM-GNN reaches MRR 0.718" in text


REMOVABLE = ["metrics.json", "launch.json", "outcome.json", "events.jsonl", "report/before.json"]


@pytest.mark.parametrize("name", [*REMOVABLE, "../partition/manifest.json"])
def test_a_missing_piece_is_left_out_without_failing(run: Path, name: str) -> None:
    (run / name).unlink()
    assert Reader(render(run)).text.count("python-packages") >= 1


@pytest.mark.parametrize("name", ["metrics.json", "launch.json", "outcome.json", "report/after.json"])
def test_a_broken_piece_is_named(run: Path, name: str) -> None:
    (run / name).write_text('{"tasks": ')
    assert f"{Path(name).name} could not be read" in Reader(render(run)).text


def test_steps_without_costs_do_not_stop_the_report(run: Path) -> None:
    stripped = re.sub(
        r'"(targets|lm_\w+|\w+_s|loss|remote_rows)": [-\d.e]+(, )?', "", (run / "events.jsonl").read_text()
    )
    (run / "events.jsonl").write_text(stripped.replace(", }", "}"))
    (run / "events-1.jsonl").unlink()
    assert "LM-GNN reaches MRR 0.718" in Reader(render(run)).text


def test_embeddings_that_were_not_recorded_are_mentioned(run: Path) -> None:
    assert "No embeddings were recorded" in Reader(render(run)).text


def test_broken_examples_and_embeddings_are_named(run: Path) -> None:
    (run / "report" / "after.json").write_text('[{"relation": "uses"}, 3]')
    (run / "report" / "projection.npz").write_bytes(b"no numbers")
    text = Reader(render(run)).text
    assert "4 ranking examples are incomplete" in text
    assert "picture could not be made" in text


def test_figures_that_are_no_numbers_do_not_stop_the_report(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["tasks"]["uses"] |= {"test": math.nan, "baselines": {"TF-IDF": None}}
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert "This run has no test figures yet" in Reader(render(run)).text


def test_a_folder_that_is_no_run_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run folder"):
        render(tmp_path)


def test_the_command_writes_the_file_and_prints_its_path(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(run), "--json"]) == 0
    path = Path(json.loads(capsys.readouterr().out)["report"])
    assert path == run / "report.html"
    assert path.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    "secret",
    [
        "AWS_SECRET_ACCESS_KEY=hunter2",
        '"aws_session": "hunter2"',
        "HF_TOKEN=hunter2",
        "--token hunter2",
        "s3://me:hunter2@bucket/x",
        "s3://bucket/x?X-Amz-Signature=hunter2&y=1",
    ],
)
def test_secrets_do_not_reach_the_report(secret: str) -> None:
    assert "hunter2" not in redact(f"run {secret} more")
    assert redact(f"run {secret} more").endswith("more")


def test_ordinary_settings_are_not_taken_for_secrets() -> None:
    text = '--set stages.joint.lm_rate=1e-5 "max_tokens": 5 s3://bucket/path tokens: 7'
    assert redact(text) == text


def test_the_projection_is_limited_and_keeps_connected_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection_module, "MOST_NODES", 250)
    draw = np.random.default_rng(3)
    edges = np.array([(i, i + 3000) for i in range(100)])
    rows = draw.normal(size=(6000, 4)).astype(np.float32)
    rows[3000:3100] = rows[:100] + 0.01
    path = tmp_path / "p.npz"
    np.savez(path, lm_gnn=rows, group=np.array(["a"] * 6000), edges=edges)
    seen = project(path)
    assert (len(seen.group_of), len(seen.edges), seen.left_out) == (250, 100, 5750)
    assert seen.panels[0].note == "connected pair closer than a random one: 100 %"
    assert np.isfinite(seen.panels[0].points).all()


def run_module(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=cwd,
    )


def test_an_error_of_a_command_is_one_line_and_its_exit_code(tmp_path: Path) -> None:
    done = run_module("report", str(tmp_path), cwd=tmp_path)
    assert done.returncode == UsageError.exit_code
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_the_help_of_the_commands_imports_no_heavy_library(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pipeline.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'dgl', 'matplotlib', 'numpy'} & set(sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "report" in done.stdout
