"""Process entry of a trainer that makes several runs of one stage each and writes their curves: the
validation figure against what training had cost by then.

Stands where `pipeline.worker` does in a job of one trainer (curve_run.py starts it); one process for all
runs, since on slow cores its start costs as much as a short run. It never looks at a test split and exports
nothing. Costs count the steps alone: evaluations are left out, and what they encode is taken out of the cache
again, since a setting with a cache would else be given its refreshing by whoever asks for the curve. The
evaluation before the first step is the exception: it leaves in the cache what the stage before has encoded
anyway.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch
from torch import Tensor

from partition.errors import UsageError
from pipeline.carry import take_over
from pipeline.config import TrainPlan
from pipeline.dgl_processes import start_client
from pipeline.durable import write_whole
from pipeline.engine import start_collectives
from pipeline.events import RunRecord
from pipeline.graph import Graph
from pipeline.lm_work import LMWork
from pipeline.loop import run_stage
from pipeline.model import LMGNN
from pipeline.stages import TaskStage
from pipeline.trainer import Trainer

RUNS = "runs.json"
"""In the job's folder: [{"name": folder of a run, "start": run whose model it starts from, or empty}]; a
run is named like its stage where others start from it."""
CURVE = "curve.json"


class Measured:
    """Records every evaluation of a trainer's stage with what the steps before it cost."""

    def __init__(self, trainer: Trainer) -> None:
        self.points: list[dict[str, float]] = []
        self._trainer, self._evaluate = trainer, TaskStage.evaluate
        self._wall, self._cpu, self._work = time.monotonic(), time.process_time(), LMWork()
        self._started = False

    def evaluate(self, rule: TaskStage, split: str, limit: int) -> dict[str, float]:
        """In place of `TaskStage.evaluate`."""
        trainer = self._trainer
        wall, cpu, work = time.monotonic(), time.process_time(), self._total()
        costs = self._costs(wall, cpu, work) if self._started else dict.fromkeys(_COSTS, 0.0)
        before = self._records() if self._started and trainer.cache else {}
        metrics = self._evaluate(rule, split, limit)
        for name, rows in before.items():
            trainer.texts[name].records.write(0, rows)
        if before:
            trainer.inference.forget_texts()
        self.points.append({**costs, "value": metrics[rule.metric]})
        if self._started:
            self._wall += time.monotonic() - wall
            self._cpu += time.process_time() - cpu
            self._work += self._total() - work
        else:  # all before the first step is the same for every setting
            self._wall, self._cpu, self._work = time.monotonic(), time.process_time(), self._total()
            self._started = True
        return metrics

    def _costs(self, wall: float, cpu: float, work: LMWork) -> dict[str, float]:
        spent = (work - self._work).tokens, wall - self._wall, cpu - self._cpu
        return dict(zip(_COSTS, map(float, spent), strict=True))

    def _records(self) -> dict[str, Tensor]:
        counts = self._trainer.graph.ids.count
        return {name: t.records.read(torch.arange(counts[name])) for name, t in self._trainer.texts.items()}

    def _total(self) -> LMWork:
        return sum((encoder.work for encoder in self._trainer.model.text.distinct()), LMWork())


_COSTS = ("lm_tokens", "wall_s", "cpu_s")


def main() -> None:
    env = os.environ
    group, heartbeat = Path(env["LMGNN_RUN"]), Path(env["LMGNN_HEARTBEAT"])
    device = torch.device("cpu")
    torch.set_num_threads(int(env["OMP_NUM_THREADS"]))
    with contextlib.redirect_stdout(None):  # DGL talks a lot
        start_client(Path(env["LMGNN_PARTITION"]), 0, env["LMGNN_GRAPH_NAME"])
    start_collectives(device)
    graph = Graph(env["LMGNN_GRAPH_NAME"])
    for run in json.loads((group / RUNS).read_text()):
        folder, start = group / run["name"], run["start"]
        with RunRecord(folder, run=run["name"], attempt=1, rank=0, heartbeat=heartbeat, world=1) as record:
            record.heartbeat("load")
            _train(folder, graph, record, device, start=group / start / "stages" / start if start else None)
    torch.distributed.barrier()
    graph.close()
    torch.distributed.destroy_process_group()


def _train(
    folder: Path, graph: Graph, record: RunRecord, device: torch.device, *, start: Path | None
) -> None:
    """Run the one stage of a folder's plan and write its curve."""
    plan = TrainPlan.from_json((folder / "plan.json").read_text())
    torch.manual_seed(plan.seed)
    model = LMGNN(plan, graph.manifest).to(device)
    trainer = Trainer(plan, folder, graph, model, device, 0, 1, [0], record, stop=lambda: False)
    if trainer.embeddings:
        raise UsageError(
            "learnable rows would pass from one run to the next", hint="name the types in model.bare"
        )
    if start:
        take_over(trainer, start)
    measured, original = Measured(trainer), TaskStage.evaluate
    TaskStage.evaluate = lambda rule, split, limit: measured.evaluate(rule, split, limit)  # type: ignore[method-assign]
    try:
        run_stage(trainer, plan.stages[0], None)
    finally:
        TaskStage.evaluate = original  # type: ignore[method-assign]
    write_whole(folder / CURVE, json.dumps(measured.points, indent=1), sync=True)
    record.event("run_end")


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # as pipeline.worker: DGL's exit hook would wait for peers that are gone
