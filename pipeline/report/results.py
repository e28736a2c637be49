"""What a run reached, task by task: the model beside its baselines, class by class, stage by stage.

Owns which figures are put side by side. Never reads a file and never lays anything out; charts are
drawn by charts.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from pipeline.config import StagePlan, TrainPlan
from pipeline.overview import (
    WHAT_BASELINES_SEE,
    TaskLine,
    baselines_of,
    metric_name,
    number,
    task_lines,
)
from pipeline.report import charts
from pipeline.report.mistakes import Judged, folded
from pipeline.report.runview import RunView
from pipeline.report.stageview import StageView, shown_value

MODEL = "LM-GNN"
MOST_CLASSES = 20
"""With more of them only the worst and the best MOST_CLASSES / 2 are shown at once."""
MOST_IN_CONFUSION = 12
_OF_A_CLASS = "f1/"


@dataclass(frozen=True)
class Method:
    """A row of the table of figures."""

    name: str
    what: str
    """What a baseline sees, and what was chosen for it on validation."""
    figures: Mapping[str, float]
    """Metric -> test figure."""
    gain: float | None
    """The model's test figure minus this one's, in the task's metric; None for the model."""


@dataclass(frozen=True)
class ClassRow:
    """A class on the test split."""

    name: str
    support: int | None
    """Test rows of it; None where predictions are missing."""
    f1: float
    baseline: float | None


@dataclass(frozen=True)
class Step:
    """A stage on the way to a task's model."""

    name: str
    kind: str
    label: str
    """What its figures are called."""
    start: float | None
    kept: float | None
    added: float | None
    """To the task's metric: to what the task's stage before it kept, or to its own start for the first
    one. None for stages that are measured by something else."""


@dataclass(frozen=True)
class Result:
    """One task on the test split."""

    line: TaskLine
    valid: float | None
    methods: tuple[Method, ...]
    """The model, then its baselines, best first."""
    metrics: tuple[str, ...]
    """Columns of their table."""
    full_metrics: tuple[str, ...]
    """Further ones, of a ranking against all nodes."""
    chart: Markup
    classes: tuple[ClassRow, ...]
    """By falling F1; empty for links."""
    class_baseline: str
    """Whose F1 stands in ClassRow.baseline; empty where none is known."""
    confusion: Markup | None
    judged: Judged | None
    chain: tuple[Step, ...]
    origin: str
    """Model of another run that the chain began with, or empty."""

    @property
    def full_methods(self) -> tuple[Method, ...]:
        """Those with figures of a full ranking."""
        return tuple(m for m in self.methods if m.figures.keys() & set(self.full_metrics))

    @property
    def worst_and_best(self) -> tuple[tuple[ClassRow, ...], tuple[ClassRow, ...]] | None:
        """None where all classes are shown at once."""
        half = MOST_CLASSES // 2
        return (self.classes[-half:], self.classes[:half]) if len(self.classes) > MOST_CLASSES else None


def results_of(run: RunView) -> tuple[Result, ...]:
    """Of every task with a finite test figure, in the order of metrics.json."""
    return tuple(_result(line, run) for line in task_lines(run.tasks))


def stages_to(plan: TrainPlan, task: str) -> tuple[tuple[StagePlan, ...], str]:
    """(stages that led to a task's model, first to last; model of another run they began with, or "")."""
    names = [stage.name for stage in plan.stages]
    own = [position for position, stage in enumerate(plan.stages) if stage.task == task]
    chain: list[StagePlan] = []
    position = own[-1] if own else -1
    while position >= 0:
        stage = plan.stages[position]
        chain.insert(0, stage)
        if ":" in stage.start:
            return tuple(chain), stage.start
        position = names.index(stage.start) if stage.start else position - 1
    return tuple(chain), ""


