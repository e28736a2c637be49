"""Training over two hosts is the same whether hosts keep copies of each other's stored text embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toy import build_partition, plan_of, run_processes, write_lm

from partition.manifest import PartitionManifest
from pipeline.model import LMGNN
from pipeline.room import copied_share, host_bytes

JOINT = {
    "name": "joint",
    "kind": "joint",
    "task": "cites",
    "batch_size": 10,
    "train_nodes": 4,
    "lm_rate": 1e-3,
    "evals": 0,
    "epochs": 2.0,
}


@pytest.mark.parametrize("cache", [{"mode": "bounded", "max_age": 6}, {"mode": "unbounded"}])
def test_losses_hits_and_weights_do_not_depend_on_copies(
    toy: tuple[Path, Path, Path], tmp_path: Path, cache: dict[str, Any]
) -> None:
    graph, _, store = toy
    lm = write_lm(tmp_path / "lm", dropout=0.1)
    partition = build_partition(graph, lm, store, hosts=2, trainers=1)
    manifest = PartitionManifest.load(partition)
    plan = plan_of(graph, lm, stages=[JOINT], cache=cache)
    widths = {"paper": LMGNN(plan, manifest).text.of("paper").width}
    room = host_bytes(manifest, widths) / 2**30  # for what a host owns, and no more
    runs = []
    for share, limit in ((1, 0.0), (0, room)):
        plan = plan_of(graph, lm, stages=[JOINT], cache={**cache, "host_gib": limit})
        assert copied_share(plan, manifest, widths) == share
        run = run_processes(plan, partition, tmp_path / f"copied-{share}", hosts=2, trainers=1)
        files = [run / "events.jsonl", run / "events-1.jsonl"]
        events = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        [model] = (run / "stages" / "joint").glob("*-last")
        runs.append(
            ([e for e in events if e["event"] == "step"], load_file(model / "rank-0/model.safetensors"))
        )
    (steps, weights), (plain_steps, plain_weights) = runs
    for name in ("loss", "cache_usable", "cache_age", "cache_computed", "cache_aim"):
        assert [step[name] for step in steps] == [step[name] for step in plain_steps], name
    assert all(torch.equal(weight, plain_weights[name]) for name, weight in weights.items())
    fetched, without = (sum(e.get("remote_records", 0) for e in some) for some in (steps, plain_steps))
    assert 0 < fetched < 0.5 * without
