"""What one stage of a run did, from its events: curves, figures, costs.

Owns the summing over ranks and repeated steps. Never reads a file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.lm_work import PADDING, RUN, padding_share

Event = dict[str, Any]
STEP_PARTS = ("sample_s", "fetch_s", "compute_s", "step_s")
TIME_PARTS = (*STEP_PARTS, "eval", "checkpoint", "other")
COUNTED = ("targets", "lm_rows_trained", "lm_rows_forward", "lm_tokens", *RUN, *PADDING, "remote_rows")
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
        return shown_value(self.metric, self.value)


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
    def padding(self) -> float | None:
        """Share of the tokens that ran through the LM; None where none did."""
        return padding_share(self.totals)

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


def shown_value(metric: str, value: float) -> float:
    """A figure as people read it: see Evaluation.shown."""
    return -value if metric == NEGATED_LOSS else value


def stage_view(
    name: str, ranks: list[list[Event]], latest: list[dict[tuple[str, int], Event]], *, metric: str
) -> StageView:
    """A stage of `ranks`' events; `latest`: per rank (stage, step) -> the step as it was last done.

    `metric` is the one that decides, where it is known: an evaluation has several.
    """
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
        metric=metric if metric in metrics else (metrics[0] if metrics else ""),
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
