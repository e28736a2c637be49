"""How far a partition has come from the cut that it goes back to, and when that is too far.

Owns the limits and the words. Never cuts anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from partition.earlier import WEIGHT, figures
from partition.manifest import ReuseInfo
from partition.reuse import Inherited

CUT_LIMIT = 0.02
"""More of the edges cut than at the origin; what a regrouping may cost as well."""
BALANCE_LIMIT = 1.10
"""Weight of the heaviest part as a multiple of the mean: a step takes as long as its slowest trainer."""
BALANCE_NOISE = 0.02
"""Beyond what the origin had already, where that was above the limit."""


def reuse_info(inherited: Inherited | None, part_id: str, stats: Mapping[str, Any]) -> ReuseInfo:
    """What the manifest says of a partition with these figures."""
    if inherited is None:
        return ReuseInfo(origin=part_id)
    now = figures(stats)
    before = inherited.parent.manifest.reuse
    if inherited.how == "regrouped":
        return ReuseInfo(inherited.how, part_id, before.new, before.gone)
    origin = {name: first for name, (first, _) in before.drift.items()}
    if not origin:
        origin = figures(inherited.parent.manifest.stats)
    return ReuseInfo(
        how=inherited.how,
        origin=before.origin or inherited.parent.id,
        new=before.new + inherited.new,
        gone=before.gone + inherited.gone,
        drift={name: (origin[name], value) for name, value in now.items() if name in origin},
    )


def drift_lines(info: ReuseInfo, stats: Mapping[str, Any]) -> list[str]:
    """What to tell of a partition that was not cut afresh, with advice where it has come too far."""
    now = figures(stats)
    before = {name: was for name, (was, _) in info.drift.items()}
    cuts = [_words(name, value, before, ".1%") for name, value in now.items() if _is_cut(name)]
    balance = [_words(name, value, before, ".2f") for name, value in now.items() if not _is_cut(name)]
    lines = [f"{', '.join(cuts)}; heaviest part over the mean: {', '.join(balance)}"]
    if before:
        lines[0] += f" (in brackets: {info.origin})"
    if reasons := _reasons(now, before):
        lines.append(f"{' and '.join(reasons)}: worth cutting afresh with --no-reuse")
    return lines


def _reasons(now: Mapping[str, float], before: Mapping[str, float]) -> list[str]:
    """Why to cut afresh; `before` is empty where nothing can be compared."""
    found = [
        f"{name} has grown by {(now[name] - was) * 100:.1f} points"
        for name, was in before.items()
        if _is_cut(name) and now[name] > was + CUT_LIMIT
    ]
    # Of the single kinds METIS leaves each where it likes: only their sum is its business.
    if now[WEIGHT] > max(BALANCE_LIMIT, before.get(WEIGHT, 0) + BALANCE_NOISE):
        found.append(f"the heaviest part has {now[WEIGHT]:.2f} x the mean weight")
    return found


def _is_cut(name: str) -> bool:
    return name.endswith(" cut")


def _words(name: str, now: float, before: Mapping[str, float], form: str) -> str:
    changed = name in before and format(before[name], form) != format(now, form)
    return f"{name} {now:{form}}" + (f" ({before[name]:{form}})" if changed else "")
