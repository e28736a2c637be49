"""Settings whose batches are compared: sections of a plan for a joint link task, step by step from what
nobody would run to what docs/efficiency.md recommends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Setting:
    """Sections of a plan, and how its batches are taken and counted."""

    name: str
    task: Mapping[str, Any] = field(default_factory=dict)
    stage: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    cache: Mapping[str, Any] = field(default_factory=lambda: {"mode": "exact"})
    uniform: bool = False
    """Targets of a batch from all parts alike, in place of the trainer's own part."""
    plain: bool = False
    """Counted without our grouping of texts."""


ANYWHERE = {"negative_mix": {"anywhere": 1.0}}
HALF = {"negative_mix": {"anywhere": 0.5, "part": 0.5}}
CLUSTERS = {"clusters": 16, "elsewhere": 0.1}
LABOR = {"sampler": "labor"}
FEW = {"train_nodes": 8, "train_choice": "uniform"}


def bounded(max_age: int) -> dict[str, Any]:
    return {"mode": "bounded", "max_age": max_age, "refresh": 0.05}


SETTINGS = (
    Setting(
        "naive",
        {**ANYWHERE, "negatives": "independent", "negatives_per_edge": 5},
        uniform=True,
        plain=True,
    ),
    Setting("joint", ANYWHERE, uniform=True, plain=True),
    Setting("paper", ANYWHERE, cache={"mode": "unbounded"}, plain=True),
    Setting("part", ANYWHERE, plain=True),
    Setting("grouped", ANYWHERE),
    Setting("clusters", ANYWHERE, CLUSTERS),
    Setting("local", HALF, CLUSTERS),
    Setting("labor", HALF, CLUSTERS, LABOR),
    Setting("cache_4", HALF, CLUSTERS, LABOR, bounded(4)),
    Setting("cache_16", HALF, CLUSTERS, LABOR, bounded(16)),
    Setting("cache_64", HALF, CLUSTERS, LABOR, bounded(64)),
    Setting("bounded_16", HALF, model=LABOR, cache=bounded(16)),
    Setting("less_refresh", HALF, model=LABOR, cache={**bounded(16), "refresh": 0.01}),
    Setting("few_labor", HALF, FEW, LABOR, {"mode": "unbounded"}),
    Setting("recommended", HALF, FEW, cache={"mode": "unbounded"}),
)
"""From `part` to `cache_64` each has all that those above it have. `bounded_16` leaves `clusters` out, which
save little; `less_refresh` is that with a fifth of the recomputation. `recommended` is that of
accuracy_settings.py, over several trainers: the paper's cache and gradients for few texts, any as likely as
another; half of the negatives are from the part, which there is all of the graph. `few_labor`: with LABOR."""
