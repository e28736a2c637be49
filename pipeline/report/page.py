"""`python -m pipeline report RUN`: one HTML file that tells a colleague what a run did.

Owns what the report says; runview.py reads, charts.py draws, templates/report.html lays out. Never changes
anything in the run folder but report.html. Everything is inside the file: no link, no script.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from partition.manifest import SPLITS, PartitionManifest
from pipeline.durable import write_whole
from pipeline.events import clock
from pipeline.overview import metric_name
from pipeline.report import charts
from pipeline.report.projection import project
from pipeline.report.results import Result, results_of
from pipeline.report.runview import RunView, read_run
from pipeline.report.stageview import StageView

WHAT_STAGES_DO = {
    "mlm": (
        "masked words",
        "The language model learns the words of the graph's own texts by guessing masked tokens.",
    ),
    "graph_lm": (
        "graph-aware language model",
        "The language model learns the graph: texts of connected nodes are drawn together, "
        "by link prediction on text embeddings alone.",
    ),
    "task_lm": (
        "language model alone",
        "The language model learns the task through the texts of its targets, without the graph.",
    ),
    "gnn_warm": (
        "warm start of the GNN",
        "GNN and decoder are trained while the language model stands still; every text is encoded once.",
    ),
    "joint": (
        "joint fine-tuning",
        "Language model, GNN and decoder are trained end to end; gradients reach a chosen number "
        "of texts per batch, the others run forward only.",
    ),
}
"""Kind of a stage -> (short title, sentence)."""
MOST_EXAMPLES = 8
_SECRET_NAME = r"(?:\w*(?:secret\w*|token|password|passwd|access_key\w*|api_?key)|aws_\w+)"
_SECRETS = (
    re.compile(rf"(?i)(\b{_SECRET_NAME}[\"']?\s*[=:]\s*[\"']?)[^\s\"',]+"),
    re.compile(rf"(?i)(--{_SECRET_NAME.replace('_', '[_-]')}\s+)[^\s\"',]+"),
    re.compile(r"(://)[^/\s@\"']+(?=@)"),
    re.compile(r"(?i)([?&](?:x-amz-[\w-]+|signature|sig|awsaccesskeyid)=)[^&\s\"']+"),
)


@dataclass(frozen=True)
class StageResult:
    """A stage, its curve, and what its figures are called."""

    view: StageView
    title: str
    what: str
    chart: Markup | None
    label: str
    """Of the stage's metric."""


def render(run_folder: str | Path) -> str:
    """The report of a run folder as HTML; missing pieces are named in it. UsageError if it is none."""
    run = read_run(run_folder)
    notes = list(run.missing)
    environment = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "clock": clock,
        "figure": _figure,
        "count": _count,
        "size": _size,
        "signed": _signed,
        "metric": metric_name,
    }
    results = results_of(run)
    figure_1 = _projection(run, notes)
    timed = [stage for stage in run.stages if stage.seconds > 0]
    return environment.get_template("report.html").render(
        run=run,
        headline=_headline(run, results),
        results=results,
        titles={kind: title for kind, (title, _) in WHAT_STAGES_DO.items()},
        stages=[_stage_result(stage, run) for stage in run.stages],
        examples=run.examples[:MOST_EXAMPLES],
        projection=figure_1,
        partition=_partition(run.manifest) if run.manifest else None,
        times=Markup(charts.times(timed)) if timed else None,
        events=_story(run),
        plan=redact(run.plan.to_json()) if run.plan else "",
        command=redact(_command(run.launch.get("command"))),
        versions=sorted(run.versions.items()),
        made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        splits=SPLITS,
        notes=notes,
    )


def redact(text: str) -> str:
    """The text without credentials: values of secrets, tokens and passwords, and those inside URLs."""
    for pattern in _SECRETS:
        text = pattern.sub(r"\1•••", text)
    return text


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="lmgnn report",
        description="Write RUN/report.html: results beside baselines, stages, examples, costs.",
        epilog="example: lmgnn report runs/latest",
    )
    parser.add_argument("run", type=Path, help="folder of a run, finished or not")
    parser.add_argument("--output", type=Path, help="file to write instead of RUN/report.html")
    parser.add_argument("--json", action="store_true", help="print the path as JSON")
    options = parser.parse_args(argv)
    path: Path = options.output or options.run / "report.html"
    write_whole(path, render(options.run), sync=False)
    print(json.dumps({"report": str(path)}) if options.json else path)
    return 0


