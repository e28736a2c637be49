"""The last screen of a finished run: figures beside baselines, leak warnings, what lies where.

Owns what is said of metrics.json, leaks.json and export/. Never computes a figure and never writes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from launch.console import Console
from pipeline.overview import Figure, TaskLine, leak_warnings, metric_name, task_lines

_COLUMNS = ("task", "metric", ">text only", ">graph only", ">text + graph (classical)", ">LM-GNN")
_EXPORTED = {
    "embeddings": "embeddings",
    "predictions": "predictions",
    "head.safetensors": "head",
    "lm": "language model",
}
"""Entry of export/TASK -> what people call it."""


def show_results(console: Console, run: Path) -> None:
    """Everything about results that a folder holds; pieces that are missing are passed over."""
    metrics = _json(run / "metrics.json")
    lines = task_lines(metrics.get("tasks", {}) if isinstance(metrics, dict) else {})
    if lines:
        console.table("Test figures", _COLUMNS, [_row(line) for line in lines])
    leaks = _json(run / "leaks.json")
    warnings = leak_warnings(leaks) if isinstance(leaks, list) else 0
    if warnings:
        console.say(f"{warnings} leak warning{'s' * (warnings > 1)}: read {run / 'leaks.json'} or the report")
    saved = _saved(run / "export")
    if saved:
        console.say(f"saved to {run / 'export'}: {saved}")


def _row(line: TaskLine) -> list[str]:
    sides = (_cell(line.text, "tfidf"), _cell(line.graph, "graph"), _cell(line.both, "tfidf_neighbours"))
    return [line.task, metric_name(line.metric), *sides, f"{line.test:.4f}"]


def _cell(figure: Figure | None, usual: str) -> str:
    """A baseline is named where it is not the usual one of its column."""
    if figure is None:
        return "–"
    return f"{figure.value:.4f}" if figure.name == usual else f"{figure.name} {figure.value:.4f}"


def _saved(export: Path) -> str:
    """What of which tasks: "embeddings, head of uses, kind"."""
    if not export.is_dir():
        return ""
    tasks = sorted(path for path in export.iterdir() if path.is_dir())
    found = [word for name, word in _EXPORTED.items() if any((task / name).exists() for task in tasks)]
    names = ", ".join(task.name.replace("%2F", "/").replace("%25", "%") for task in tasks)
    return f"{', '.join(found)} of {names}" if found else ""


def _json(path: Path) -> Any:
    """Parsed JSON; {} when the file is missing or broken, which the report tells."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
