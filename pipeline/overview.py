"""A run in one line per task: the model beside what text alone and the graph alone reach.

Owns which side of the data a baseline sees, and what figures and leaks are called. Standard library
only, because `launch` shows the same lines when a run ends. Never opens a file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WHAT_BASELINES_SEE = {
    "popularity": ("graph", "how often a node is a true answer in training"),
    "majority": ("", "the most frequent class of training, for all"),
    "tfidf": ("text", "words of the texts alone"),
    "graph": ("graph", "the graph without any text"),
    "tfidf_neighbours": ("both", "words of the texts and of their neighbours' texts"),
}
"""Baseline -> (side of the data: text, graph, both or none; sentence)."""
_METRIC_NAMES = {"mrr": "MRR", "macro_f1": "macro F1", "micro_f1": "micro F1"}


@dataclass(frozen=True)
class Figure:
    """A baseline and what it reaches on the test split."""

    name: str
    value: float


@dataclass(frozen=True)
class TaskLine:
    """One task on the test split, all in its own metric; None where no such baseline was measured."""

    task: str
    metric: str
    test: float
    text: Figure | None
    """Best baseline that sees texts alone."""
    graph: Figure | None
    """Best one that sees the graph alone."""
    both: Figure | None
    """Best classical one that sees both."""
    best: Figure | None
    """Best one of all."""


def task_lines(tasks: Mapping[str, Any]) -> tuple[TaskLine, ...]:
    """Lines of `tasks` of a metrics.json; tasks without a finite test figure are left out."""
    lines = []
    for name, entry in tasks.items():
        test = number(entry.get("test"))
        if test is not None:
            known = baselines_of(entry)
            sides = {side: _best(known, side) for side in ("text", "graph", "both")}
            lines.append(
                TaskLine(name, str(entry.get("metric", "metric")), test, **sides, best=_best(known, None))
            )
    return tuple(lines)


def baselines_of(entry: Mapping[str, Any]) -> tuple[Figure, ...]:
    """Finite baselines of a task in metrics.json, best first."""
    values = {str(name): number(value) for name, value in (entry.get("baselines") or {}).items()}
    known = [Figure(name, value) for name, value in values.items() if value is not None]
    return tuple(sorted(known, key=lambda figure: -figure.value))


def leak_warnings(leaks: Sequence[Mapping[str, Any]]) -> int:
    """How many entries of a leaks.json are warnings."""
    return sum(leak.get("level") == "warning" for leak in leaks)


def number(value: Any) -> float | None:
    """A finite number, or None for whatever else stands there."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def metric_name(metric: str) -> str:
    """What people call a metric of metrics.json."""
    if metric.startswith("full_"):
        return f"full {metric_name(metric.removeprefix('full_'))}"
    base, _, direction = metric.partition("_")
    if direction in ("head", "tail"):
        return f"{metric_name(base)}, {direction}s asked for"
    return _METRIC_NAMES.get(metric, metric)


def _best(known: Sequence[Figure], side: str | None) -> Figure | None:
    """The first of a side, or of all."""
    seen = (f for f in known if side is None or WHAT_BASELINES_SEE.get(f.name, ("", ""))[0] == side)
    return next(seen, None)
