"""Brings what trainers know of nodes to the trainers whose parts own the nodes, or to all. Collective calls.

Owns the routing; what arrives does not depend on timing. Shape letters: N nodes, W words of each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from partition.manifest import PartitionManifest


class Exchange:
    """Who owns what, on all trainers alike."""

    def __init__(self, manifest: PartitionManifest, parts_of: Sequence[Sequence[int]]) -> None:
        """`parts_of`: parts of every trainer, by rank."""
        self._manifest = manifest
        rank_of = {part: rank for rank, parts in enumerate(parts_of) for part in parts}
        self._rank_of = torch.tensor([rank_of[part] for part in range(manifest.parts)])

    def __call__(self, node_type: str, ids: Tensor, records: Tensor) -> tuple[Tensor, Tensor]:
        """(ids, int64 N x W) of this trainer's nodes, from all trainers in the order of their ranks.

        `ids` int64 N; `records` int64 N x W."""
        owner = self._owner(node_type, ids)
        order = owner.argsort(stable=True)
        sent = torch.cat([ids[:, None], records], dim=1)[order]
        counts = torch.bincount(owner, minlength=torch.distributed.get_world_size())
        received_counts = torch.zeros_like(counts)
        torch.distributed.all_to_all_single(received_counts, counts)
        received = sent.new_zeros(int(received_counts.sum()), sent.shape[1])
        torch.distributed.all_to_all_single(received, sent, received_counts.tolist(), counts.tolist())
        return received[:, 0], received[:, 1:]

    def _owner(self, node_type: str, ids: Tensor) -> Tensor:
        """int64 N: rank of the trainer whose part holds each node."""
        ends = torch.tensor(
            [self._manifest.part_range(node_type, part)[1] for part in range(self._manifest.parts)]
        )
        return self._rank_of[torch.searchsorted(ends, ids, right=True)]


def of_all(rows: Tensor) -> Tensor:
    """int64 M x W: the rows (int64 N x W) of all trainers, in the order of their ranks. A collective call."""
    world = torch.distributed.get_world_size()
    counts = [torch.zeros(1, dtype=torch.int64) for _ in range(world)]
    torch.distributed.all_gather(counts, torch.tensor([len(rows)]))
    longest = max(int(count) for count in counts)
    padded = rows.new_zeros(longest, rows.shape[1])
    padded[: len(rows)] = rows
    found = [torch.empty_like(padded) for _ in range(world)]
    torch.distributed.all_gather(found, padded)
    return torch.cat([some[: int(count)] for some, count in zip(found, counts, strict=True)])


def first_of_each(ids: Tensor, records: Tensor) -> tuple[Tensor, Tensor]:
    """(ids ascending and distinct, their records): of several records of a node the first."""
    order = ids.argsort(stable=True)
    ids = ids[order]
    first = torch.ones(len(ids), dtype=torch.bool)
    first[1:] = ids[1:] != ids[:-1]
    return ids[first], records[order[first]]
