"""A run folder as plain numbers for people: what each stage did, what it cost, how the run went.

Owns the reading of a run folder for reports, tolerant of pieces that are missing. Never writes, and
never draws.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from partition.errors import LMGNNError, StoreError, UsageError
from partition.manifest import PartitionManifest
from pipeline.config import TrainPlan
from pipeline.events import events_path, read_events
from pipeline.overview import leak_warnings, number
from pipeline.report.mistakes import Judged, read_judged, with_texts
from pipeline.report.rankings import Example, read_examples
from pipeline.report.stageview import NEGATED_LOSS, Event, StageView, stage_view


@dataclass(frozen=True)
class Leak:
    """A place where the answer may lie in the question; from leaks.json."""

    task: str
    kind: str
    warning: bool
    """Whether figures are too good if it is real; otherwise a note."""
    message: str
    share: float | None
    """Of the test targets concerned."""
    count: int | None
    examples: tuple[str, ...]


@dataclass(frozen=True)
class RunView:
    """Everything a report needs; empty where the folder lacks it."""

    folder: Path
    plan: TrainPlan | None
    launch: Mapping[str, Any]
    outcome: Mapping[str, Any]
    tasks: Mapping[str, Mapping[str, Any]]
    """As in metrics.json."""
    judged: Mapping[str, Judged]
    """Class tasks whose predictions are there."""
    leaks: tuple[Leak, ...] | None
    """Warnings first; None where nothing was looked for."""
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
    def predicts_links(self) -> bool:
        """Whether a task does, as far as the plan is known."""
        return self.plan is None or _predicts_links(self.plan)

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
    launch = _json(folder / "launch.json", missing)
    ranks = _all_events(folder)
    events = ranks[0] if ranks else []
    metrics = _json(folder / "metrics.json", missing, "No metrics.json: the run has no test figures yet.")
    tasks = metrics.get("tasks", {}) if isinstance(metrics, dict) else {}
    ended = [e["time"] for e in events if e["event"] == "run_end"]
    outcome = _current_outcome(folder, ended, missing)
    plan = _plan(_text(folder / "plan.json"), missing)
    graph = plan.graph.path if plan else ""
    latest = [{(e["stage"], e["step"]): e for e in rank if e["event"] == "step"} for rank in ranks]
    all_steps = sum(e["event"] == "step" for rank in ranks for e in rank)
    deciding = _deciding_metrics(plan)
    return RunView(
        folder=folder,
        plan=plan,
        launch=launch,
        outcome=outcome,
        tasks=tasks,
        judged=with_texts(read_judged(folder, tasks, missing), graph, missing),
        leaks=_leaks(folder / "leaks.json", missing),
        stages=tuple(
            stage_view(name, ranks, latest, metric=deciding.get(name, "")) for name in _in_order(events)
        ),
        attempts=tuple({e["attempt"]: e for e in reversed(events)}.values())[::-1],
        repeated_steps=(all_steps - sum(map(len, latest))) // max(len(ranks), 1),
        versions=_versions(launch, events),
        manifest=_manifest(launch.get("partition"), missing),
        examples=_examples(folder / "report", plan, missing),
        seconds=_seconds(outcome, tasks, events),
        finished=bool(ended) and outcome.get("exit_code", 0) == 0,
        missing=tuple(missing),
    )


def _predicts_links(plan: TrainPlan) -> bool:
    return any(task.kind == "link_prediction" for task in plan.tasks.values())


def _deciding_metrics(plan: TrainPlan | None) -> dict[str, str]:
    """Stage -> the metric that decides which model it keeps."""
    if plan is None:
        return {}
    of_task = {name: task.chosen_metric for name, task in plan.tasks.items()}
    return {s.name: NEGATED_LOSS if s.kind == "mlm" else of_task.get(s.task, "mrr") for s in plan.stages}


def _versions(launch: Mapping[str, Any], events: Iterable[Event]) -> dict[str, str]:
    versions = dict(launch.get("versions") or {})
    for event in events:
        if event["event"] == "run_start":
            versions |= event.get("versions") or {}
    return versions


def _examples(folder: Path, plan: TrainPlan | None, missing: list[str]) -> tuple[Example, ...]:
    links = plan is None or _predicts_links(plan)
    absent = "No ranking examples were recorded." if links else ""
    before = _json(folder / "before.json", missing, absent)
    untrained = "Ranking examples have no answers of the trained model yet." if before else ""
    after = _json(folder / "after.json", missing, untrained)
    return read_examples(before, after, plan.graph.path if plan else "", missing)


def _leaks(path: Path, missing: list[str]) -> tuple[Leak, ...] | None:
    found = _json(path, missing, "No leaks.json: nobody looked for leaks.")
    if not isinstance(found, list):
        return None
    leaks = [
        Leak(
            task=str(entry.get("task") or ""),
            kind=str(entry.get("kind") or ""),
            warning=bool(leak_warnings([entry])),
            message=str(entry.get("message") or ""),
            share=number(entry.get("share")),
            count=None if (count := number(entry.get("count"))) is None else int(count),
            examples=tuple(map(_as_text, entry.get("examples") or ())),
        )
        for entry in found
        if isinstance(entry, dict)
    ]
    return tuple(sorted(leaks, key=lambda leak: not leak.warning))


def _as_text(example: Any) -> str:
    """One example of a leak in a line, whatever it is made of."""
    if isinstance(example, Mapping):
        return " · ".join(f"{key}: {value}" for key, value in example.items())
    return " · ".join(map(str, example)) if isinstance(example, list) else str(example)


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
