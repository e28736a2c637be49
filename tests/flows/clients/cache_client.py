"""Runs in place of a trainer: uses the embedding cache over real servers with a model whose every
embedding tells which node it is of and at which step it was computed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pipeline.aging import first_state, lifetimes
from pipeline.batch import Batch
from pipeline.cache import EmbeddingCache
from pipeline.config import TrainPlan
from pipeline.dgl_processes import start_client
from pipeline.engine import start_collectives
from pipeline.fresh import FreshNodes
from pipeline.graph import Graph
from pipeline.hashing import hash_ids, key_of
from pipeline.texttable import TextTable

STEPS, WIDTH = 40, 12


def embedding(ids: Tensor, step: int) -> Tensor:
    """float32 N x WIDTH: the step, then hashes of node and step that float16 holds exactly."""
    draws = hash_ids(key_of("oracle"), ids[:, None], torch.arange(WIDTH - 1), step) & 0x3FF
    return torch.cat([torch.full((len(ids), 1), float(step)), draws.float()], dim=1)


def alive(ids: Tensor, seen: Mapping[int, int], step: int, max_age: int) -> set[int]:
    """Nodes whose embedding, computed at the step that `seen` says, may serve."""
    written = torch.tensor([seen.get(node, -(1 << 20)) for node in ids.tolist()])
    return set(ids[step - written <= lifetimes(ids, written, max_age)].tolist())


def damaged(ids: Tensor) -> Tensor:
    """Those of the nodes whose records lose a bit, about a third."""
    return ids[hash_ids(key_of("damaged"), ids) % 3 == 0]


def one_bit_off(records: Tensor) -> Tensor:
    """Each record with one bit turned, any of all its words."""
    rows = torch.arange(len(records))
    draws = hash_ids(key_of("bit"), rows)
    changed = records.clone()
    changed[rows, draws % records.shape[1]] ^= torch.ones(len(rows), dtype=torch.int64) << (draws >> 8) % 64
    return changed


def scribble(table: TextTable, step: int) -> None:
    """Turn a bit of every fifth copy while the host's other trainer reads them."""
    assert table.copies is not None
    kept = table.copies._table._tensor.local_partition
    rows = (hash_ids(key_of("scribbled", step), torch.arange(len(kept))) % 5 == 0).nonzero().squeeze(1)
    kept[rows] = one_bit_off(kept[rows])


def main() -> None:
    env = os.environ
    damaged_at = int(env.get("DAMAGED_AT", "-1"))
    run, rank = Path(env["LMGNN_RUN"]), int(env["RANK"])
    with contextlib.redirect_stdout(None):
        start_client(Path(env["LMGNN_PARTITION"]), int(env["LMGNN_HOST"]), env["LMGNN_GRAPH_NAME"])
        graph = Graph(env["LMGNN_GRAPH_NAME"])
    start_collectives(torch.device("cpu"))
    plan = TrainPlan.from_json((run / "plan.json").read_text())
    share, copied = float(env.get("SHARE", "1")), float(env.get("COPIED", "1"))
    table = TextTable(graph, "paper", WIDTH, share=share, copied=copied)
    cache = EmbeddingCache(
        plan.cache,
        {"paper": table},
        graph.manifest,
        state=first_state(plan.cache, "joint", "start"),
        parts_of=[[part] for part in range(graph.manifest.parts)],
        keep_trained=True,
        fresh=FreshNodes({"paper": graph.ids.count["paper"]}, {"paper": table.slots}),
    )
    names = ("texts", "hits", "wrong", "oldest", "unseen", "served_trained", "foreign", "fresh", "evicted")
    out = dict.fromkeys(names, 0)
    digest = hashlib.blake2b()
    everyone = torch.arange(graph.ids.count["paper"])
    mine: set[tuple[int, int]] = set()
    seen: dict[int, int] = {}
    """Node -> last step at which any trainer computed it, which all trainers work out alike."""
    slot_of, holder = table.slots.of(everyone).tolist(), {}
    """Of each node its place; of each place the node that has it."""
    for step in range(STEPS):
        computed: set[int] = set()
        for other in range(graph.manifest.parts):
            draws = hash_ids(key_of("batch", step, other), torch.arange(graph.ids.count["paper"]))
            ids = (draws % 4 == 0).nonzero().squeeze(1)
            batch = Batch(nodes={"paper": ids}, key=key_of(step, other))
            batch = replace(batch, train_rows={"paper": torch.arange(0, len(ids), 7)})
            usable = alive(ids, seen, step, plan.cache.max_age)
            trained = {int(ids[row]) for row in batch.train_rows["paper"]}
            if other != rank:
                again = set()  # without refresh every usable text is a hit
                computed |= {int(i) for i in ids} - (usable - trained - again)
                continue
            if "SCRIBBLED" in env:
                scribble(table, key_of(step, rank))
            found = cache.find(batch)
            digest.update(found.hits["paper"].numpy().tobytes() + found.embedded["paper"].numpy().tobytes())
            rows, positions = found.embedded["paper"].float(), found.hits["paper"]
            hit = ids[positions]
            steps = rows[:, 0].long()
            for node, when, row in zip(hit.tolist(), steps.tolist(), rows, strict=True):
                out["wrong"] += int(not torch.equal(row, embedding(torch.tensor([node]), when)[0]))
                out["oldest"] = max(out["oldest"], step - when)
                out["foreign"] += (node, when) not in mine
            out["texts"] += len(ids)
            out["hits"] += len(hit)
            out["unseen"] += len((usable - trained) ^ set(hit.tolist()))
            out["served_trained"] += len(trained & set(hit.tolist()))
            rows = embedding(ids, step)
            cache.keep(found, {"paper": rows}, {"paper": torch.ones(len(ids), dtype=torch.bool)})
            own = set(ids.tolist()) - set(hit.tolist())
            mine |= {(node, step) for node in own}
            computed |= own
        cache.commit()
        stored = {slot_of[node]: node for node in sorted(computed, reverse=True)}
        for slot, node in stored.items():
            out["evicted"] += holder.get(slot, node) != node
            seen.pop(holder.get(slot, node), None)
        holder |= stored
        seen |= dict.fromkeys(stored.values(), step)
        if step == STEPS // 2:
            cache.read_stamps()  # as a resumed stage does
        fresh = set(cache.fresh("paper").tolist())
        out["fresh"] += len(fresh ^ alive(everyone, seen, step + 1, plan.cache.max_age))
        if step == damaged_at:
            own = damaged(torch.arange(*graph.manifest.part_range("paper", rank)))
            places = table.slots.of(own)
            table.records.put(places, one_bit_off(table.records.read(places)))
            torch.distributed.barrier()
            for node in damaged(torch.arange(graph.ids.count["paper"])).tolist():
                seen.pop(node, None)
    fetched = int(graph.take_costs()["remote_records"])
    told = {**out, "fetched": fetched, "digest": digest.hexdigest()}
    (run / f"cache-{rank}.json").write_text(json.dumps(told))
    torch.distributed.barrier()
    graph.close()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
