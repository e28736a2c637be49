"""The stored text embeddings of one node type, sharded over the hosts that own the nodes.

Owns the way from float rows to records and back, and what of them travels: a record of another host is
fetched only if the owner's is not what this host has a copy of, so that what is read is what the owner
has, whether there are copies or not. What is read is what its record says it is; when a row may still be
used is decided in cache.py. Shape letters: N nodes, D width of the embedding, W words of a record.
"""

from __future__ import annotations

import torch
from torch import Tensor

from partition.errors import StoreError
from pipeline.copies import Copies
from pipeline.graph import Graph
from pipeline.packed import ascending, unpack_ascending
from pipeline.records import Records, Stamp, pack, unpack, version, words
from pipeline.requests import RecordRequest
from pipeline.sharded import Table
from pipeline.slots import Slots

ANY = torch.zeros(0, 2, dtype=torch.int64)
"""Every embedding is wanted."""


class TextTable:
    """A record per text node, or for fewer of them than there are. Like sharded.Table: owners write, and
    what was written counts for other hosts after the next barrier."""

    def __init__(
        self, graph: Graph, node_type: str, width: int, *, share: float = 1.0, copied: float = 0.0
    ) -> None:
        """Every trainer must make its tables in the same order; `width`: of the embedding; `share`: of
        the nodes that there is room for; `copied`: of other hosts' nodes that each host has room for copies
        of."""
        self._graph, self.node_type, self.width = graph, node_type, width
        self.slots, self._share = Slots(graph.manifest, node_type, share), share
        self.bytes = 8 * words(width) * self.slots.count
        """On all hosts together, without copies."""
        rows = None if self.slots.complete else self.slots.of_host(graph.host)
        self.records: Table = graph.table("text", node_type, words(width), torch.int64, rows=rows)
        """By slot."""
        self.copies: Copies | None = None
        if copied > 0:
            self.copies = Copies(graph, node_type, words(width), share=copied)

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

    def look_up(self, ids: Tensor, wanted: Tensor = ANY) -> Records:
        """What is stored of nodes (int64 N). Of other hosts' records those that would not serve may count as
        missing; `wanted`: see records.would_serve."""
        own = self._graph.ids.host_of(self.node_type, ids) == self._graph.host
        if bool(own.all()):
            return unpack(self.records.own(self.slots.of(ids)), ids, self.width)
        records = torch.empty(len(ids), words(self.width), dtype=torch.int64)
        here, others = own.nonzero().squeeze(1), (~own).nonzero().squeeze(1)
        records.index_copy_(0, here, self.records.own(self.slots.of(ids[here])))
        others = others[ids[others].argsort()]
        records.index_copy_(0, others, self._of_others(ids[others], wanted))
        return unpack(records, ids, self.width)

    def _of_others(self, ids: Tensor, wanted: Tensor) -> Tensor:
        """int64 N x W: records that other hosts own, zeros for those not to be had; `ids` ascending."""
        if self.copies is not None:
            records = self.copies.read(ids)
        else:
            records = torch.zeros(len(ids), words(self.width), dtype=torch.int64)
        versions = version(records)
        local = self._graph.ids.local(self.node_type, ids)

        def request(_: int, rows: Tensor) -> RecordRequest:
            asked = ascending(local[rows])
            held = versions[rows]
            held = held if bool(held.any()) else held[:0]
            return RecordRequest(self.records.name, self.node_type, self._share, asked, held, wanted)

        for _, rows, reply in self._graph.ask(self._graph.ids.host_of(self.node_type, ids), request):
            records[rows[unpack_ascending(reply.first)]] = 0
            new = rows[unpack_ascending(reply.second)]
            records[new] = reply.third
            self._graph.costs["remote_records"] += len(new)
            if self.copies is not None:
                self.copies.put(ids[new], reply.third)
        return records

    def put(self, ids: Tensor, records: Tensor) -> Tensor:
        """Store packed records (int64 N x W) of distinct nodes (int64 N) of this trainer's parts; which of
        the nodes found room, int64."""
        stay = self.slots.winners(ids)
        self.records.put(self.slots.of(ids[stay]), records[stay])
        return ids[stay]

    def sent(self, ids: Tensor, records: Tensor) -> None:
        """Keep copies of packed records that this trainer hands to other owners, who may keep them or
        another trainer's."""
        if self.copies is not None:
            others = self._graph.ids.host_of(self.node_type, ids) != self._graph.host
            self.copies.put(ids[others], records[others])

    def write(self, ids: Tensor, rows: Tensor, stamp: Stamp) -> None:
        """Overwrite the rows (N x D) of distinct nodes (int64 N), which this host must own; there must be a
        slot for every node."""
        assert self.slots.complete
        self.records.put(ids, pack(rows, ids, stamp))
