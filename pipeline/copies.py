"""Copies of other hosts' stored text embeddings, which save fetching a record again that has not changed.

One table a host, in memory that its trainers share. A copy has one place, given by its node; where there are
fewer places than nodes elsewhere, the newer one of a place goes over the older. Whoever reads cannot tell an
old copy from a new one: texttable.py asks the owner, who knows. Trainers write without locks; half-written
copies count as none (records.py). Shape letters: N nodes, W words of a record.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.exchange import first_of_each
from pipeline.graph import Graph
from pipeline.hashing import hash_ids, key_of
from pipeline.records import unpack
from pipeline.sharded import Table

_PLACE = key_of("place of a copy")


class Copies:
    """Of one node type on one host."""

    def __init__(self, graph: Graph, node_type: str, width: int, *, share: float) -> None:
        """`width`: W; `share`: of the nodes of other hosts that there is room for, more than 0. Every trainer
        must make its copies in the same order."""
        self._first, self._last = graph.manifest.host_range(node_type, graph.host)
        elsewhere = graph.ids.count[node_type] - (self._last - self._first)
        self.places = max(1, int(share * elsewhere))
        self._complete = self.places >= elsewhere
        self._table: Table = graph.table("copies", node_type, width, torch.int64, rows=self.places)

    def read(self, ids: Tensor) -> Tensor:
        """int64 N x W: copies of records of nodes (int64 N) of other hosts; zeros where there is none."""
        records = self._table.own(self._place(ids))
        records[~unpack(records, ids, 0).whole] = 0
        return records

    def put(self, ids: Tensor, records: Tensor) -> None:
        """Keep copies of records (int64 N x W) of nodes (int64 N) of other hosts."""
        self._table.put(*first_of_each(self._place(ids), records))

    def _place(self, ids: Tensor) -> Tensor:
        """int64 N, counted from the host's first node on."""
        if self._complete:
            among_others = torch.where(ids < self._first, ids, ids - (self._last - self._first))
            return self._first + among_others
        return self._first + (hash_ids(_PLACE, ids) & 0x7FFFFFFF) % self.places
