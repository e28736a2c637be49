"""Which of a part's targets each batch takes: every target once an epoch, in equal shares.

Targets come from the whole part, or from a few of its clusters at a time, so that a batch's
neighbourhoods overlap. Everything follows from hashes and from how many targets each part has, so
that all trainers make the same steps without asking each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.config import StagePlan, TrainPlan
from pipeline.hashing import hash_ids, key_of, permutation


@dataclass(frozen=True)
class Schedule:
    """When a part's targets are used: once per epoch, in an order of its own, in equal shares, so
    that all parts make the same number of steps however many targets each has."""

    sizes: tuple[int, ...]
    """Targets of each part."""
    batch_size: int
    epochs: float
    accumulate: int
    key: int
    clusters: int = 0
    """Clusters that a batch takes its targets from, as nearly as their targets go round; 0 = all."""
    elsewhere: float = 0.0
    """Share of a batch's targets that come from the whole part all the same."""
    cluster_of: Mapping[int, Tensor] = field(default_factory=dict, compare=False)
    """Part -> int64, the cluster of each of its targets; asked for if `clusters` is above 0."""
    _orders: dict[int, tuple[int, Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """Part -> the epoch last asked for and its order, which takes a sort of all targets."""

    @property
    def batches_per_epoch(self) -> int:
        return max(1, math.ceil(max(self.sizes) / self.batch_size))

    @property
    def steps(self) -> int:
        batches = max(1, round(self.epochs * self.batches_per_epoch))
        return math.ceil(batches / self.accumulate)

    def rows(self, batch: int, part: int) -> Tensor:
        """int64: targets of a part in its batch number `batch` (= step * accumulate + i)."""
        epoch, position = divmod(batch, self.batches_per_epoch)
        if part not in self._orders or self._orders[part][0] != epoch:
            self._orders[part] = (epoch, self._order(epoch, part))
        size = self.sizes[part]
        first = position * size // self.batches_per_epoch
        last = (position + 1) * size // self.batches_per_epoch
        return self._orders[part][1][first:last]

    def _order(self, epoch: int, part: int) -> Tensor:
        """int64: a part's targets as an epoch takes them."""
        key, size = key_of(self.key, epoch, part), self.sizes[part]
        order = permutation(key, size)
        if not self.clusters or not size:
            return order
        elsewhere = int(self.elsewhere * size)
        clustered = order[elsewhere:]
        clustered = clustered[cluster_order(self.cluster_of[part][clustered], self.clusters, key=key)]
        # Those from elsewhere are spread evenly: so many of the first n targets for every n.
        before = (self.elsewhere * torch.arange(size + 1, dtype=torch.float64)).long()
        spread = before.diff() > 0
        mixed = torch.empty_like(order)
        mixed[spread], mixed[~spread] = order[:elsewhere], clustered
        return mixed


def stage_schedule(
    plan: TrainPlan, stage: StagePlan, sizes: tuple[int, ...], cluster_of: Mapping[int, Tensor]
) -> Schedule:
    """The schedule of a stage; `cluster_of` holds the parts whose rows will be asked for."""
    return Schedule(
        sizes,
        stage.batch_size,
        stage.epochs,
        plan.engine.accumulate,
        key_of(plan.seed, stage.name, "order"),
        stage.clusters,
        stage.elsewhere,
        cluster_of,
    )


def cluster_order(cluster: Tensor, lanes: int, *, key: int) -> Tensor:
    """An order (int64 N) in which any run of targets lies in about `lanes` clusters; `cluster` is int64 N.

    The targets, cluster by cluster in a random order, are cut into equal lanes, and one is taken of
    each lane in turn. So clusters are left one at a time, and those of a batch belong to each other
    by chance only. What order the targets have within a cluster stays.
    """
    names, member = torch.unique(cluster, return_inverse=True)
    count = len(cluster)
    if lanes >= len(names):
        return torch.arange(count)
    rank = hash_ids(key_of(key, "clusters"), names).argsort(stable=True).argsort()
    by_cluster = rank[member].argsort(stable=True)
    starts = torch.arange(lanes) * count // lanes
    place = torch.arange(count)
    lane = torch.searchsorted(starts, place, right=True) - 1
    return by_cluster[(place - starts[lane]).argsort(stable=True)]
