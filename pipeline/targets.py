"""What is trained on and evaluated: target edges and texts of one part, and their order in time.

Reads the partition's target files. Every trainer knows how many targets each part has, so all make
the same number of steps without asking each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from partition.manifest import SPLITS, PartitionManifest
from pipeline.hashing import hash_ids, key_of, permutation

_HELD_OUT_TEXTS = 20
"""One text in so many is kept from mlm's training and used for its validation loss."""


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


def read_links(
    folder: Path, manifest: PartitionManifest, *, part: int, relations: Sequence[str], split: str
) -> Links:
    """Target edges whose destination lies in a part, by relation, destination and source."""
    host = part // manifest.trainers
    columns: list[list[Tensor]] = [[], [], []]
    for number, name in enumerate(relations):
        info = manifest.relation(name)
        if not info.targets.get(split):
            continue
        first, last = manifest.part_range(info.destination, part)
        chosen = (pc.field("split") == SPLITS.index(split)) & (pc.field("destination") >= first)
        table = pq.read_table(
            folder / f"part{host}" / "targets" / "edges" / f"{name}.parquet",
            columns=["source", "destination"],
            filters=chosen & (pc.field("destination") < last),
        )
        columns[0].append(torch.full((table.num_rows,), number))
        columns[1].append(torch.from_numpy(table["source"].to_numpy().copy()))
        columns[2].append(torch.from_numpy(table["destination"].to_numpy().copy()))
    empty = torch.zeros(0, dtype=torch.int64)
    return Links(*(torch.cat([empty, *column]) for column in columns))


def read_texts(manifest: PartitionManifest, *, part: int, split: str) -> Texts:
    """All text nodes of a part: those to train mlm on, or the few held out (split = valid)."""
    types, ids = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, dtype=torch.int64)]
    for number, info in enumerate(manifest.node_types):
        if info.text:
            everything = torch.arange(*manifest.part_range(info.name, part))
            held_out = hash_ids(key_of("held out", info.name), everything) % _HELD_OUT_TEXTS == 0
            chosen = everything[held_out if split == "valid" else ~held_out]
            types.append(torch.full_like(chosen, number))
            ids.append(chosen)
    return Texts(torch.cat(types), torch.cat(ids))


@dataclass(frozen=True)
class Schedule:
    """When a part's targets are used: once per epoch, in an order of its own, in equal shares, so
    that all parts make the same number of steps however many targets each has."""

    sizes: tuple[int, ...]
    """Targets of each part."""
    batch_size: int
    epochs: float
    accumulate: int
    key: int

    @property
    def batches_per_epoch(self) -> int:
        return max(1, math.ceil(max(self.sizes) / self.batch_size))

    @property
    def steps(self) -> int:
        batches = max(1, round(self.epochs * self.batches_per_epoch))
        return math.ceil(batches / self.accumulate)

    def rows(self, batch: int, part: int) -> Tensor:
        """int64: targets of a part in its batch number `batch` (= step * accumulate + i)."""
        epoch, position = divmod(batch, self.batches_per_epoch)
        size = self.sizes[part]
        first = position * size // self.batches_per_epoch
        last = (position + 1) * size // self.batches_per_epoch
        return _order(key_of(self.key, epoch, part), size)[first:last]


@lru_cache(maxsize=64)
def _order(key: int, size: int) -> Tensor:
    """Kept for the epoch: it takes a sort of all targets of the part."""
    return permutation(key, size)
