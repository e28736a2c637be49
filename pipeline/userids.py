"""Typed ids back to the ids of the user's own tables."""

from __future__ import annotations

from functools import lru_cache

import pyarrow as pa
import torch
from torch import Tensor

from partition.reader import read_ids
from pipeline.graph import Graph


class UserIds:
    """Typed ids -> the user's own ids, as text; reads a host's id map when it is first asked for."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._of_host = lru_cache(maxsize=64)(self._read)

    def _read(self, host: int, node_type: str) -> pa.Array:
        return read_ids(self._graph.folder, host, node_type).cast(pa.large_string())

    def __call__(self, node_type: str, ids: Tensor) -> pa.Array:
        owner, local = self._graph.ids.host_of(node_type, ids), self._graph.ids.local(node_type, ids)
        order, found = [torch.zeros(0, dtype=torch.int64)], [pa.array([], pa.large_string())]
        for host in torch.unique(owner).tolist():
            rows = (owner == host).nonzero().squeeze(1)
            order.append(rows)
            found.append(self._of_host(host, node_type).take(pa.array(local[rows].numpy())))
        return pa.concat_arrays(found).take(pa.array(torch.cat(order).argsort().numpy()))
