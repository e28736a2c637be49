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
    "wall s",
    "reaches `joint`'s best",
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
    """A panel per question: the figure against LM tokens, a line per setting (mean of seeds, each seed
    thin)."""
    questions = list(dict.fromkeys(run["question"] for run in runs))
    settings = list(dict.fromkeys(run["setting"] for run in runs))
    figure = Figure(figsize=(4.2 * len(questions), 3.6), layout="constrained")
    axes = figure.subplots(1, len(questions), squeeze=False)[0]
    for question, panel in zip(questions, axes, strict=True):
        for setting, colour in zip(settings, COLOURS, strict=False):
            found = [
                run["points"] for run in runs if (run["question"], run["setting"]) == (question, setting)
            ]
            if found:
                _lines(panel, found, colour, setting)
        panel.set_title(question, loc="left")
        panel.set_xscale("symlog", linthresh=1e4)
        panel.set_xlabel("LM tokens of the stage so far")
        panel.set_ylabel(f"validation {FIGURES[question]}")
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def _lines(panel: Axes, curves: Sequence[Sequence[Mapping[str, float]]], colour: str, setting: str) -> None:
    tokens = [mean(values) for values in zip(*([p["lm_tokens"] for p in c] for c in curves), strict=True)]
    values = [mean(values) for values in zip(*([p["value"] for p in c] for c in curves), strict=True)]
    if not tokens[-1]:  # no language model ran: a level to compare with
        panel.axhline(values[-1], color=colour, linestyle="--", label=f"{setting} (at its end)")
        return
    for curve in curves:
        panel.plot(
            [p["lm_tokens"] for p in curve], [p["value"] for p in curve], color=colour, lw=0.6, alpha=0.5
        )
    panel.plot(tokens, values, color=colour, marker="o", markersize=3, label=setting)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The summary as Markdown."""
    lines = ["| " + " | ".join(_HEAD) + " |", "|" + "---|" * len(_HEAD)]
    for row in rows:
        reached = row["reaches_joint"]
        after = f": {reached['wall_s']:.0f} s" if reached["seeds"] else ""
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
            f"{row['wall_s']:.0f}",
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
