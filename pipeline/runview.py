"""A run folder as plain numbers for people: what each stage did, what it cost, how the run went.

Owns the reading of a run folder for reports, tolerant of pieces that are missing. Never writes, and
never draws.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from partition.errors import LMGNNError, StoreError, UsageError
from partition.manifest import PartitionManifest
from pipeline.config import TrainPlan
from pipeline.events import events_path, read_events
from pipeline.rankings import Example, read_examples

Event = dict[str, Any]
STEP_PARTS = ("sample_s", "fetch_s", "compute_s", "step_s")
TIME_PARTS = (*STEP_PARTS, "eval", "checkpoint", "other")
COUNTED = ("targets", "lm_rows_trained", "lm_rows_forward", "lm_tokens", "remote_rows")
NEGATED_LOSS = "negative_loss"
"""Metric of an mlm stage: its loss on held-out texts, negated so that more is better."""


@dataclass(frozen=True)
class Evaluation:
    step: int
    split: str
    metric: str
    value: float
    best: bool

    @property
    def shown(self) -> float:
        """The figure for people: a loss is positive, and less of it is better."""
        return -self.value if self.metric == NEGATED_LOSS else self.value


@dataclass(frozen=True)
class StageView:
    """One stage over all ranks; repeated steps of a restart count once, the last time."""

    name: str
    kind: str
    steps: int
    """Steps done."""
    planned_steps: int
    seconds: float
    peak_bytes: int
    """Highest of the ranks; 0 where not recorded."""
    loss: tuple[tuple[int, float], ...]
    """(step, mean over the ranks weighted by targets)."""
    evaluations: tuple[Evaluation, ...]
    metric: str
    """The one that decides which model is kept; empty without an evaluation."""
    totals: Mapping[str, float]
    """Sums over steps and ranks of the fields in COUNTED that were recorded."""
    times: Mapping[str, float]
    """TIME_PARTS -> seconds, mean over the ranks; `other` fills up to `seconds`."""

    def per_target(self, name: str) -> float | None:
        targets = self.totals.get("targets", 0)
        return self.totals[name] / targets if targets and name in self.totals else None

    @property
    def validation(self) -> tuple[Evaluation, ...]:
        """The validation split by the stage's own metric, in the order of the steps."""
        return tuple(e for e in self.evaluations if e.split == "valid" and e.metric == self.metric)

    @property
    def start(self) -> Evaluation | None:
        """Before the first step; None where it was not measured."""
        return next((e for e in self.validation if e.step == 0), None)

    @property
    def kept(self) -> Evaluation | None:
        """Of the model that the stage left."""
        return next((e for e in reversed(self.validation) if e.best), None)

    @property
    def gain(self) -> float | None:
        """What the stage added to its own metric, as shown: below 0 for a loss that fell."""
        return self.kept.shown - self.start.shown if self.kept and self.start else None

    @property
    def lower_is_better(self) -> bool:
        return self.metric == NEGATED_LOSS


@dataclass(frozen=True)
class RunView:
    """Everything a report needs; empty where the folder lacks it."""

    folder: Path
    plan: TrainPlan | None
    launch: Mapping[str, Any]
    outcome: Mapping[str, Any]
    tasks: Mapping[str, Mapping[str, Any]]
    stages: tuple[StageView, ...]
    attempts: tuple[Event, ...]
    """The first event of rank 0 in each attempt."""
    repeated_steps: int
    versions: Mapping[str, str]
    manifest: PartitionManifest | None
    examples: tuple[Example, ...]
    seconds: float
    finished: bool
    missing: tuple[str, ...] = field(default=())
    """Sentences on what could not be read."""

    @property
    def name(self) -> str:
        return self.plan.name if self.plan else self.folder.resolve().name

    @property
    def hosts(self) -> int:
        return int(self.launch.get("hosts") or (self.manifest.hosts if self.manifest else 1))

    @property
    def trainers(self) -> int:
        """Trainers of one host."""
        return int(self.launch.get("trainers_per_host") or (self.manifest.trainers if self.manifest else 1))


def read_run(folder: str | Path) -> RunView:
    """Read a run folder; UsageError when it is none."""
    folder = Path(folder)
    if not folder.is_dir() or not any((folder / name).exists() for name in ("plan.json", "events.jsonl")):
        raise UsageError(f"{folder} is no run folder", hint="give the folder that holds plan.json")
    missing: list[str] = []
    plan_text = _text(folder / "plan.json")
    launch = _json(folder / "launch.json", missing)
    ranks = _all_events(folder)
    events = ranks[0] if ranks else []
    metrics = _json(folder / "metrics.json", missing, "No metrics.json: the run has no test figures yet.")
    ended = [e["time"] for e in events if e["event"] == "run_end"]
    outcome = _current_outcome(folder, ended, missing)
    view_of_plan = _plan(plan_text, missing)
    before = _json(folder / "report" / "before.json", missing, "No ranking examples were recorded.")
    untrained = "Ranking examples have no answers of the trained model yet." if before else ""
    after = _json(folder / "report" / "after.json", missing, untrained)
    graph = view_of_plan.graph.path if view_of_plan else ""
    started: dict[int, Event] = {}
    for event in events:
        started.setdefault(event["attempt"], event)
    versions = dict(launch.get("versions") or {})
    for event in events:
        if event["event"] == "run_start":
            versions |= event.get("versions") or {}
    tasks = metrics.get("tasks", {}) if isinstance(metrics, dict) else {}
    latest = [{(e["stage"], e["step"]): e for e in rank if e["event"] == "step"} for rank in ranks]
    all_steps = sum(e["event"] == "step" for rank in ranks for e in rank)
    return RunView(
        folder=folder,
        plan=view_of_plan,
        launch=launch,
        outcome=outcome,
        tasks=tasks,
        stages=tuple(_stage(name, ranks, latest) for name in _in_order(events)),
        attempts=tuple(started.values()),
        repeated_steps=(all_steps - sum(map(len, latest))) // max(len(ranks), 1),
        versions=versions,
        manifest=_manifest(launch.get("partition"), missing),
        examples=read_examples(before, after, graph, missing),
        seconds=_seconds(outcome, tasks, events),
        finished=bool(ended) and outcome.get("exit_code", 0) == 0,
        missing=tuple(missing),
    )


