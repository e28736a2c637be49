"""The stored text embeddings of one node type, sharded over the hosts that own the nodes.

Owns the way from float rows to records and back. What is read is what its record says it is; when a
row may still be used is decided in cache.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from partition.errors import StoreError
from pipeline.graph import Graph, Table
from pipeline.records import Records, Stamp, pack, unpack, words
from pipeline.slots import Slots


class TextTable:
    """A record per text node, or for fewer of them than there are. Like graph.Table: owners write, and
    what was written counts for other hosts after the next barrier."""

    def __init__(self, graph: Graph, node_type: str, width: int, *, share: float = 1.0) -> None:
        """Every trainer must make its tables in the same order; `width`: of the embedding; `share`: of
        the nodes that there is room for."""
        self.node_type, self.width = node_type, width
        self.slots = Slots(graph.manifest, node_type, share)
        self.bytes = 8 * words(width) * self.slots.count
        """On all hosts together."""
        self.records: Table = graph.table("text", node_type, words(width), torch.int64, slots=self.slots)
        """By slot."""

    def read(self, ids: Tensor) -> Tensor:
        """float16 N x D of nodes whose embeddings must be there; StoreError if one is not."""
        found = self.look_up(ids)
        if not bool(found.whole.all()):
            missing = int(ids[~found.whole][0])
            raise StoreError(
                f"the stored text embedding of {self.node_type} {missing} (id of the partition) is damaged "
                "or was never computed",
                hint="start the run again: it goes on from its last checkpoint",
            )
        return found.rows

    def look_up(self, ids: Tensor) -> Records:
        return unpack(self.records.read(self.slots.of(ids)), ids, self.width)

    def put(self, ids: Tensor, records: Tensor) -> Tensor:
        """Store packed records (int64 N x W) of distinct nodes (int64 N) of this trainer's parts; which of
        the nodes found room, int64."""
        stay = self.slots.winners(ids)
        self.records.put(self.slots.of(ids[stay]), records[stay])
        return ids[stay]

    def write(self, ids: Tensor, rows: Tensor, stamp: Stamp) -> None:
        """Overwrite the rows (N x D) of distinct nodes (int64 N), which this host must own; there must be a
        slot for every node."""
        assert self.slots.complete
        self.records.put(ids, pack(rows, ids, stamp))
