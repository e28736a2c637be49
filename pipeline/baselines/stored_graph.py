"""A graph as the baselines see it: texts, message edges and targets, in one numbering of rows.

Reads the original tables and the partition's target files, and checks that they belong together.
Never scores anything. Shape letters: N nodes of all types, E edges, B targets, K candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from partition.errors import StoreError
from partition.manifest import SPLITS, NodeTypeInfo, PartitionManifest, RelationInfo
from partition.quarantine import cap_of
from partition.reader import read_edge_targets, read_ids, read_node_targets
from pipeline.candidates import countable, eval_candidates
from pipeline.config import TaskPlan, TrainPlan
from pipeline.given_tables import load_graph_tables


@dataclass(frozen=True)
class Edges:
    """Edges of one relation; all ids are rows among the nodes of all types."""

    source: np.ndarray
    """int64 E."""
    destination: np.ndarray


@dataclass(frozen=True)
class Question:
    """Edges to rank; all ids are rows among the nodes of all types."""

    source: np.ndarray
    """int64 B."""
    tails: np.ndarray
    """int64 B x (1 + K), the true tail first."""
    counts: np.ndarray
    """bool B x K: which candidates count (candidates.countable)."""
    popularity: np.ndarray
    """int64 N: training targets of the relation that end in a node."""


@dataclass(frozen=True)
class Labelled:
    """Nodes or edges with their classes."""

    ends: np.ndarray
    """int64 B x 1 (a node) or B x 2 (source, destination): rows among the nodes of all types."""
    split: np.ndarray
    """int8 B: 0 train, 1 valid, 2 test."""
    label: np.ndarray
    """int32 B."""
    classes: tuple[str, ...]

    def of(self, split: str) -> Labelled:
        chosen = self.split == SPLITS.index(split)
        return Labelled(self.ends[chosen], self.split[chosen], self.label[chosen], self.classes)


class StoredGraph:
    """Texts, edges and targets of a partition, in one numbering of rows over all node types."""

    def __init__(self, plan: TrainPlan, partition: Path) -> None:
        self._folder = partition
        self._manifest = PartitionManifest.load(partition)
        self._tables = load_graph_tables(plan, cap=cap_of(self._manifest.options))
        sizes = [len(table.ids) for table in self._tables.nodes.values()]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        self._first = dict(zip(self._tables.nodes, starts.tolist(), strict=False))
        self.size = int(starts[-1])
        self._rows_of: dict[str, np.ndarray] = {}

    def texts(self) -> list[str]:
        """N texts; "" for nodes without."""
        texts: list[str] = []
        for table in self._tables.nodes.values():
            texts += [""] * len(table.ids) if table.texts is None else table.texts.to_pylist()
        return texts

    def message_edges(self) -> Mapping[str, Edges]:
        """Relation -> its edges outside validation and test, as the tables turn them."""
        edges = {}
        for name, table in self._tables.edges.items():
            kept = ~table.held_out
            source = table.source[kept] + self._first[table.schema.source]
            edges[name] = Edges(source, table.destination[kept] + self._first[table.schema.destination])
        return edges

    def questions(self, task: TaskPlan, split: str, seed: int) -> Iterator[Question]:
        """One per relation of a link task that has edges in the split."""
        for relation in task.relations:
            info = self._manifest.relation(relation)
            if not info.targets.get(split):
                continue
            source, destination, splits, _ = self._edge_targets(relation)
            chosen, train = splits == SPLITS.index(split), splits == SPLITS.index("train")
            source_rows, tail_rows = self._rows(info.source), self._rows(info.destination)
            candidates = eval_candidates(
                seed,
                relation,
                split,
                torch.from_numpy(source[chosen]),
                torch.from_numpy(destination[chosen]),
                task.eval_negatives,
                self._manifest.node_type(info.destination).count,
            ).numpy()
            heads = source_rows[source[chosen]]
            tails = tail_rows[np.concatenate([destination[chosen][:, None], candidates], axis=1)]
            yield Question(
                heads,
                tails,
                self._countable(relation, heads, tails),
                np.bincount(tail_rows[destination[train]], minlength=self.size),
            )

    def _countable(self, relation: str, heads: np.ndarray, tails: np.ndarray) -> np.ndarray:
        """bool B x K, as trainers have it: the relation's table holds the edges of every split."""
        table = self._tables.edges[relation]
        source = table.source + self._first[table.schema.source]
        destination = table.destination + self._first[table.schema.destination]
        known = np.isin(heads[:, None] * self.size + tails[:, 1:], source * self.size + destination)
        return countable(
            *map(torch.from_numpy, (heads, tails[:, 0], tails[:, 1:])),
            known=torch.from_numpy(known),
            within=True,  # rows of another type are never equal
        ).numpy()

    def labelled(self, task: TaskPlan) -> Labelled:
        """All targets of a classification task that have a class."""
        if task.kind == "node_classification":
            node = self._manifest.node_type(task.node_type)
            node_id, split, label = self._node_targets(node.name)
            ends, classes = self._rows(node.name)[node_id][:, None], node.classes
        else:
            edge = self._manifest.relation(task.relations[0])
            source, destination, split, label = self._edge_targets(edge.name)
            columns = (self._rows(edge.source)[source], self._rows(edge.destination)[destination])
            ends, classes = np.stack(columns, axis=1), edge.classes
        known = label >= 0
        return Labelled(ends[known], split[known], label[known], classes)

    def _node_targets(self, node_type: str) -> list[np.ndarray]:
        """id (typed), split, label of all targets of a type."""
        parts = [read_node_targets(self._folder, h, node_type) for h in range(self._manifest.hosts)]
        self._check_count(self._manifest.node_type(node_type), sum(len(part.id) for part in parts))
        return [np.concatenate([getattr(p, name) for p in parts]) for name in ("id", "split", "label")]

    def _edge_targets(self, relation: str) -> list[np.ndarray]:
        """source, destination (typed ids), split, label of all target edges."""
        parts = [read_edge_targets(self._folder, h, relation) for h in range(self._manifest.hosts)]
        self._check_count(self._manifest.relation(relation), sum(len(part.source) for part in parts))
        names = ("source", "destination", "split", "label")
        return [np.concatenate([getattr(p, name) for p in parts]) for name in names]

    def _check_count(self, info: NodeTypeInfo | RelationInfo, found: int) -> None:
        expected = sum(info.targets.values())
        if found != expected:
            raise StoreError(
                f"{self._folder}: {found} targets of {info.name!r}, but the manifest names {expected}",
                hint="build the partition again",
            )

    def _rows(self, node_type: str) -> np.ndarray:
        """int64: typed id -> row among all nodes."""
        if node_type not in self._rows_of:
            known = self._tables.nodes[node_type].ids
            parts = [read_ids(self._folder, h, node_type) for h in range(self._manifest.hosts)]
            ids = pa.concat_arrays([part.cast(known.type) for part in parts])
            found = pc.index_in(ids, value_set=known)
            if found.null_count or len(ids) != len(known):
                raise StoreError(
                    f"{self._folder}: its {node_type} ids are not those of the graph's tables",
                    hint="the tables have changed since: build the partition again",
                )
            self._rows_of[node_type] = found.to_numpy().astype(np.int64) + self._first[node_type]
        return self._rows_of[node_type]
