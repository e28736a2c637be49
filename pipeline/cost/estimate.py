"""What a plan costs on a partition before it runs: rows, LM tokens, time, memory and disk, stage by stage.

Owns the command and what it tells of its own method; stages.py does the arithmetic. Needs no
servers: batches come from the partition's files, times from a few seconds of the plan's own model on
this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console

from partition.errors import UsageError
from partition.manifest import PartitionManifest
from pipeline.config import TrainPlan
from pipeline.cost.disk import disk_use
from pipeline.cost.figures import Estimate
from pipeline.cost.table import show
from pipeline.model import LMGNN

MEASURED = (
    "sizes and LM tokens (with padding) of 16 batches a stage, drawn as the run draws them, and the "
    "seconds it takes",
    "seconds and bytes per LM token, on 128 (forward) and 32 (backward) texts of the partition",
    "seconds and bytes of graph encoder, head and loss, on one of the batches",
    "seconds of one AdamW step over what a stage trains; memory of the process before the model",
)
COMPUTED = (
    "how often all texts are encoded, each stage's last model taken for its best, nothing taken over from "
    "another run",
    "Adam (8 bytes a trained parameter), gradients and the copy that DeepSpeed averages (8), weights "
    "(4, and 4 while saving), forward-only activations (bound); on a CPU 1.8 times all that, since "
    "trainers keep what they free",
    "disk, at its fullest: each stage's model, engine.checkpoints_kept and the one being written, export, "
    "text embeddings that are kept",
)
LEFT_OUT = (
    "RPC to other hosts and all-reduce, graph layers and scores of evaluations, writing",
    "the slowdown by other trainers on the same cores",
)
_LIBRARIES = 130 * 2**20
"""Bytes that dgl 1.1.3, deepspeed 0.19.8, their process groups and tensorboard add to a process with
torch and transformers (a trainer of the default job before its model: 410 MiB)."""


def estimate(plan: TrainPlan, manifest: PartitionManifest, folder: str | Path, run_folder: Path) -> Estimate:
    """`run_folder`: where the run will write; it need not exist yet."""
    base_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + _LIBRARIES
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed's import warns on stdout
    # Imported late: it brings dgl and DeepSpeed, which `base_bytes` counts by _LIBRARIES.
    from pipeline.cost.stages import StageCosts, total

    before = torch.get_num_threads()
    threads = plan.engine.threads or max(1, len(os.sched_getaffinity(0)) // manifest.trainers)
    torch.set_num_threads(threads)
    try:
        model = LMGNN(plan, manifest).to(device)
        costs = StageCosts(plan, manifest, Path(folder), model, base_bytes=base_bytes)
        rows = costs.rows()
    finally:
        torch.set_num_threads(before)
    steps = sum(row.steps for row in rows)
    return Estimate(
        plan=plan.name,
        partition=manifest.id,
        hosts=manifest.hosts,
        trainers=manifest.parts,
        device=str(device),
        threads=threads,
        parameters=sum(p.numel() for p in model.parameters()),
        stages=rows,
        total=total(rows),
        host_bytes=costs.host_bytes(),
        text_bytes=costs.text_bytes(),
        disk=disk_use(
            plan,
            manifest,
            model,
            steps=steps,
            most_trained=costs.most_trained,
            kept_bytes=costs.kept_bytes,
        ),
        run_folder=str(run_folder),
        free_bytes=_free_bytes(run_folder),
        lm_per_token=costs.lm,
        measured=MEASURED,
        computed=COMPUTED,
        left_out=LEFT_OUT,
    )


def _free_bytes(folder: Path) -> int:
    """Of the disk that a folder lies on, or will."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m pipeline estimate`: a table, or one line of JSON."""
    parser = argparse.ArgumentParser(
        prog="lmgnn estimate",
        description="Say what a plan costs on a partition before it runs.",
        epilog="example: lmgnn estimate --plan runs/latest/plan.json --partition store/0a1b2c",
    )
    parser.add_argument("--plan", required=True, type=Path, help="plan.json that a run or `lmgnn plan` wrote")
    parser.add_argument("--partition", required=True, type=Path, help="folder of a finished partition")
    parser.add_argument(
        "--run-dir", type=Path, default=Path("runs"), help="where the run will write (default: runs)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    try:
        plan = TrainPlan.from_json(options.plan.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UsageError(f"--plan {options.plan}: {error}", hint="expected a plan.json") from None
    manifest = PartitionManifest.load(options.partition)
    answer = estimate(plan, manifest, options.partition, options.run_dir)
    if options.json:
        sys.stdout.write(json.dumps(asdict(answer)) + "\n")
    else:
        show(answer, Console(width=None if sys.stdout.isatty() else 120))
    return 0
