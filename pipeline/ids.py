"""Arithmetic between a partition's id spaces, on tensors. Pure; holds no graph.

Typed ids count per node type and are ordered by (host, trainer, cluster); everything outside
graph.py uses them. Homogeneous ids are DGL's, ordered by (host, type, trainer, cluster).
"""

from __future__ import annotations

import torch
from torch import Tensor

from partition.manifest import PartitionManifest


class IdSpace:
    """Translates ids of one partition; every id tensor is int64 and one-dimensional."""

    def __init__(self, manifest: PartitionManifest) -> None:
        self.types = tuple(t.name for t in manifest.node_types)
        self.index = {name: i for i, name in enumerate(self.types)}
        self.hosts = manifest.hosts
        homogeneous = manifest.homogeneous_starts()
        rows = [
            (homogeneous[name][host], self.index[name], manifest.host_range(name, host)[0])
            for host in range(manifest.hosts)
            for name in self.types
        ]
        table = torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)
        self._starts, self._type_of_block, self._typed_starts = table.T.contiguous()
        self._host_starts = {
            name: torch.tensor([manifest.host_range(name, h)[0] for h in range(manifest.hosts)])
            for name in self.types
        }
        self._part_ends = {
            name: torch.tensor([manifest.part_range(name, p)[1] for p in range(manifest.parts)])
            for name in self.types
        }
        self._cluster_offsets = {name: torch.tensor(manifest.offsets[name]) for name in self.types}
        self.count = {t.name: t.count for t in manifest.node_types}
        self.host_first = [min(starts[h] for starts in homogeneous.values()) for h in range(self.hosts)]

    def host_of(self, node_type: str, ids: Tensor) -> Tensor:
        """int64: the host that owns each node."""
        part = self.part_of(node_type, ids)
        return part // (len(self._part_ends[node_type]) // self.hosts)

    def part_of(self, node_type: str, ids: Tensor) -> Tensor:
        """int64: the part (host * trainers + trainer) that owns each node."""
        return torch.searchsorted(self._part_ends[node_type], ids, right=True)

    def cluster_of(self, node_type: str, ids: Tensor) -> Tensor:
        """int64: the cluster (counted over all parts) that each node lies in."""
        return torch.searchsorted(self._cluster_offsets[node_type][:-1], ids, right=True) - 1

    def cluster_ranges(self, node_type: str, clusters: Tensor) -> tuple[Tensor, Tensor]:
        """int64: (first typed id, number of nodes) of a type in clusters."""
        offsets = self._cluster_offsets[node_type]
        return offsets[clusters], offsets[clusters + 1] - offsets[clusters]

    def homogeneous(self, node_type: str, ids: Tensor) -> Tensor:
        """Typed ids of one type -> homogeneous ids."""
        host = self.host_of(node_type, ids)
        block = host * len(self.types) + self.index[node_type]
        return ids - self._typed_starts[block] + self._starts[block]

    def local(self, node_type: str, ids: Tensor) -> Tensor:
        """Typed ids -> row among the owner host's nodes of that type."""
        return ids - self._host_starts[node_type][self.host_of(node_type, ids)]

    def typed(self, homogeneous: Tensor) -> tuple[Tensor, Tensor]:
        """Homogeneous ids -> (index of the type, typed id)."""
        block = torch.searchsorted(self._starts, homogeneous, right=True) - 1
        # Empty blocks share their start with the next one; `right=True` already skips them.
        return self._type_of_block[block], homogeneous - self._starts[block] + self._typed_starts[block]
