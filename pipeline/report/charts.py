"""Charts as inline SVG that follows the page's light or dark colours.

Owns how figures look. Charts are drawn by matplotlib with stand-in colours that become CSS variables, text
stays text, and the same data gives the same bytes. Never reads files.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.lines
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from pipeline.overview import metric_name
from pipeline.report.nodetexts import one_line
from pipeline.report.projection import Panel
from pipeline.report.stageview import NEGATED_LOSS, TIME_PARTS, Evaluation, StageView

INK, MUTED, LINE, ACCENT, QUIET = "#010101", "#010102", "#010103", "#010104", "#010105"
PALETTE = tuple(f"#0102{n:02x}" for n in range(9))
"""Colours of up to eight groups and, last, of all others."""
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    ACCENT: "var(--accent)",
    QUIET: "var(--quiet)",
    **{colour: f"var(--c{n})" for n, colour in enumerate(PALETTE)},
}
TIME_LABELS = {
    "sample_s": "sampling",
    "fetch_s": "fetching rows",
    "compute_s": "forward + backward",
    "step_s": "gradients + optimizer",
    "eval": "evaluation",
    "checkpoint": "checkpoints",
    "other": "other",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
_POINTS = 400
_CLASS_LETTERS = 26
_DARKEST = 0.6
"""Opacity of a full cell; the ink above it stays readable, light or dark."""


def comparison(metric: str, ours: float, baselines: Mapping[str, float], *, name: str) -> str:
    """Horizontal bars of one task, best first; ours in the accent colour, every bar with its figure."""
    bars = sorted([("LM-GNN", ours), *baselines.items()], key=lambda item: item[1])
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8.6, 0.55 + 0.36 * len(bars)))
        axes = figure.add_subplot()
        names = [name for name, _ in bars]
        drawn = axes.barh(
            range(len(bars)),
            [value for _, value in bars],
            color=[ACCENT if name == "LM-GNN" else QUIET for name in names],
            height=0.68,
        )
        axes.bar_label(drawn, [f"{value:.3f}" for _, value in bars], padding=4, color=INK)
        axes.set_yticks(range(len(bars)), names)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_xlim(0, max(*(value for _, value in bars), 1e-9) * 1.12)
        axes.set_xlabel(f"{metric} on the test split")
        axes.spines["left"].set_visible(False)
        return _svg(figure, f"comparison-{name}", f"{metric} of LM-GNN and the baselines")


def confusion(classes: Sequence[str], counts: Sequence[Sequence[int]], *, name: str) -> str:
    """True class (rows) by predicted class; cells say how many, their shade the share of the row."""
    size = len(classes)
    names = [one_line(c, _CLASS_LETTERS) for c in classes]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8.6, 1.5 + 0.34 * size))
        axes = figure.add_subplot(xlim=(0, size), ylim=(size, 0))
        for row, of_row in enumerate(counts):
            for column, count in enumerate(of_row):
                if count:
                    shade = _DARKEST * count / sum(of_row)
                    colour = ACCENT if row == column else MUTED
                    axes.add_patch(Rectangle((column, row), 1, 1, color=colour, alpha=shade, linewidth=0))
                    axes.text(column + 0.5, row + 0.5, str(count), ha="center", va="center", fontsize=8)
        axes.set_yticks(np.arange(size) + 0.5, names)
        axes.set_xticks(np.arange(size) + 0.5, names)
        if max(map(len, names)) > 6:
            axes.set_xticks(axes.get_xticks(), names, rotation=30, ha="right", rotation_mode="anchor")
        axes.tick_params(length=0, labelcolor=INK, labelsize=8)
        axes.set_ylabel("true class")
        axes.set_xlabel("predicted class")
        return _svg(figure, f"confusion-{name}", f"Which class of {name} was taken for which")


def curves(stage: StageView) -> str:
    """Loss by step and, where there are evaluations, the stage's own metric beside it."""
    valid = stage.validation
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8.6, 2.3))
        panels = figure.subplots(1, 2 if valid else 1, squeeze=False)[0]
        _loss(panels[0], stage)
        if valid:
            _validation(panels[1], valid)
        for axes in panels:
            axes.grid(axis="y")
            axes.set_axisbelow(True)
            axes.set_xlabel("step")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        return _svg(figure, f"curve-{stage.name}", f"Loss and validation of stage {stage.name}")


def metric_label(metric: str) -> str:
    """What a stage's figure on the validation split is called."""
    return "held-out loss" if metric == NEGATED_LOSS else f"validation {metric_name(metric)}"


