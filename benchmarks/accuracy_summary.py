"""Curves of validation figures against cost -> what they say: at equal targets, at equal LM tokens, and
when the best figure of `joint` is reached. Plain numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np

REFERENCE = "joint"
PAYS = "paper"
"""Whose LM tokens all settings may spend, in the comparison at equal ones."""
Curve = Sequence[Mapping[str, float]]


def summary(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per question and setting, means over its seeds.

    * `start`, `last`: the figure before the stage and at its end, after `targets` targets; `lm_tokens`,
      `wall_s`, `cpu_s`: what that cost.
    * `minus_joint`: `last` less that of `joint`, over the seeds that both have.
    * `equal_tokens`: the figure at `tokens`, the fewest that a run of `paper` has spent at its end (without
      one: any run with LM tokens); of a run that has spent less, that at its end.
    * `reaches_joint`: how many seeds reach the best figure that `joint` has after its start, means of what
      they spent until then, and `of_joint`, that in CPU seconds over those of `joint` on the same seeds.
    """
    rows = []
    for question in dict.fromkeys(run["question"] for run in runs):
        of_question = [run for run in runs if run["question"] == question]
        spent = [(run["setting"], last) for run in of_question if (last := run["points"][-1]["lm_tokens"])]
        tokens = min([last for name, last in spent if name == PAYS] or [last for _, last in spent] or [0.0])
        reference = {run["seed"]: run["points"] for run in of_question if run["setting"] == REFERENCE}
        for setting in dict.fromkeys(run["setting"] for run in of_question):
            curves = {run["seed"]: run["points"] for run in of_question if run["setting"] == setting}
            rows.append({"question": question, "setting": setting, **_row(curves, reference, tokens)})
    return rows


def _row(curves: Mapping[int, Curve], reference: Mapping[int, Curve], tokens: float) -> dict[str, Any]:
    ends = [curve[-1] for curve in curves.values()]
    both = [seed for seed in curves if seed in reference]
    found: dict[str, Any] = {
        "seeds": len(curves),
        "start": _mean(curve[0]["value"] for curve in curves.values()),
        "last": _mean(end["value"] for end in ends),
        "minus_joint": _mean(curves[s][-1]["value"] - reference[s][-1]["value"] for s in both),
        **{name: _mean(end[name] for end in ends) for name in ("targets", "lm_tokens", "wall_s", "cpu_s")},
        "tokens": tokens,
        "equal_tokens": None,
    }
    if all(end["lm_tokens"] for end in ends):
        found["equal_tokens"] = _mean(at(curve, "lm_tokens", tokens) for curve in curves.values())
    best = {seed: max(reference[seed][1:], key=lambda point: point["value"]) for seed in both}
    reached = {s: p for s in both if (p := reaching(curves[s][1:], best[s]["value"]))}
    costs: dict[str, Any] = {
        name: _mean(p[name] for p in reached.values()) for name in ("lm_tokens", "wall_s", "cpu_s")
    }
    costs["of_joint"] = None
    if reached:
        costs["of_joint"] = round(costs["cpu_s"] / mean(best[seed]["cpu_s"] for seed in reached), 4)
    return {**found, "reaches_joint": {"seeds": len(reached), "of": len(both), **costs}}


def _mean(values: Any) -> float | None:
    some = list(values)
    return round(mean(some), 4) if some else None


def at(curve: Curve, cost: str, spent: float) -> float:
    """The figure once `spent` of a cost was spent, on straight lines between the evaluations."""
    return float(np.interp(spent, [p[cost] for p in curve], [p["value"] for p in curve]))


def reaching(curve: Curve, value: float) -> Mapping[str, float] | None:
    """The first evaluation that finds `value` or more; None where none does."""
    return next((point for point in curve if point["value"] >= value), None)
