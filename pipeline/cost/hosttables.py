"""The stored text embeddings of a replay: one node type, all hosts, without the embeddings themselves.

Tables, copies and requests are a run's, of records that are as short as can be, so what is found and what
travels is what would in a run, the vectors' length aside. Shape letter: N nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor

from pipeline.cost.offline import OfflineGraph
from pipeline.records import Records, Stamp, pack, words
from pipeline.texttable import ANY, TextTable

WIDTH = 1
"""Of the vectors that records hold in place of embeddings."""


class HostTables:
    """Stands where a trainer has its TextTable: that of the host which the graph stands for."""

    def __init__(self, graph: OfflineGraph, node_type: str, share: float, copied: float) -> None:
        """`share`, `copied`: see TextTable."""
        self._graph, self._node_type = graph, node_type
        self._hosts: list[TextTable] = []
        for _ in self._each():
            self._hosts.append(TextTable(graph, node_type, WIDTH, share=share, copied=copied))
        self.slots = self._hosts[0].slots

    def _each(self) -> Iterator[int]:
        """Hosts, each of them the graph's in its turn."""
        for host in range(self._graph.manifest.hosts):
            self._graph.host = host
            yield host

    def look_up(self, ids: Tensor, wanted: Tensor = ANY) -> Records:
        return self._hosts[self._graph.host].look_up(ids, wanted)

    def put(self, computed: Mapping[int, Sequence[Tensor]], stamp: Stamp) -> Tensor:
        """Store what was computed of nodes: host -> int64 each; which found room, int64. Two hosts that
        computed one node are taken to have come to the same bits."""
        ids = torch.cat([torch.zeros(0, dtype=torch.int64), *chain(*computed.values())]).unique()
        owner, stored = self._graph.ids.host_of(self._node_type, ids), []
        for host in self._each():
            for mine in computed.get(host, ()):
                self._hosts[host].sent(mine, _records(mine, stamp))
            own = ids[owner == host]
            stored.append(self._hosts[host].put(own, _records(own, stamp)))
        return torch.cat(stored)

    def fill(self, stamp: Stamp) -> None:
        """Store all embeddings, as an evaluation does; there must be room for them."""
        for host in self._each():
            first, last = self._graph.manifest.host_range(self._node_type, host)
            self._hosts[host].write(torch.arange(first, last), torch.zeros(last - first, WIDTH), stamp)

    def empty(self) -> None:
        for host in self._each():
            nothing = torch.zeros(self.slots.of_host(host), words(WIDTH), dtype=torch.int64)
            self._hosts[host].records.write(self._graph.first_local(self._node_type), nothing)


def _records(ids: Tensor, stamp: Stamp) -> Tensor:
    return pack(torch.zeros(len(ids), WIDTH), ids, stamp)