def _stage(name: str, ranks: list[list[Event]], latest: list[dict[tuple[str, int], Event]]) -> StageView:
    own = [[e for e in rank if e["stage"] == name] for rank in ranks]
    steps = [[e for (stage, _), e in sorted(rank.items()) if stage == name] for rank in latest]
    start = [e for e in own[0] if e["event"] == "stage_start"]
    ends = [e for rank in own for e in rank if e["event"] == "stage_end"]
    evaluations = {
        (e["step"], e["split"], e["metric"]): Evaluation(
            e["step"], e["split"], e["metric"], float(e["value"]), bool(e.get("best"))
        )
        for e in own[0]
        if e["event"] == "eval"
    }
    metrics = [e["metric"] for e in own[0] if e["event"] == "eval"]
    first_end = next((e for e in reversed(own[0]) if e["event"] == "stage_end"), None)
    seconds = float(first_end["seconds"]) if first_end else own[0][-1]["time"] - own[0][0]["time"]
    flat = [e for rank in steps for e in rank]
    return StageView(
        name=name,
        kind=start[-1].get("kind", "") if start else "",
        steps=max((e["step"] for e in steps[0]), default=0),
        planned_steps=int(start[-1].get("steps", 0)) if start else 0,
        seconds=seconds,
        peak_bytes=max((int(e.get("peak_bytes") or 0) for e in ends), default=0),
        loss=_mean_loss(flat),
        evaluations=tuple(evaluations[key] for key in sorted(evaluations)),
        metric=metrics[0] if metrics else "",
        totals={k: sum(_number(e, k) for e in flat) for k in COUNTED if any(k in e for e in flat)},
        times=_times(own[0], flat, len(ranks), seconds),
    )


def _times(own: list[Event], steps: list[Event], ranks: int, seconds: float) -> dict[str, float]:
    times = {part: sum(_number(e, part) for e in steps) / ranks for part in STEP_PARTS}
    for part in ("eval", "checkpoint"):
        # Each of an evaluation's metrics carries the seconds of the whole evaluation.
        once = {(e["step"], e.get("split")): _number(e, "seconds") for e in own if e["event"] == part}
        times[part] = sum(once.values())
    return {**times, "other": max(0.0, seconds - sum(times.values()))}


def _mean_loss(steps: Iterable[Event]) -> tuple[tuple[int, float], ...]:
    sums: dict[int, tuple[float, float]] = {}
    for event in steps:
        loss, weight = _number(event, "loss", math.nan), _number(event, "targets", 1.0)
        if math.isfinite(loss) and weight > 0:
            total, weights = sums.get(event["step"], (0.0, 0.0))
            sums[event["step"]] = (total + weight * loss, weights + weight)
    return tuple((step, total / weights) for step, (total, weights) in sorted(sums.items()))


def _number(event: Event, name: str, default: float = 0.0) -> float:
    value = event.get(name)
    return default if value is None else float(value)


def _in_order(events: Iterable[Event]) -> list[str]:
    return list(dict.fromkeys(e["stage"] for e in events if e["event"] == "stage_start"))


def _all_events(folder: Path) -> list[list[Event]]:
    ranks: list[list[Event]] = []
    while events_path(folder, len(ranks)).exists():
        ranks.append(read_events(folder, len(ranks)))
    return ranks


def _current_outcome(folder: Path, ended: list[float], missing: list[str]) -> dict[str, Any]:
    """The outcome, unless a later attempt has ended since (the report is made before it is written)."""
    path = folder / "outcome.json"
    if path.exists() and ended and path.stat().st_mtime < max(ended):
        return {}
    return dict(_json(path, missing))


def _seconds(outcome: Mapping[str, Any], tasks: Mapping[str, Any], events: list[Event]) -> float:
    if outcome.get("seconds"):
        return float(outcome["seconds"])
    if events:
        return float(events[-1]["time"] - events[0]["time"])
    return max((float(task.get("seconds") or 0) for task in tasks.values()), default=0.0)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _json(path: Path, missing: list[str], absent: str = "") -> Any:
    """Parsed JSON; {} when the file is missing or broken, with a sentence in `missing`."""
    if not path.exists():
        if absent:
            missing.append(absent)
        return {}
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        missing.append(f"{path.name} could not be read: {error}.")
        return {}


def _plan(text: str, missing: list[str]) -> TrainPlan | None:
    try:
        return TrainPlan.from_json(text)
    except (LMGNNError, ValueError) as error:
        missing.append(f"The plan could not be read: {error}.")
        return None


def _manifest(folder: str | None, missing: list[str]) -> PartitionManifest | None:
    if not folder:
        missing.append("launch.json names no partition.")
        return None
    try:
        return PartitionManifest.load(folder)
    except (StoreError, OSError, ValueError, KeyError, TypeError) as error:
        missing.append(f"The partition could not be read: {error}.")
        return None
