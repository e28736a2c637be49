"""The picture and the table of docs/efficiency.md, from the results of accuracy_cost.py.

`python benchmarks/accuracy_plot.py` writes docs/accuracy_cost.png and prints the table. Runs nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from runs import read_json

HERE = Path(__file__).resolve().parent
FIGURES = {"depends": "MRR", "wn18rr": "MRR", "section": "accuracy"}
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#7f7f7f", "#9467bd", "#8c564b", "#e377c2", "#ff7f0e")
COSTS = {"lm_tokens": "LM tokens of the stage so far", "cpu_s": "CPU seconds of the stage so far"}
_HEAD = (
    "question",
    "setting",
    "seeds",
    "before",
    "targets",
    "after them",
    "less `joint`'s",
    "at equal tokens",
    "LM tokens a target",
    "CPU s",
    "has `joint`'s best after",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=HERE / "results" / "accuracy_cost.json")
    parser.add_argument("--output", type=Path, default=HERE.parent / "docs" / "accuracy_cost.png")
    parser.add_argument(
        "--settings", nargs="*", metavar="NAME", help="in the picture, up to eight; unset: the first"
    )
    options = parser.parse_args()
    result = read_json(options.results)
    wanted = options.settings or [run["setting"] for run in result["runs"]]
    picture([run for run in result["runs"] if run["setting"] in wanted]).savefig(options.output, dpi=110)
    print(table(result["summary"]))
    return 0


def picture(runs: Sequence[Mapping[str, Any]]) -> Figure:
    """Two panels per question: the figure against LM tokens and against CPU seconds, a line per setting (mean
    of seeds, each seed thin)."""
    questions = list(dict.fromkeys(run["question"] for run in runs))
    settings = list(dict.fromkeys(run["setting"] for run in runs))
    figure = Figure(figsize=(4.2 * len(questions), 3.4 * len(COSTS)), layout="constrained")
    grid = figure.subplots(len(COSTS), len(questions), squeeze=False)
    for axes, (cost, label) in zip(grid, COSTS.items(), strict=True):
        for question, panel in zip(questions, axes, strict=True):
            for setting, colour in zip(settings, COLOURS, strict=False):
                found = [r["points"] for r in runs if (r["question"], r["setting"]) == (question, setting)]
                if found:
                    _lines(panel, found, cost, colour, setting)
            panel.set_title(question, loc="left")
            panel.set_xscale("symlog", linthresh=1e4 if cost == "lm_tokens" else 1)
            panel.set_xlabel(label)
            panel.set_ylabel(f"validation {FIGURES[question]}")
            panel.spines[["top", "right"]].set_visible(False)
    told = {
        label: line
        for panel in grid.flat
        for line, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(told.values(), told.keys(), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure


def _lines(
    panel: Axes, curves: Sequence[Sequence[Mapping[str, float]]], cost: str, colour: str, setting: str
) -> None:
    costs, values = (  # as far as all seeds go
        [mean(column) for column in zip(*([p[name] for p in c] for c in curves), strict=False)]
        for name in (cost, "value")
    )
    if not costs[-1]:  # no language model ran: a level to compare with
        panel.axhline(values[-1], color=colour, linestyle="--", label=f"{setting} (at its end)")
        return
    for curve in curves:
        panel.plot([p[cost] for p in curve], [p["value"] for p in curve], color=colour, lw=0.6, alpha=0.5)
    panel.plot(costs, values, color=colour, marker="o", markersize=3, label=setting)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The summary as Markdown."""
    lines = ["| " + " | ".join(_HEAD) + " |", "|" + "---|" * len(_HEAD)]
    for row in rows:
        reached = row["reaches_joint"]
        after = (
            f": {reached['cpu_s']:.0f} CPU s, {reached['of_joint']:.2f} of its" if reached["seeds"] else ""
        )
        cells = [
            row["question"],
            f"`{row['setting']}`",
            str(row["seeds"]),
            _share(row["start"]),
            f"{row['targets']:,.0f}",
            _share(row["last"]),
            _points(row["minus_joint"]),
            _share(row["equal_tokens"]),
            f"{row['lm_tokens'] / row['targets']:,.0f}",
            f"{row['cpu_s']:.0f}",
            f"{reached['seeds']} of {reached['of']}{after}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}".removeprefix("0")


def _points(value: float | None) -> str:
    return "" if value is None else f"{100 * value:+.2f}"


if __name__ == "__main__":
    raise SystemExit(main())
