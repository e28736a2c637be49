"""What training targets tell of their neighbours: counts of their classes at every node, as inputs of a
graph encoder ("label inputs": Wang et al. 2021, arXiv 2103.13355; masked label prediction: Shi et al.
2021, arXiv 2009.03509).

Owns the tables of counts and hides a batch's own targets from it. Never sees validation and test
labels. Shape letters: N nodes of a type, C classes, S sides (see Batch.known), B targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from partition.manifest import PartitionManifest
from pipeline.batch import Batch
from pipeline.config import TaskPlan
from pipeline.exchange import Exchange
from pipeline.graph import Graph
from pipeline.sharded import Table
from pipeline.targets import read_labelled_links, read_labelled_nodes


def known_shapes(task: TaskPlan, manifest: PartitionManifest) -> dict[str, tuple[int, int]]:
    """Node type -> (sides, classes) of what is known of it; empty unless the task asks for it."""
    if not task.known_labels:
        return {}
    if task.node_type:
        return {task.node_type: (1, len(manifest.node_type(task.node_type).classes))}
    info = manifest.relation(task.relations[0])
    sides = 2 if info.source == info.destination else 1
    return dict.fromkeys((info.source, info.destination), (sides, len(info.classes)))


class KnownLabels:
    """Counts of a task's training classes at all nodes."""

    def __init__(
        self, graph: Graph, name: str, task: TaskPlan, parts: Sequence[int], parts_of: Sequence[Sequence[int]]
    ) -> None:
        """A collective call. `parts`: this trainer's; `parts_of`: every trainer's, by rank."""
        self._task, self._shapes = task, known_shapes(task, graph.manifest)
        self._ends = {r.name: (r.source, r.destination) for r in graph.manifest.relations}
        self._tables: dict[str, Table] = {}
        exchange = Exchange(graph.manifest, parts_of)
        found = [_targets(graph, task, part) for part in parts]
        for node_type, (sides, classes) in self._shapes.items():
            table = graph.table(f"known-{name}", node_type, sides * classes, torch.float32)
            here = [(ids, words) for some in found for of, ids, words in some if of == node_type]
            nothing = torch.zeros(0, dtype=torch.int64)
            ids, words = exchange(
                node_type,
                torch.cat([nothing, *(ids for ids, _ in here)]),
                torch.cat([nothing, *(words for _, words in here)])[:, None],
            )
            for part in parts:
                _write_counts(table, graph.manifest.part_range(node_type, part), ids, words[:, 0])
            self._tables[node_type] = table
        torch.distributed.barrier()

    def fill(self, batch: Batch) -> Batch:
        """Counts at a batch's nodes, without those of its own targets."""
        known = {}
        for node_type, (sides, classes) in self._shapes.items():
            ids = batch.nodes.get(node_type)
            if ids is not None and len(ids):
                known[node_type] = self._tables[node_type].read(ids).view(len(ids), sides, classes)
        for name, targets in batch.classes.items():
            minus = -torch.ones(len(targets.label))
            sides_of = [(name, targets.head, 0)]
            if name in self._ends:
                source, destination = self._ends[name]
                sides_of = [
                    (source, targets.head, 0),
                    (destination, targets.tail, int(source == destination)),
                ]
            for node_type, position, side in sides_of:
                where = (position, torch.full_like(position, side), targets.label)
                known[node_type] = known[node_type].index_put(where, minus, accumulate=True)
        return replace(batch, known=known)


def _targets(graph: Graph, task: TaskPlan, part: int) -> list[tuple[str, Tensor, Tensor]]:
    """[(node type, int64 B: nodes, int64 B: side * classes + class)] of a part's training targets."""
    if task.node_type:
        nodes = read_labelled_nodes(
            graph.folder, graph.manifest, part=part, node_type=task.node_type, split="train"
        )
        return [(task.node_type, nodes.id, nodes.label)]
    info = graph.manifest.relation(task.relations[0])
    links = read_labelled_links(graph.folder, graph.manifest, part=part, relation=info.name, split="train")
    into = len(info.classes) if info.source == info.destination else 0
    return [
        (info.source, links.source, links.label),
        (info.destination, links.destination, links.label + into),
    ]


def _write_counts(table: Table, owned: tuple[int, int], ids: Tensor, words: Tensor) -> None:
    """Count what arrived for the nodes of a part into its rows."""
    first, last = owned
    if first == last:
        return
    mine = (ids >= first) & (ids < last)
    width = table.read(torch.tensor([first])).shape[1]
    counts = torch.zeros(last - first, width)
    where = (ids[mine] - first, words[mine])
    table.write(first, counts.index_put(where, torch.ones(int(mine.sum())), accumulate=True))


def as_features(known: Tensor) -> Tensor:
    """float32 N x S * (C + 1): shares of the classes on each side, and log(1 + their number)."""
    total = known.sum(-1, keepdim=True)
    return torch.cat([known / total.clamp(min=1), total.log1p()], dim=-1).flatten(1)


def feature_widths(shapes: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """Columns of `as_features` by node type."""
    return {name: sides * (classes + 1) for name, (sides, classes) in shapes.items()}
