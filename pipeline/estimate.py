"""What a plan costs on a partition before it runs: rows, LM tokens, time, memory, stage by stage.

Owns the arithmetic and the table. Needs no servers: counts come from the partition's files, times
from a few seconds of the plan's own model on this machine (measure.py). It leaves out sampling and
RPC, and takes one trainer per part, each as fast as this process.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from partition.errors import UsageError
from partition.manifest import PartitionManifest
from pipeline.config import StagePlan, TaskPlan, TrainPlan
from pipeline.costtable import show
from pipeline.measure import Cost, LMCosts, measure_graph, measure_lm, measure_step, sample_texts
from pipeline.model import LMGNN, TEXT_ONLY, stage_task, text_types
from pipeline.shapes import batch_shape
from pipeline.targets import Schedule, read_labelled_nodes, read_links, read_texts

MEASURED = (
    "seconds and bytes per LM token, on 128 (forward) and 32 (backward) texts of the partition",
    "seconds and bytes of graph encoder, head and loss, on a random batch of the expected size",
    "seconds of one AdamW step over what a stage trains; memory of the process before the model",
)
COMPUTED = (
    "steps and targets (exact), LM tokens (mean text length), distinct nodes of a batch (expected)",
    "Adam (8 bytes a trained parameter), gradients and the copy that DeepSpeed averages (8), weights "
    "(4, and 4 while saving), forward-only activations (bound); on a CPU 1.8 times all that, since "
    "trainers keep what they free",
)
LEFT_OUT = (
    "sampling, RPC and all-reduce, graph layers of evaluations",
    "the slowdown by other trainers on the same cores",
)
_LIBRARIES = 130 * 2**20
"""Bytes that dgl 1.1.3, deepspeed 0.19.8, their process groups and tensorboard add to a process with
torch and transformers (a trainer of the default job before its model: 410 MiB)."""
_KEPT = 1.8
"""Heap that trainers hold on a CPU over what they need at a time: glibc is told to keep freed memory
(launch/plan.py), and blocks of ever other sizes do not fit into its holes. Peaks of the default job,
two trainers of one thread: 1447 and 1554 MiB in mlm, 1692 and 1681 in graph_lm, 1837 and 1844 at the
end; with 1.8 the estimate says 1498, 1789 and 1789. A run of 30 steps with all six layers of the LM
reached 1956 where it says 2441: holes take time to come about."""


@dataclass(frozen=True)
class StageCost:
    """One row of the table. Numbers are of the whole stage over all trainers unless named otherwise."""

    name: str
    kind: str
    targets: int = 0
    """Target edges, or texts of an mlm stage, of one epoch."""
    steps: int = 0
    nodes_per_batch: int = 0
    """Expected distinct nodes in the batch of one part."""
    texts_per_batch: int = 0
    lm_tokens_backward: int = 0
    """Tokens that run forward and backward."""
    lm_tokens_forward: int = 0
    """Tokens that run forward only, evaluations included."""
    seconds: float = 0.0
    memory_bytes: int = 0
    """Peak of one trainer."""


def estimate(plan: TrainPlan, manifest: PartitionManifest, folder: str | Path) -> dict[str, Any]:
    """The estimate as plain values: "stages" (StageCost each), "total", and what it rests on."""
    before = torch.get_num_threads()
    threads = plan.engine.threads or max(1, len(os.sched_getaffinity(0)) // manifest.trainers)
    torch.set_num_threads(threads)
    try:
        return _Estimate(plan, manifest, Path(folder), threads).answer()
    finally:
        torch.set_num_threads(before)


class _Estimate:
    """The model and the costs that the stages share."""

    def __init__(self, plan: TrainPlan, manifest: PartitionManifest, folder: Path, threads: int) -> None:
        self.plan, self.manifest, self.folder, self.threads = plan, manifest, folder, threads
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.base_bytes = 0 if self.device.type == "cuda" else resident + _LIBRARIES
        self.kept = 1.0 if self.device.type == "cuda" else _KEPT
        self.model = LMGNN(plan, manifest).to(self.device)
        texts = [t for t in manifest.node_types if t.text]
        self.tokens = sum(t.tokens for t in texts)
        self.mean_length = self.tokens / max(sum(t.count for t in texts), 1)
        self.lm = self._measure_lm()

    def answer(self) -> dict[str, Any]:
        stages = self._kept_from_stage_to_stage([self._stage(stage) for stage in self.plan.stages])
        stages.append(self._around())
        return {
            "plan": self.plan.name,
            "partition": self.manifest.id,
            "hosts": self.manifest.hosts,
            "trainers": self.manifest.parts,
            "device": str(self.device),
            "threads": self.threads,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "stages": [asdict(stage) for stage in stages],
            "total": {
                "seconds": sum(s.seconds for s in stages),
                "lm_tokens_forward": sum(s.lm_tokens_forward for s in stages),
                "lm_tokens_backward": sum(s.lm_tokens_backward for s in stages),
                "memory_bytes": max(s.memory_bytes for s in stages),
                "host_bytes": self._host_bytes(),
            },
            "lm_per_token": asdict(self.lm),
            "measured": MEASURED,
            "computed": COMPUTED,
            "left_out": LEFT_OUT,
        }

    def _measure_lm(self) -> LMCosts:
        texts = sample_texts(self.manifest, self.folder, 128)
        encoder = next(self.model.text.distinct(), None)
        if encoder is None or not texts.values.numel():
            return LMCosts()
        masked = self.model.masked[0] if len(self.model.masked) else None
        share = next((s.mask for s in self.plan.stages if s.kind == "mlm"), 0.15)
        return measure_lm(encoder, masked, texts, share=share, engine=self.plan.engine)

    def _stage(self, stage: StagePlan) -> StageCost:
        trained = [p for group in self.model.trained_parameters(stage).values() for p in group]
        cost = self._masked_stage(stage) if stage.kind == "mlm" else self._task_stage(stage)
        return replace(
            cost,
            seconds=cost.seconds + cost.steps * measure_step(trained),
            memory_bytes=self._process_bytes(
                cost.memory_bytes + self._fixed_bytes(stage, sum(p.numel() for p in trained))
            ),
        )

    def _process_bytes(self, needed: float) -> int:
        """Of a process whose model and work need so many bytes at a time."""
        return round(self.base_bytes + self.kept * needed)

    def _kept_from_stage_to_stage(self, stages: Sequence[StageCost]) -> list[StageCost]:
        """On a CPU a stage has at least the memory of those before it."""
        peaks = accumulate((stage.memory_bytes for stage in stages), max)
        if self.device.type == "cuda":
            return list(stages)
        return [replace(stage, memory_bytes=peak) for stage, peak in zip(stages, peaks, strict=True)]

    def _schedule(self, stage: StagePlan, sizes: Sequence[int]) -> Schedule:
        return Schedule(tuple(sizes), stage.batch_size, stage.epochs, self.plan.engine.accumulate, 0)

    def _masked_stage(self, stage: StagePlan) -> StageCost:
        manifest = self.manifest
        sizes = [len(read_texts(manifest, part=p, split="train")) for p in range(manifest.parts)]
        held_out = [len(read_texts(manifest, part=p, split="valid")) for p in range(manifest.parts)]
        schedule = self._schedule(stage, sizes)
        rows = sum(sizes) / manifest.parts / schedule.batches_per_epoch
        batches = schedule.steps * self.plan.engine.accumulate
        backward = batches * rows * self.mean_length
        evaluated = stage.evals * min(max(held_out), stage.eval_targets or max(held_out)) * self.mean_length
        return StageCost(
            name=stage.name,
            kind=stage.kind,
            targets=sum(sizes),
            steps=schedule.steps,
            nodes_per_batch=math.ceil(rows),
            texts_per_batch=math.ceil(rows),
            lm_tokens_backward=round(backward * manifest.parts),
            lm_tokens_forward=round(evaluated * manifest.parts),
            seconds=backward * self.lm.masked.seconds + evaluated * self.lm.forward.seconds,
            memory_bytes=round(rows * self.mean_length * self.lm.masked.saved_bytes),
        )

    def _task_stage(self, stage: StagePlan) -> StageCost:
        plan, manifest = self.plan, self.manifest
        task = stage_task(stage, plan, manifest)
        of = self._training_targets(task)
        sizes = [sum(counts[part] for counts in of.values()) for part in range(manifest.parts)]
        schedule = self._schedule(stage, sizes)
        batches = schedule.steps * plan.engine.accumulate
        share = 1 / manifest.parts / schedule.batches_per_epoch
        with_graph = stage.kind not in TEXT_ONLY
        hops = plan.model.gnn_layers if with_graph and self.model.encoder(stage.task).gnn.uses_edges else 0
        expected = {name: sum(counts) * share for name, counts in of.items() if sum(counts)}
        shape = batch_shape(plan, manifest, task, expected, hops=hops)
        graph = measure_graph(self.model, manifest, stage, shape, plan.engine) if with_graph else Cost()
        texts = sum(shape.nodes[-1][t] for t in text_types(manifest))
        trained = {"gnn_warm": 0, "joint": min(texts, stage.train_nodes)}.get(stage.kind, texts)
        other = texts - trained if stage.kind == "joint" else 0
        passes = self._passes(stage)
        backward = batches * trained * self.mean_length
        forward = batches * other * self.mean_length + passes * self.tokens / manifest.parts
        return StageCost(
            name=stage.name,
            kind=stage.kind,
            targets=sum(sizes),
            steps=schedule.steps,
            nodes_per_batch=sum(shape.nodes[-1].values()),
            texts_per_batch=texts,
            lm_tokens_backward=round(backward * manifest.parts),
            lm_tokens_forward=round(forward * manifest.parts),
            seconds=backward * self.lm.train.seconds
            + forward * self.lm.forward.seconds
            + batches * graph.seconds,
            memory_bytes=round(graph.saved_bytes + trained * self.mean_length * self.lm.train.saved_bytes),
        )

    def _training_targets(self, task: TaskPlan) -> dict[str, list[int]]:
        """Relation or node type -> training targets of every part."""
        manifest, folder = self.manifest, self.folder
        if task.kind == "node_classification":
            name = task.node_type
            read = partial(read_labelled_nodes, folder, manifest, node_type=name, split="train")
            return {name: [len(read(part=part)) for part in range(manifest.parts)]}
        found = {}
        for name in task.relations:
            info = manifest.relation(name)
            if info.targets:
                of = partial(read_links, folder, manifest, relations=[name], split="train")
                found[name] = [len(of(part=part)) for part in range(manifest.parts)]
            else:  # all stored edges but one in 20; which part has how many is not looked up
                found[name] = [math.ceil(0.95 * info.count / manifest.parts)] * manifest.parts
        return found

    def _passes(self, stage: StagePlan) -> int:
        """How often a stage encodes every text: once after each change of the LM that is looked at."""
        earlier = self.plan.stages[: self.plan.stages.index(stage)]
        changed = [s for s in earlier if s.kind != "gnn_warm"][-1:]
        since = earlier[earlier.index(changed[0]) :] if changed else earlier
        known = any(s.kind == "gnn_warm" or (s.kind != "mlm" and s.evals) for s in since)
        if stage.kind == "gnn_warm":
            return int(not known)
        return stage.evals + int(not known and stage.evals > 0)

    def _around(self) -> StageCost:
        """Every text encoded for each task's test."""
        tokens = self.tokens * len(self.plan.tasks)
        seconds = tokens / self.manifest.parts * self.lm.forward.seconds
        memory = self._process_bytes(8 * sum(p.numel() for p in self.model.parameters()))
        return StageCost(
            name="test", kind="evaluate", lm_tokens_forward=tokens, seconds=seconds,
            memory_bytes=memory,
        )  # fmt: skip

    def _fixed_bytes(self, stage: StagePlan, trained: int) -> int:
        """Weights, gradients, Adam, and one forward-only sub-batch of the LM."""
        adam = 8 * trained / (self.manifest.parts if self.plan.engine.zero else 1)
        weights = 8 * sum(p.numel() for p in self.model.parameters())
        encoder = next(self.model.text.distinct(), None)
        wide = 0
        if encoder is not None:
            config = encoder.base.config
            widest = 4 * config.hidden_size + 2 * getattr(config, "intermediate_size", 4 * config.hidden_size)
            wide = 4 * stage.forward_rows * self.plan.model.max_length * widest
        return round(weights + 8 * trained + adam + wide)

    def _host_bytes(self) -> int:
        """Of the largest host: its part's files, and the tables of text and hidden embeddings."""
        files = [0] * self.manifest.hosts
        for name, info in self.manifest.files.items():
            host = name.partition("/")[0].removeprefix("part")
            if host.isdecimal() and "/" in name:
                files[int(host)] += info.size
        width = max((e.width for e in self.model.text.distinct()), default=0)
        texts = sum(t.count for t in self.manifest.node_types if t.text)
        everyone = sum(t.count for t in self.manifest.node_types)
        hidden = 4 * self.plan.model.hidden * (1 + self.plan.model.gnn_layers) * everyone
        return round(max(files) + (2 * width * texts + hidden) / self.manifest.hosts)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m pipeline estimate`: a table, or one line of JSON."""
    parser = argparse.ArgumentParser(
        prog="lmgnn estimate",
        description="Say what a plan costs on a partition before it runs.",
        epilog="example: lmgnn estimate --plan runs/latest/plan.json --partition store/0a1b2c",
    )
    parser.add_argument("--plan", required=True, type=Path, help="plan.json that a run or `lmgnn plan` wrote")
    parser.add_argument("--partition", required=True, type=Path, help="folder of a finished partition")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    try:
        plan = TrainPlan.from_json(options.plan.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UsageError(f"--plan {options.plan}: {error}", hint="expected a plan.json") from None
    answer = estimate(plan, PartitionManifest.load(options.partition), options.partition)
    if options.json:
        sys.stdout.write(json.dumps(answer) + "\n")
    else:
        show(answer, Console(width=None if sys.stdout.isatty() else 120))
    return 0