def _result(line: TaskLine, run: RunView) -> Result:
    entry = run.tasks[line.task]
    methods = _methods(line, entry)
    metrics = list(dict.fromkeys(name for method in methods for name in method.figures))
    metrics = [name for name in metrics if not name.startswith(_OF_A_CLASS)]
    full = [name for name in metrics if name.startswith(("full_", "recall@"))]
    judged = run.judged.get(line.task)
    classes, class_baseline = _classes(methods, judged)
    chain, origin = _chain(line.task, run)
    baselines = {figure.name: figure.value for figure in baselines_of(entry)}
    return Result(
        line=line,
        valid=number(entry.get("valid")),
        methods=methods,
        metrics=tuple(name for name in metrics if name not in full),
        full_metrics=tuple(full),
        chart=Markup(charts.comparison(metric_name(line.metric), line.test, baselines, name=line.task)),
        classes=classes,
        class_baseline=class_baseline,
        confusion=_confusion(line.task, judged) if judged else None,
        judged=judged,
        chain=chain,
        origin=origin,
    )


def _methods(line: TaskLine, entry: Mapping[str, Any]) -> tuple[Method, ...]:
    further, choices = entry.get("baseline_metrics") or {}, entry.get("baseline_choices") or {}
    ours = {line.metric: line.test, **_numbers(entry.get("test_metrics"))}
    methods = [Method(MODEL, "", ours, None)]
    for baseline in baselines_of(entry):
        _, what = WHAT_BASELINES_SEE.get(baseline.name, ("", ""))
        chosen = _choice(choices.get(baseline.name))
        figures = {line.metric: baseline.value, **_numbers(further.get(baseline.name))}
        what = "; ".join(filter(None, (what, chosen and f"{chosen} on validation")))
        methods.append(Method(baseline.name, what, figures, line.test - baseline.value))
    return tuple(methods)


def _numbers(values: Any) -> dict[str, float]:
    found = {str(name): number(value) for name, value in (values or {}).items()}
    return {name: value for name, value in found.items() if value is not None}


def _choice(chosen: Any) -> str:
    """What was chosen for a baseline, in words."""
    if isinstance(chosen, Mapping):
        return ", ".join(f"{key} = {value}" for key, value in chosen.items())
    return "" if chosen is None else str(chosen)


def _classes(methods: Sequence[Method], judged: Judged | None) -> tuple[tuple[ClassRow, ...], str]:
    """(rows by falling F1, the best baseline whose classes are known or "")."""
    model, *baselines = methods
    named = [m for m in baselines if any(key.startswith(_OF_A_CLASS) for key in m.figures)]
    beside = named[0].figures if named else {}
    rows = [
        ClassRow(
            name=key.removeprefix(_OF_A_CLASS),
            support=judged.support.get(key.removeprefix(_OF_A_CLASS), 0) if judged else None,
            f1=value,
            baseline=beside.get(key),
        )
        for key, value in model.figures.items()
        if key.startswith(_OF_A_CLASS)
    ]
    rows.sort(key=lambda row: (-row.f1, -(row.support or 0), row.name))
    return tuple(rows), named[0].name if named else ""


def _confusion(task: str, judged: Judged) -> Markup | None:
    classes, counts = folded(judged.pairs, MOST_IN_CONFUSION)
    return Markup(charts.confusion(classes, counts, name=task)) if len(classes) > 1 else None


def _chain(task: str, run: RunView) -> tuple[tuple[Step, ...], str]:
    """The stages that led to the task's model, as far as anything is known of them."""
    if run.plan is None:
        return (), ""
    plans, origin = stages_to(run.plan, task)
    views = {view.name: view for view in run.stages}
    recorded = run.tasks[task].get("stages") or {}
    steps: list[Step] = []
    before: float | None = None
    for plan in plans:
        metric, start, kept = _figures(views.get(plan.name), recorded.get(plan.name) or {})
        added = None
        if plan.task == task and kept is not None:
            reference = start if before is None else before
            added = None if reference is None else kept - reference
            before = kept
        label = charts.metric_label(metric) + (f" of {plan.task}" if plan.task not in ("", task) else "")
        steps.append(Step(plan.name, plan.kind, label if metric else "", start, kept, added))
    return tuple(steps), origin


def _figures(view: StageView | None, recorded: Mapping[str, Any]) -> tuple[str, float | None, float | None]:
    """(metric, figure at the stage's start, figure of the model it kept), as shown to people."""
    if view is not None and view.kept is not None:
        return view.metric, view.start.shown if view.start else None, view.kept.shown
    metric, valid = str(recorded.get("metric") or ""), number(recorded.get("valid"))
    return metric, None, None if valid is None else shown_value(metric, valid)
