"""A finished partition as trainers see it, read by one process from the files, without servers.

Answers like graph.Graph: the same requests, put to each host's part in turn. A part is loaded when it
is first asked for, and kept. Never for training: it has no tables and no learnable rows.
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


class OfflineGraph(Graph):
    """Neighbours, edges and tokens of all hosts."""

    def __init__(self, folder: Path, manifest: PartitionManifest) -> None:
        self.manifest, self.folder, self.host, self.ids = manifest, folder, 0, IdSpace(manifest)
        self.relations = tuple(r.name for r in manifest.relations)
        self.relation_index = {name: i for i, name in enumerate(self.relations)}
        self.costs: Counter[str] = Counter()
        self._hosts = [Host(folder, manifest, self.ids, number) for number in range(manifest.hosts)]
        self._graph: Any = SimpleNamespace(local_partition=None)  # a Host keeps its CSC itself

    def stored_edges(self, relation: str, part: int) -> tuple[Tensor, Tensor]:
        self._become(part // self.manifest.trainers)
        return super().stored_edges(relation, part)

    def _ask(self, owner: Tensor, request: Callable[[Tensor], Any]) -> list[tuple[int, Tensor, Any]]:
        answers = []
        for number in torch.unique(owner).tolist():
            self._become(number)
            rows = (owner == number).nonzero().squeeze(1)
            answers.append((number, rows, request(rows).answer(None)))
        return answers

    def _become(self, number: int) -> None:
        """Make this process a process of that host."""
        host = self._hosts[number]
        if host.csc is None:
            path = self.folder / f"part{number}" / "graph.dgl"
            host.part(dgl.load_graphs(str(path))[0][0])
        join(host)
