"""Where the embeddings of a node type lie when a host has no room for all of them.

A part of the graph has so many slots for its nodes, at least one. With a slot for every node a node's slot
is its id. With fewer, a hash of the node says which one may hold it: whoever looks a node up needs no
directory, and the record itself says whose it is (records.py). So a slot holds the node that was computed
last; where several meet in one step, the first of them. Owns this arithmetic; holds nothing.
Shape letter: N nodes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from partition.manifest import PartitionManifest
from pipeline.hashing import hash_ids, key_of

_SLOT = key_of("slot of a text embedding")


class Slots:
    """Slots of one node type, numbered like its ids: those of a host lie from the host's first id on."""

    def __init__(self, manifest: PartitionManifest, node_type: str, share: float = 1.0) -> None:
        """`share`: of each part's nodes that have a slot, 0 to 1."""
        ranges = [manifest.part_range(node_type, part) for part in range(manifest.parts)]
        counts = [last - first for first, last in ranges]
        self.complete = share >= 1
        """Whether every node has a slot of its own."""
        self._rows = [n if self.complete else min(n, max(1, int(share * n))) for n in counts]
        self._trainers = manifest.trainers
        starts: list[int] = []
        for part, (first, _) in enumerate(ranges):
            is_first = part % self._trainers == 0
            starts.append(first if is_first else starts[-1] + self._rows[part - 1])
        self._starts, self._ends = torch.tensor(starts), torch.tensor([last for _, last in ranges])
        self.count = sum(self._rows)

    def of_host(self, host: int) -> int:
        """How many slots a host has."""
        return sum(self._rows[host * self._trainers : (host + 1) * self._trainers])

    def part_range(self, part: int) -> tuple[int, int]:
        """[first, last) slot of a part's nodes."""
        first = int(self._starts[part])
        return first, first + self._rows[part]

    def of(self, ids: Tensor) -> Tensor:
        """int64 N: the slot that may hold each node (int64 N)."""
        if self.complete:
            return ids
        part = torch.searchsorted(self._ends, ids, right=True)
        rows = torch.tensor(self._rows).clamp(min=1)[part]
        return self._starts[part] + (hash_ids(_SLOT, ids) & 0x7FFFFFFF) % rows

    def winners(self, ids: Tensor) -> Tensor:
        """int64, ascending: positions of the nodes that stay when all of them (int64 N, distinct) are
        stored at once, the first of each slot in the order given."""
        if self.complete:
            return torch.arange(len(ids))
        slot = self.of(ids)
        order = slot.argsort(stable=True)
        first = torch.ones(len(ids), dtype=torch.bool)
        first[1:] = slot[order][1:] != slot[order][:-1]
        return order[first].sort().values
