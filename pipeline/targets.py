"""What is trained on and evaluated: target edges, nodes and texts of one part. Reads the partition's
target files; in which batch each comes is schedule.py's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from partition.manifest import SPLITS, PartitionManifest
from partition.reader import read_edge_targets, read_node_targets
from pipeline.hashing import hash_ids, key_of

HELD_OUT = 20
"""One in so many texts (mlm) or edges without a split (graph_lm) is kept from training and validated on."""


@dataclass(frozen=True)
class Links:
    """Target edges; `relation` counts along the relations that were asked for."""

    relation: Tensor
    source: Tensor
    destination: Tensor

    def __len__(self) -> int:
        return self.source.numel()

    def select(self, rows: Tensor) -> Links:
        return Links(self.relation[rows], self.source[rows], self.destination[rows])


@dataclass(frozen=True)
class Texts:
    """Text nodes; `node_type` counts along the manifest's node types."""

    node_type: Tensor
    id: Tensor

    def __len__(self) -> int:
        return self.id.numel()

    def select(self, rows: Tensor) -> Texts:
        return Texts(self.node_type[rows], self.id[rows])


@dataclass(frozen=True)
class LabelledNodes:
    """Nodes of one type with their classes."""

    id: Tensor
    label: Tensor

    def __len__(self) -> int:
        return self.id.numel()

    def select(self, rows: Tensor) -> LabelledNodes:
        return LabelledNodes(self.id[rows], self.label[rows])


@dataclass(frozen=True)
class LabelledLinks:
    """Edges of one relation with their classes."""

    source: Tensor
    destination: Tensor
    label: Tensor

    def __len__(self) -> int:
        return self.source.numel()

    def select(self, rows: Tensor) -> LabelledLinks:
        return LabelledLinks(self.source[rows], self.destination[rows], self.label[rows])


Targets = Links | Texts | LabelledNodes | LabelledLinks


def read_links(
    folder: Path, manifest: PartitionManifest, *, part: int, relations: Sequence[str], split: str
) -> Links:
    """Target edges whose destination lies in a part, by relation, destination and source."""
    columns: list[list[Tensor]] = [[], [], []]
    for number, name in enumerate(relations):
        if manifest.relation(name).targets.get(split):
            source, destination, _ = _edge_targets(folder, manifest, part, name, split)
            columns[0].append(torch.full((len(source),), number))
            columns[1].append(source)
            columns[2].append(destination)
    empty = torch.zeros(0, dtype=torch.int64)
    return Links(*(torch.cat([empty, *column]) for column in columns))


def read_labelled_links(
    folder: Path, manifest: PartitionManifest, *, part: int, relation: str, split: str
) -> LabelledLinks:
    """Target edges with a class whose destination lies in a part, by destination and source."""
    found = LabelledLinks(*_edge_targets(folder, manifest, part, relation, split))
    return found.select((found.label >= 0).nonzero().squeeze(1))


def read_labelled_nodes(
    folder: Path, manifest: PartitionManifest, *, part: int, node_type: str, split: str
) -> LabelledNodes:
    """Target nodes of a part, by id."""
    stored = read_node_targets(folder, part // manifest.trainers, node_type)
    first, last = manifest.part_range(node_type, part)
    chosen = (stored.split == SPLITS.index(split)) & (stored.id >= first) & (stored.id < last)
    return LabelledNodes(torch.from_numpy(stored.id[chosen]), torch.from_numpy(stored.label[chosen]).long())


def _edge_targets(
    folder: Path, manifest: PartitionManifest, part: int, relation: str, split: str
) -> tuple[Tensor, Tensor, Tensor]:
    """(source, destination, label) of a part's targets in a split."""
    stored = read_edge_targets(folder, part // manifest.trainers, relation)
    first, last = manifest.part_range(manifest.relation(relation).destination, part)
    chosen = (stored.split == SPLITS.index(split)) & (stored.destination >= first)
    chosen &= stored.destination < last
    columns = (stored.source[chosen], stored.destination[chosen], stored.label[chosen])
    return tuple(torch.from_numpy(column).long() for column in columns)  # type: ignore[return-value]


def held_out_edges(relation: str, source: Tensor, destination: Tensor) -> Tensor:
    """bool E: edges of a relation without a split column that a graph_lm stage validates on."""
    return hash_ids(key_of("held out", relation), source, destination) % HELD_OUT == 0


def read_texts(manifest: PartitionManifest, *, part: int, split: str) -> Texts:
    """All text nodes of a part: those to train mlm on, or the few held out (split = valid)."""
    types, ids = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, dtype=torch.int64)]
    for number, info in enumerate(manifest.node_types):
        if info.text:
            everything = torch.arange(*manifest.part_range(info.name, part))
            held_out = hash_ids(key_of("held out", info.name), everything) % HELD_OUT == 0
            chosen = everything[held_out if split == "valid" else ~held_out]
            types.append(torch.full_like(chosen, number))
            ids.append(chosen)
    return Texts(torch.cat(types), torch.cat(ids))
