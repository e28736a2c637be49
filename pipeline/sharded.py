"""Rows of nodes, sharded over hosts: DGL's tables, learnable ones, and their optimiser.

Owns reading and writing of them. What a row means is the callers' business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from dgl.distributed import DistEmbedding, DistTensor
from dgl.distributed.optim import SparseAdam
from torch import Tensor


class RowSource(Protocol):
    """What rows of nodes are read from."""

    def read(self, ids: Tensor) -> Tensor:
        """Rows of typed ids, from whichever host."""
        ...


class Table:
    """Rows for all nodes of a type, sharded by owner host. Owners write; a row that was written
    counts for others after the next barrier, since DGL promises no read-your-write."""

    def __init__(self, tensor: DistTensor, first_local: int) -> None:
        self._tensor = tensor
        self._first_local = first_local

    @property
    def row_shape(self) -> tuple[int, ...]:
        return tuple(self._tensor.shape[1:])

    def read(self, ids: Tensor) -> Tensor:
        """Rows of typed ids, from whichever host."""
        return self._tensor[ids]

    @property
    def name(self) -> str:
        """Under which servers know it."""
        return str(self._tensor.kvstore_key)

    def own(self, ids: Tensor) -> Tensor:
        """Rows of nodes that this host owns."""
        # A third of the time that indexing takes.
        return self._tensor.local_partition.index_select(0, ids - self._first_local)

    def write(self, first: int, rows: Tensor) -> None:
        """Overwrite the rows of `first`, `first` + 1, ..., which this host must own."""
        start = first - self._first_local
        self._tensor.local_partition[start : start + len(rows)] = rows

    def put(self, ids: Tensor, rows: Tensor) -> None:
        """Overwrite the rows of distinct nodes, which this host must own."""
        self._tensor.local_partition[ids - self._first_local] = rows


class Embedding:
    """Learnable rows for all nodes of a type (DGL's DistEmbedding), sharded by owner host."""

    def __init__(self, embedding: DistEmbedding, first_local: int) -> None:
        self.dgl = embedding
        self.table = Table(embedding._tensor, first_local)

    def read(self, ids: Tensor, device: torch.device) -> Tensor:
        """Rows that collect a gradient for the sparse optimiser when gradients are recorded."""
        return self.dgl(ids, device)


class SparseOptimizer:
    """DGL's distributed sparse Adam; gradients of one row are averaged over those who used it."""

    def __init__(self, embeddings: Mapping[str, Embedding], first_local: Mapping[str, int]):
        self._embeddings = embeddings
        self._adam = SparseAdam([e.dgl for e in embeddings.values()], lr=0.0)
        for state in self._adam._state.values():
            for tensor in state:
                tensor._persistent = True  # as in Graph.embedding
        self._first_local = first_local

    def step(self, rate: float, *, weight: float) -> None:
        """Apply the collected gradients, each multiplied by `weight` first."""
        self._adam._lr = rate
        for embedding in self._embeddings.values():
            # On the CPU: DGL's own copies from an accelerator are not waited for (dgl 1.1.3).
            trace = []
            for ids, rows in embedding.dgl._trace:
                held = torch.empty(rows.shape)
                held.grad = (torch.zeros_like(rows) if rows.grad is None else rows.grad * weight).cpu()
                trace.append((ids.cpu(), held))
            embedding.dgl._trace = trace
        self._adam.zero_grad()  # DGL: forget the gradients once `step` has applied them
        self._adam.step()

    def tables(self) -> dict[str, Table]:
        """NAME|step, NAME|mem and NAME|power: Adam's state."""
        names = ("step", "mem", "power")
        return {
            f"{name}|{label}": Table(tensor, self._first_local[name])
            for name, embedding in self._embeddings.items()
            for label, tensor in zip(names, self._adam._state[embedding.dgl.name], strict=True)
        }
