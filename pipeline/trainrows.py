"""Which texts of a batch gradients reach; all others run forward only (paper 4.4.2, "back-propagate
on samples"). Shape letter: N nodes of one type in the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from partition.manifest import PartitionManifest
from pipeline.batch import Batch, ClassTargets, LinkTargets
from pipeline.hashing import hash_ids, key_of


@dataclass(frozen=True)
class TrainRows:
    """A choice."""

    rows: Mapping[str, Tensor]
    """Text type -> int64, ascending positions along `Batch.nodes`."""
    scale: float
    """What gradients of these texts are multiplied by."""


def choose_train_rows(
    batch: Batch, manifest: PartitionManifest, types: Sequence[str], *, budget: int, choice: str
) -> TrainRows:
    """`budget` texts of the text types `types`, or all if there are no more.

    choice "degree": targets first, then their negatives, then neighbours, of these first those with
    most sampled edges to others; between equals the hash decides. If no target has text, near neighbours come
    before far ones. "uniform": each text is as likely as any other, and the scale is texts / chosen,
    so that gradients are right on average.
    """
    if not types:
        return TrainRows({}, 1.0)
    sizes = [len(batch.nodes[t]) for t in types]
    hashes = [hash_ids(key_of(batch.key, "train rows", t), batch.nodes[t]) for t in types]
    order = torch.cat(hashes).argsort(stable=True)
    if choice == "degree":
        level = _level(batch, manifest, types)
        degree = torch.cat([_degree(batch, manifest, t) for t in types])
        # Chance decides among targets: else those of few neighbours would never get a gradient.
        for rank in (torch.where(level <= 1, 0, -degree), level):
            order = order[rank[order].argsort(stable=True)]
    chosen = torch.zeros(sum(sizes), dtype=torch.bool)
    chosen[order[:budget]] = True
    rows = {t: some.nonzero().squeeze(1) for t, some in zip(types, chosen.split(sizes), strict=True)}
    count = int(chosen.sum())
    return TrainRows(rows, sum(sizes) / count if choice == "uniform" and count else 1.0)


def _degree(batch: Batch, manifest: PartitionManifest, node_type: str) -> Tensor:
    """int64 N: sampled edges that leave each node, in all layers."""
    count = len(batch.nodes[node_type])
    found = torch.zeros(count, dtype=torch.int64)
    for layer in batch.layers:
        for name, edges in layer.edges.items():
            if manifest.relation(name).source == node_type:
                found += torch.bincount(edges.source, minlength=count)
    return found


def _level(batch: Batch, manifest: PartitionManifest, types: Sequence[str]) -> Tensor:
    """int64, all N of all types: 0 of targets, 1 of negatives, above that of neighbours."""
    targets = {t: _targets(batch, manifest, t) for t in types}
    silent = not any(len(positions) for positions in targets.values())
    levels = []
    for node_type in types:
        hops = _hops(batch, node_type)
        level = 1 + (hops if silent else hops.clamp(max=1))
        level[targets[node_type]] = 0
        levels.append(level)
    return torch.cat(levels)


def _hops(batch: Batch, node_type: str) -> Tensor:
    """int64 N: 0 of targets and negatives, else after how many layers the node was reached."""
    position = torch.arange(len(batch.nodes[node_type]))
    bounds = [layer.destinations.get(node_type, 0) for layer in reversed(batch.layers)]
    return torch.stack([torch.zeros_like(position), *((position >= bound).long() for bound in bounds)]).sum(0)


def _targets(batch: Batch, manifest: PartitionManifest, node_type: str) -> Tensor:
    """int64: positions of the classified nodes and of both ends of target edges of a type, with repeats."""
    found = [torch.zeros(0, dtype=torch.int64)]
    asked: list[tuple[str, LinkTargets | ClassTargets]] = [*batch.links.items(), *batch.classes.items()]
    for name, targets in asked:
        of_nodes = name in batch.classes and not targets.tail.numel()
        info = None if of_nodes else manifest.relation(name)
        if node_type == (info.source if info else name):
            found.append(targets.head)
        if info and node_type == info.destination:
            found.append(targets.tail)
    return torch.cat(found)