def _headline(run: RunView, results: Sequence[Result]) -> str:
    place = f"in {clock(run.seconds)} on {_plural(run.hosts, 'host')} × {_plural(run.trainers, 'trainer')}"
    if not results:
        state = "has no test figures yet" if run.finished else "has not finished"
        return f"This run {state}; {_plural(len(run.stages), 'stage')} began {place}."
    sentences = []
    for result in results:
        line, best = result.line, result.line.best
        beside = f" (best baseline: {best.name} {_figure(best.value)})" if best else ""
        sentences.append(f"{metric_name(line.metric)} {_figure(line.test)} on {line.task}{beside}")
    return f"LM-GNN reaches {'; '.join(sentences)}, {place}."


def _stage_result(stage: StageView, run: RunView) -> StageResult:
    plans = run.plan.stages if run.plan else ()
    task = next((plan.task for plan in plans if plan.name == stage.name), "")
    label = charts.metric_label(stage.metric) + (f" of {task}" if task else "")
    chart = Markup(charts.curves(stage)) if stage.loss or stage.evaluations else None
    title, what = WHAT_STAGES_DO.get(stage.kind, (stage.kind, ""))
    return StageResult(stage, title, what, chart, label)


def _projection(run: RunView, notes: list[str]) -> Mapping[str, Any] | None:
    path = run.folder / "report" / "projection.npz"
    if not path.exists():
        if run.predicts_links:
            notes.append("No embeddings were recorded for the two-dimensional picture.")
        return None
    try:
        seen = project(path)
    except (ValueError, OSError, KeyError) as error:
        notes.append(f"The two-dimensional picture could not be made: {error}.")
        return None
    svg = charts.projection(seen.panels, seen.groups, seen.group_of, seen.edges)
    return {
        "svg": Markup(svg),
        "nodes": len(seen.group_of),
        "edges": len(seen.edges),
        "left_out": seen.left_out,
    }


def _partition(manifest: PartitionManifest) -> Mapping[str, Any]:
    forward = [r for r in manifest.relations if not r.is_reverse]
    levels = (("hosts", manifest.hosts), ("parts", manifest.parts))
    balance = manifest.stats.get("balance", {})
    return {
        "manifest": manifest,
        "relations": forward,
        "reversed": len(manifest.relations) - len(forward),
        "nodes": sum(t.count for t in manifest.node_types),
        "edges": sum(r.count for r in forward),
        "size": sum(info.size for info in manifest.files.values()),
        "clusters": sum(manifest.clusters),
        "cut": {
            level: float(manifest.stats["cut"][level])
            for level, number in levels
            if number > 1 and level in manifest.stats.get("cut", {})
        },
        "balance": [
            (level, what, [int(v) for v in values], max(values) * len(values) / sum(values))
            for level, number in levels
            if number > 1
            for what, values in balance.get(level, {}).items()
            if sum(values) > 0
        ],
        "leaks": manifest.stats.get("leaks", {}),
    }


def _story(run: RunView) -> list[str]:
    """Failures and restarts, a sentence each."""
    story = []
    for before, after in zip(run.attempts, run.attempts[1:], strict=False):
        story.append(
            f"Attempt {after['attempt']} began {clock(after['time'] - before['time'])} after the one before."
        )
    if run.repeated_steps:
        story.append(f"{_plural(run.repeated_steps, 'step')} since the last checkpoint had to be repeated.")
    failed = run.outcome.get("first_failed")
    if run.outcome.get("exit_code"):
        outcome = run.outcome
        story.append(
            f"The run ended with code {outcome['exit_code']} ({outcome.get('class', '')}): "
            f"{outcome.get('message', '')}"
        )
    if failed:
        story.append(
            f"First to fail: {failed.get('role')} {failed.get('rank')} on host {failed.get('host')}: "
            f"{failed.get('reading') or failed.get('returncode')}."
        )
    return [redact(sentence) for sentence in story]


def _command(command: object) -> str:
    return " ".join(map(str, command)) if isinstance(command, list | tuple) else str(command or "")


def _figure(value: float) -> str:
    return f"{value:.3f}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _count(value: float) -> str:
    return f"{value:,.0f}".replace(",", "\u202f")


def _size(size_bytes: float) -> str:
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(int(math.log(max(size_bytes, 1), 1024)), len(units) - 1)
    return f"{size_bytes / 1024**power:.{min(power, 1)}f} {units[power]}"


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
