"""A finished partition as trainers see it, read by one process from the files, without servers.

Answers like graph.Graph: the same requests, put to each host's part in turn. A part is loaded when it
is first asked for, and kept; `host` says for whom it answers. Tables of all hosts lie in this process. Never
for training: it has no learnable rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dgl
import torch
from torch import Tensor

from partition.manifest import PartitionManifest
from pipeline.graph import Graph
from pipeline.ids import IdSpace
from pipeline.requests import Host, join


class _Table:
    """Rows of all hosts; those of the host that the graph stands for are its own."""

    def __init__(self, graph: OfflineGraph, name: str, node_type: str, rows: list[Tensor]) -> None:
        self._graph, self.name, self._node_type, self.rows = graph, name, node_type, rows

    def own(self, ids: Tensor) -> Tensor:
        return self.rows[self._graph.host][ids - self._graph.first_local(self._node_type)]

    def put(self, ids: Tensor, rows: Tensor) -> None:
        self.rows[self._graph.host][ids - self._graph.first_local(self._node_type)] = rows

    def write(self, first: int, rows: Tensor) -> None:
        self.put(first + torch.arange(len(rows)), rows)


class OfflineGraph(Graph):
    """Neighbours, edges and tokens of all hosts."""

    def __init__(self, folder: Path, manifest: PartitionManifest) -> None:
        self.manifest, self.folder, self.host, self.ids = manifest, folder, 0, IdSpace(manifest)
        self.relations = tuple(r.name for r in manifest.relations)
        self.relation_index = {name: i for i, name in enumerate(self.relations)}
        self.costs: Counter[str] = Counter()
        self._hosts = [Host(folder, manifest, self.ids, number) for number in range(manifest.hosts)]
        self._made: dict[str, _Table] = {}
        self._graph: Any = SimpleNamespace(local_partition=None)

    def stored_edges(self, relation: str, part: int) -> tuple[Tensor, Tensor]:
        self._become(part // self.manifest.trainers)
        return super().stored_edges(relation, part)

    def ask(self, owner: Tensor, request: Callable[[int, Tensor], Any]) -> list[tuple[int, Tensor, Any]]:
        answers = []
        for number in torch.unique(owner).tolist():
            self._become(number)
            rows = (owner == number).nonzero().squeeze(1)
            asked = request(number, rows)
            if number == self.host:
                answers.append((number, rows, asked.answer(None)))
                continue
            reply = asked.process_request(self._server(number))
            self.costs["remote_bytes"] += asked.bytes + reply.bytes
            answers.append((number, rows, reply))
        return answers

    def _server(self, number: int) -> Any:
        """What a host's server has at hand; its Host keeps the CSC."""
        stored = {table.name: table.rows[number] for table in self._made.values()}
        return SimpleNamespace(graph=None, kv_store=SimpleNamespace(data_store=stored))

    def table(
        self, name: str, node_type: str, width: int, dtype: torch.dtype, *, rows: int | None = None
    ) -> Any:
        """As Graph.table, asked for on behalf of each host in turn."""
        key = f"{name}-{node_type}"
        if self.host == 0:
            self._made[key] = _Table(self, key, node_type, [])
        first, last = self.manifest.host_range(node_type, self.host)
        self._made[key].rows.append(torch.zeros(last - first if rows is None else rows, width, dtype=dtype))
        return self._made[key]

    def _become(self, number: int) -> None:
        """Make this process a process of that host."""
        host = self._hosts[number]
        if host.csc is None:
            path = self.folder / f"part{number}" / "graph.dgl"
            host.part(dgl.load_graphs(str(path))[0][0])
        join(host)