def times(stages: Sequence[StageView]) -> str:
    """Where the time of each stage went: stacked bars in seconds, mean over the trainers."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8.6, 1.15 + 0.34 * len(stages)))
        axes = figure.add_subplot()
        left = np.zeros(len(stages))
        rows = np.arange(len(stages))[::-1]
        colours = (*PALETTE[: len(TIME_PARTS) - 1], PALETTE[-1])
        for part, colour in zip(TIME_PARTS, colours, strict=True):
            widths = np.array([stage.times[part] for stage in stages])
            axes.barh(rows, widths, left=left, color=colour, height=0.62, label=TIME_LABELS[part])
            left += widths
        axes.set_yticks(rows, [stage.name for stage in stages])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_xlabel("seconds, mean over the trainers")
        axes.spines["left"].set_visible(False)
        figure.legend(loc="outside upper left", ncols=4, fontsize=8, labelcolor=MUTED, handlelength=1)
        return _svg(figure, "times", "Seconds of each stage by what they went into")


def projection(
    panels: Sequence[Panel], groups: Sequence[str], group_of: np.ndarray, edges: np.ndarray
) -> str:
    """Points coloured by group, connected pairs joined by thin lines. `group_of` indexes `groups`."""
    colours = np.array([*PALETTE[: len(groups) - 1], PALETTE[-1]] if groups[-1] == "other" else PALETTE)
    with matplotlib.rc_context({**_STYLE, "axes.edgecolor": LINE, "axes.spines.top": True}):
        figure = Figure(figsize=(8.6, 3.55))
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            axes.add_collection(
                LineCollection(list(panel.points[edges]), colors=MUTED, linewidths=0.35, alpha=0.4)
            )
            for number in range(len(groups)):
                of_group = panel.points[group_of == number]
                axes.plot(*of_group.T, ".", ms=4.6, mew=0, alpha=0.9, color=colours[number])
            axes.set_title(panel.title)
            axes.set_xlabel(panel.note, fontsize=8)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.margins(0.04)
            axes.spines["right"].set_visible(True)
        handles = [
            matplotlib.lines.Line2D([], [], marker="o", ls="", ms=5, mew=0, color=colours[n])
            for n in range(len(groups))
        ]
        figure.legend(
            handles,
            groups,
            loc="outside lower center",
            ncols=min(len(groups), 5),
            fontsize=8,
            labelcolor=MUTED,
        )
        return _svg(
            figure, "projection", "Embeddings of the same nodes before and after training, in two dimensions"
        )


def _loss(axes: Axes, stage: StageView) -> None:
    steps, losses = _thinned(np.array(stage.loss, dtype=float).reshape(-1, 2))
    axes.set_title("loss")
    if not len(steps):
        axes.text(0.5, 0.5, "no finite loss", ha="center", transform=axes.transAxes, color=MUTED)
        return
    width = max(1, len(losses) // 20)
    smooth = np.convolve(
        np.pad(losses, (width // 2, (width - 1) // 2), mode="edge"), np.ones(width) / width, "valid"
    )
    axes.plot(steps, losses, color=QUIET, linewidth=0.8, alpha=0.8)
    axes.plot(steps, smooth, color=ACCENT, linewidth=1.6)


def _validation(axes: Axes, evaluations: Sequence[Evaluation]) -> None:
    axes.set_title(metric_label(evaluations[0].metric))
    points = [(e.step, e.shown) for e in evaluations]
    axes.plot(*zip(*points, strict=True), color=ACCENT, linewidth=1.4, marker="o", markersize=4)
    axes.margins(0.08, 0.22)
    best = [(e.step, e.shown) for e in evaluations if e.best]
    if best:
        axes.plot(*best[-1], "o", ms=8, mfc="none", mec=INK)
        axes.annotate(f"{best[-1][1]:.3f}", best[-1], (0, 8), textcoords="offset points", ha="center")


def _thinned(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values), at most _POINTS of each: means of neighbours beyond that."""
    if len(points) > _POINTS:
        points = np.array([part.mean(axis=0) for part in np.array_split(points, _POINTS)])
    return points[:, 0], points[:, 1]


def _svg(figure: Figure, name: str, label: str) -> str:
    """Bare <svg> element with ids of its own and without links, dates or fixed size."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    prefix = re.sub(r"[^A-Za-z0-9-]", lambda letter: f"_{ord(letter[0]):x}_", name)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", text)
    text = re.sub(
        r'<svg width="[^"]*" height="[^"]*"',
        f'<svg role="img" aria-label="{_attribute(label)}"',
        text,
        count=1,
    )
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return text


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
