"""The last screen of a run: one line per task, leak warnings, what was saved where."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from launch.console import Console
from launch.summary import show_results

TASKS = {
    "package": {
        "metric": "accuracy",
        "test": 0.93,
        "baselines": {"majority": 0.4, "tfidf": 0.88, "graph": 0.71, "tfidf_neighbours": 0.9},
    },
    "uses": {
        "metric": "mrr",
        "test": 0.8317,
        "baselines": {"popularity": 0.3199, "tfidf": 0.4234, "graph": 0.2, "tfidf_neighbours": None},
    },
}


def screen(run: Path) -> str:
    stream = io.StringIO()
    show_results(Console(stream), run)
    return stream.getvalue()


def cells(shown: str, task: str) -> list[str]:
    (line,) = [line for line in shown.splitlines() if line.startswith(f"│ {task} ")]
    return [cell.strip() for cell in line.strip("│").split("│")]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "metrics.json").write_text(json.dumps({"tasks": TASKS}))
    return tmp_path


def test_every_task_has_a_line_with_the_model_beside_text_and_graph_alone(run: Path) -> None:
    shown = screen(run)
    for word in ("text only", "graph only", "text + graph (classical)", "LM-GNN"):
        assert word in shown
    assert cells(shown, "package") == ["package", "accuracy", "0.8800", "0.7100", "0.9000", "0.9300"]


def test_the_better_one_of_two_baselines_is_named_where_it_is_not_the_usual_one(run: Path) -> None:
    assert cells(screen(run), "uses") == ["uses", "MRR", "0.4234", "popularity 0.3199", "–", "0.8317"]


def test_leak_warnings_are_counted_with_where_to_read_them(run: Path) -> None:
    leaks = [{"task": "uses", "level": level} for level in ("warning", "note", "warning")]
    (run / "leaks.json").write_text(json.dumps(leaks))
    assert f"2 leak warnings: read {run / 'leaks.json'} or the report" in screen(run)


def test_notes_on_leaks_are_left_to_the_report(run: Path) -> None:
    (run / "leaks.json").write_text(json.dumps([{"task": "uses", "level": "note"}]))
    assert "leak" not in screen(run)


def test_what_was_saved_is_named_with_its_tasks(run: Path) -> None:
    for task in ("uses", "a%2Fb"):
        (run / "export" / task / "embeddings").mkdir(parents=True)
    (run / "export" / "uses" / "predictions").mkdir()
    assert f"saved to {run / 'export'}: embeddings, predictions of a/b, uses" in screen(run)


def test_an_empty_or_broken_folder_shows_nothing(tmp_path: Path) -> None:
    assert screen(tmp_path) == ""
    (tmp_path / "metrics.json").write_text("{")
    assert screen(tmp_path) == ""


def test_the_last_screen_imports_no_training_library() -> None:
    code = (
        "import sys, launch.summary\n"
        "assert not {'torch', 'numpy', 'pyarrow', 'matplotlib'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
