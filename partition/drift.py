"""How far a partition has come from the cut that it goes back to, and when that is too far.

Owns the limits and the words. Never cuts anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from partition.earlier import figures
from partition.manifest import ReuseInfo
from partition.reuse import Inherited

CUT_LIMIT = 0.02
"""More of the edges cut than at the origin; what a regrouping may cost as well."""
BALANCE_LIMIT = 1.10
"""The heaviest part as a multiple of the mean: a step takes as long as its slowest trainer."""


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
    if info.how == "regrouped":
        words = [_words(name, value, value) for name, value in now.items()]
        far = [name for name, value in now.items() if name == "nodes" and value > BALANCE_LIMIT]
    else:
        words = [_words(name, *values) for name, values in info.drift.items()]
        far = [name for name, values in info.drift.items() if _too_far(name, *values)]
    lines = [f"against {info.origin}: {', '.join(words)}" if info.drift else ", ".join(words)]
    if far:
        lines.append(f"{' and '.join(far)}: too far from a fresh cut; cut it again with --no-reuse")
    return lines


def _too_far(name: str, first: float, now: float) -> bool:
    if name.endswith("cut"):
        return now > first + CUT_LIMIT
    return now > BALANCE_LIMIT >= first or now > first + BALANCE_LIMIT - 1


def _words(name: str, first: float, now: float) -> str:
    if name.endswith("cut"):
        return f"{name} {now:.1%}" + (f" (was {first:.1%})" if first != now else "")
    return f"heaviest part {now:.2f} x the mean in {name}" + (f" (was {first:.2f})" if first != now else "")
