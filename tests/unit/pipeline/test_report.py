"""The report of a made-up but complete run: right figures, escaped texts, nothing loaded."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from report_runs import METRICS, SCRIPT, STAGES, Reader, make_run, svg_texts, write_projection

from partition.errors import UsageError
from pipeline.report import projection as projection_module
from pipeline.report.page import main, redact, render
from pipeline.report.projection import project


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A short run of one stage that a test may damage."""
    return make_run(tmp_path, {"graph_lm": 12})


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a run of all four stages with a projection."""
    folder = make_run(tmp_path_factory.mktemp("full"), STAGES)
    write_projection(folder)
    return render(folder)


def test_the_headline_says_metric_best_baseline_time_and_size(page: str) -> None:
    expected = (
        "LM-GNN reaches MRR 0.718 on uses (best baseline: TF-IDF + neighbours 0.513), "
        "in 6:42 on 2 hosts × 2 trainers."
    )
    assert expected in Reader(page).text


def test_the_result_table_and_chart_hold_exactly_the_metrics(page: str) -> None:
    task = METRICS["tasks"]["uses"]
    what = " how often a node is a true answer in training"
    rows = {row[0].removesuffix(what): row[1:] for row in Reader(page).rows if row}
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
