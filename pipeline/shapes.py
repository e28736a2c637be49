"""How large a sampled batch is expected to be, from fan-outs and graph size alone.

D uniform draws out of N nodes hit N (1 - exp(-D / N)) distinct ones. Never samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from partition.manifest import PartitionManifest
from pipeline.config import TaskPlan, TrainPlan


@dataclass(frozen=True)
class BatchShape:
    """Expected size of a sampled batch."""

    nodes: tuple[Mapping[str, int], ...]
    """Type -> distinct nodes: of the targets, then with each further layer of neighbours."""
    edges: tuple[Mapping[str, int], ...]
    """Relation -> sampled edges, for each layer from the targets outwards."""
    targets: Mapping[str, int]
    """Relation -> true or classified edges, node type -> classified nodes."""
    negatives: Mapping[str, int]
    """Relation -> negatives that each true edge is scored against, per side."""


def distinct(draws: float, count: int) -> int:
    """Expected distinct results of uniform draws out of `count`, rounded up."""
    return min(count, math.ceil(-count * math.expm1(-draws / count))) if count and draws else 0


def batch_shape(
    plan: TrainPlan, manifest: PartitionManifest, task: TaskPlan, targets: Mapping[str, float], *, hops: int
) -> BatchShape:
    """Expected size of a batch with so many targets per relation or node type, `hops` layers deep.

    A bound from above: negatives from the own part and shared neighbours make it smaller.
    """
    count = {t.name: t.count for t in manifest.node_types}
    draws = dict.fromkeys(count, 0.0)
    negatives: dict[str, int] = {}
    for name, edges in targets.items():
        if task.kind == "node_classification":
            draws[name] += edges
            continue
        info = manifest.relation(name)
        if task.kind == "edge_classification":
            draws[info.source] += edges
            draws[info.destination] += edges
            continue
        half = task.negatives_per_edge // 2
        heads, tails = {
            "joint": (0 if info.source == info.destination else 1, 1),
            "batch": (0, 0),
            "independent": (half, task.negatives_per_edge - half),
        }[task.negatives]
        draws[info.source] += edges * (1 + heads)
        draws[info.destination] += edges * (1 + tails)
        negatives[name] = tails if task.negatives == "independent" else math.ceil(edges)
    nodes = [{t: distinct(draws[t], n) for t, n in count.items()}]
    sampled: list[dict[str, int]] = []
    for depth in range(hops):
        edges_of = {}
        for info in manifest.relations:
            degree = info.count / max(count[info.destination], 1)
            fan = plan.model.fanout_of.get(info.name, plan.model.fanout)[depth]
            drawn = nodes[-1][info.destination] * (degree if fan == -1 else min(fan, degree))
            draws[info.source] += drawn
            edges_of[info.name] = math.ceil(drawn)
        sampled.append(edges_of)
        nodes.append({t: distinct(draws[t], n) for t, n in count.items()})
    rounded = {name: math.ceil(edges) for name, edges in targets.items()}
    return BatchShape(tuple(nodes), tuple(sampled), rounded, negatives)
