"""What a stage takes over from a stage of another run: weights, and rows of nodes that both graphs have.

Owns how the nodes of this trainer's parts are found in the partition of that run, and the telling. Never
trains and never writes to that run. Every function is called by all trainers together.
Shape letters: N nodes of a type in a part, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from partition.earlier import rows_among
from partition.errors import StoreError
from partition.moved import ids_before, trace
from partition.reader import read_ids
from pipeline.checkpoint import Checkpoint, newest_whole
from pipeline.events import PROGRESS_MARK
from pipeline.rowids import saved_row_ids
from pipeline.statefiles import load_tensors
from pipeline.trainer import Trainer, normal_rows


@dataclass(frozen=True)
class Past:
    """Where the nodes of this trainer's parts were in an earlier partition."""

    partition: str
    """Its id."""
    ranges: Mapping[str, Sequence[tuple[int, int]]]
    """Type -> [first, last) id there of each of its parts."""
    old: Mapping[tuple[str, int], Tensor]
    """(type, part) -> int64 N, id there of each node of the part, by id here; -1 for a new one."""


def take_over(trainer: Trainer, folder: Path) -> None:
    """Load the best model of a stage of another run, `folder`, as far as names, shapes and classes are those
    of this one, and the learnable rows of nodes that its partition had. StoreError if it holds no model."""
    saved = newest_whole(folder)
    if saved is None:
        raise StoreError(f"{folder} holds no whole model", hint="name RUN_FOLDER:STAGE")
    changed = _changed_classes(trainer, saved)
    if changed:
        say(trainer, f"classes of {', '.join(changed)} are not those of {folder}: the head begins anew")
    now = trainer.graph.manifest
    before = (saved.state["partition"], saved.state.get("numbering", now.numbering))
    if before == (now.id, now.numbering):
        trainer.load(saved, None, anew=changed)
        return
    trainer.load_weights(saved.path, anew=changed)
    rows = _take_rows(trainer, saved, folder) if trainer.embeddings else {}
    trainer.record.event(
        "taken_over", model=folder, partition=saved.state["partition"], rows=rows, heads_anew=changed
    )
    torch.distributed.barrier()


def say(trainer: Trainer, text: str) -> None:
    """A line for the log and the terminal."""
    if trainer.rank == 0:
        print(PROGRESS_MARK + text, flush=True)


def warn(trainer: Trainer, text: str) -> None:
    """The same for what a person should look at."""
    if trainer.rank == 0:
        print(f"WARNING {text}", flush=True)


def look_back(trainer: Trainer, saved: Checkpoint, types: Sequence[str]) -> Past | str:
    """Find the nodes of some types in the partition of an earlier model. If any trainer cannot, why not, for
    all."""
    found: Past | str
    try:
        found = _look_back(trainer, saved, types)
    except (StoreError, OSError) as error:  # held back: all take the same branch
        found = str(error)
    reasons = [reason for reason in trainer.gather(found if isinstance(found, str) else "") if reason]
    return reasons[0] if reasons else found


def _look_back(trainer: Trainer, saved: Checkpoint, types: Sequence[str]) -> Past:
    """By the partitions in the store, which read little; else by the ids that the model has with it."""
    graph, state = trainer.graph, saved.state
    try:
        way = trace(graph.folder, state["partition"], state.get("numbering", ""))
        manifest = way.before.manifest
        there = {
            t: [manifest.part_range(t, part) for part in range(manifest.parts)] for t in manifest.offsets
        }
        ids = {name: torch.from_numpy(ids_before(way, name, graph.host)) for name in types}
    except StoreError:
        if not state.get("graph") or state["graph"] != graph.manifest.schema_name:
            raise
        there, ids = _by_saved_ids(trainer, saved.path, types)
    old = {}
    for name in types:
        for part in trainer.parts:
            first, last = (i - graph.first_local(name) for i in graph.manifest.part_range(name, part))
            old[name, part] = ids[name][first:last].clone()
    return Past(state["partition"], there, old)


def _by_saved_ids(
    trainer: Trainer, model: Path, types: Sequence[str]
) -> tuple[dict[str, list[tuple[int, int]]], dict[str, Tensor]]:
    """(`Past.ranges`, type -> int64, id there of each node of this host, -1 for a new one)."""
    ranges, old = {}, {}
    for name in types:
        own = read_ids(trainer.graph.folder, trainer.graph.host, name)
        known = saved_row_ids(model, name)
        bounds = [0, *accumulate(len(ids) for ids in known)]
        ranges[name] = list(pairwise(bounds))
        # A type that had text or features then has no rows, and so no ids.
        found = rows_among(own, pa.concat_arrays(known)).astype(np.int64) if known else np.full(len(own), -1)
        old[name] = torch.from_numpy(found)
    return ranges, old


def saved_rows(saved: Checkpoint, past: Past, node_type: str, part: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(positions in a part of this partition, rows of those nodes as an earlier run saved them: N x D), for
    each part that they were in; StoreError where files do not fit that partition."""
    old = past.old[node_type, part]
    for there, (first, last) in enumerate(past.ranges.get(node_type, ())):
        here = ((old >= first) & (old < last)).nonzero().squeeze(1)
        if not len(here):
            continue
        files = sorted(saved.path.glob(f"rank-*/part-{there}.safetensors"))
        rows = load_tensors(files[0]).get(node_type) if files else None
        if rows is None:  # the type had text or features then, or was bare
            continue
        if len(rows) != last - first:
            raise StoreError(
                f"{files[0]} holds {len(rows)} rows of {node_type}, partition {past.partition} "
                f"{last - first} in that part: it was built again since that run",
                hint="leave `start` out, or name a stage of a newer run",
            )
        yield here, rows[old[here] - first]


def _take_rows(trainer: Trainer, saved: Checkpoint, folder: Path) -> dict[str, list[int]]:
    """Type -> [rows carried over, rows that begin anew], over all trainers."""
    past = look_back(trainer, saved, list(trainer.embeddings))
    if isinstance(past, str):
        warn(trainer, f"all learnable rows begin anew, since nodes of {folder} are not found again: {past}")
    hidden, counts = trainer.plan.model.hidden, {}
    for name, embedding in trainer.embeddings.items():
        mine = torch.zeros(2, dtype=torch.int64)
        for part in trainer.parts:
            ids = torch.arange(*trainer.graph.manifest.part_range(name, part))
            rows, carried = normal_rows(trainer.plan.seed, name, ids, hidden), 0
            for here, found in saved_rows(saved, past, name, part) if isinstance(past, Past) else ():
                if found.shape[1:] == rows.shape[1:]:
                    rows[here] = found
                    carried += len(here)
            if len(ids):
                embedding.table.write(int(ids[0]), rows)
            mine += torch.tensor([carried, len(ids) - carried])
        torch.distributed.all_reduce(mine)
        counts[name] = mine.tolist()
        if isinstance(past, Past):
            say(
                trainer,
                f"learnable rows of {name}: {counts[name][0]:,} carried over from {folder}, "
                f"{counts[name][1]:,} begin anew",
            )
    return counts


def _changed_classes(trainer: Trainer, saved: Checkpoint) -> list[str]:
    """Tasks of both runs whose classes differ, or stand in another order: equal shapes prove nothing."""
    before, now = saved.state.get("classes", {}), trainer.model.classes
    return [name for name in now if name in before and list(before[name]) != list(now[name])]
