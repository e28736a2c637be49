"""The course of a trainer: stages in order, then test, export and the material of the report.

Owns resume (which stages are over, which is under way) and what is written at the end. Every
decision is taken by all trainers alike.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from partition.errors import UsageError
from pipeline.checkpoint import Checkpoint
from pipeline.config import StagePlan
from pipeline.durable import write_whole
from pipeline.events import read_events
from pipeline.loop import run_stage
from pipeline.model import text_types
from pipeline.naming import module_key
from pipeline.showcase import Showcase, own_ids
from pipeline.stages import STAGES, LinkStage
from pipeline.trainer import Trainer


def run_job(trainer: Trainer, *, resume: bool) -> None:
    """Run all stages of the plan from where the run folder stands, then everything after them."""
    resumed = _newest(trainer) if resume else None
    showcases = {name: Showcase(trainer, name) for name in list(trainer.plan.tasks)[:1]}
    if resumed is None:
        for showcase in showcases.values():
            showcase.before()
    torch.distributed.barrier()
    results: dict[str, dict[str, Any]] = {}
    in_memory = ""
    for position, stage in enumerate(trainer.plan.stages):
        under_way = _continue_at(trainer, resumed, position)
        if under_way == "over":
            continue
        if under_way is None:
            _load_start(trainer, position, in_memory)
        run_stage(trainer, stage, under_way if isinstance(under_way, Checkpoint) else None)
        in_memory = stage.name
        _after_stage(trainer, stage, showcases)
    for name in trainer.plan.tasks:
        results[name] = _test(trainer, name, showcases, in_memory)
        # From the first attempt on: a resumed job has cost that time as well.
        results[name]["seconds"] = time.time() - read_events(trainer.run, trainer.rank)[0]["time"]
        in_memory = ""
    if trainer.rank == 0:
        write_whole(trainer.run / "metrics.json", json.dumps({"tasks": results}, indent=1), sync=True)
    trainer.record.event("run_end")


def _newest(trainer: Trainer) -> Checkpoint | None:
    """The checkpoint to go on from; UsageError where it belongs to another plan or partition."""
    newest = trainer.checkpoints.latest()
    if newest is None:
        return None
    expected = trainer.state({})
    for name in ("plan", "partition"):
        if newest.state[name] != expected[name]:
            raise UsageError(
                f"{newest.path} belongs to {name} {newest.state[name]}, this run to {expected[name]}",
                hint="start a new run, or take up this one with the plan it began with",
            )
    if trainer.plan.engine.zero and newest.state["world"] != trainer.world:
        raise UsageError(
            f"{newest.path} was written by {newest.state['world']} trainers, now there are {trainer.world}",
            hint="with engine.zero = 1 or 2 resume with as many as before",
        )
    return newest


def _continue_at(trainer: Trainer, resumed: Checkpoint | None, position: int) -> Checkpoint | str | None:
    """For a stage: "over", the checkpoint to continue from, or None for a fresh start."""
    if resumed is None:
        return None
    names = [s.name for s in trainer.plan.stages]
    reached = names.index(resumed.state["progress"]["stage"])
    if position < reached or (position == reached and resumed.state["progress"]["finished"]):
        return "over"
    return resumed if position == reached else None


def _load_start(trainer: Trainer, position: int, in_memory: str) -> None:
    """Load the model that a stage starts from, unless it is the pretrained one or loaded already."""
    stage = trainer.plan.stages[position]
    start = stage.start or (trainer.plan.stages[position - 1].name if position else "")
    if not start or start == in_memory:
        return
    if ":" in start:
        run, _, name = start.rpartition(":")
        trainer.load_from_other_run(Path(run) / "stages" / name)
    else:
        _load_stage(trainer, start)
    trainer.lm_version = (f"start of {stage.name}", 0)


def _load_stage(trainer: Trainer, name: str) -> dict[str, Any]:
    best = trainer.stage_store(name).latest()
    if best is None:
        raise UsageError(f"{trainer.run}/stages/{name} holds no whole model", hint="start a new run")
    trainer.load(best, None)
    return best.state["progress"]


def _after_stage(trainer: Trainer, stage: StagePlan, showcases: dict[str, Showcase]) -> None:
    if stage.kind == "graph_lm":
        rule = STAGES[stage.kind](trainer, stage)
        for showcase in showcases.values():
            showcase.rows("graph_lm", rule.tables())


def _test(trainer: Trainer, task: str, showcases: dict[str, Showcase], in_memory: str) -> dict[str, Any]:
    """Look at a task's test split once, with the best model of its last stage; export that model."""
    mine = [s for s in trainer.plan.stages if s.task == task]
    if mine[-1].name != in_memory:
        _load_stage(trainer, mine[-1].name)
        trainer.lm_version = (f"best of {mine[-1].name}", 0)
    rule: LinkStage = STAGES[mine[-1].kind](trainer, mine[-1])
    tables = rule.tables()
    metrics = rule.rank(tables, "test", 0)
    for name, value in metrics.items():
        trainer.record.event("test", task=task, metric=name, value=value)
    if task in showcases:
        showcases[task].rows("lm_gnn", tables)
        showcases[task].after(tables, rule.head())
    _export(trainer, task, tables)
    stages = {}
    for stage in trainer.plan.stages:
        best = trainer.stage_store(stage.name).latest()
        if best is not None:
            stages[stage.name] = {
                "valid": best.state["progress"]["best"],
                "metric": STAGES[stage.kind].metric,
            }
    return {
        "metric": rule.metric,
        "test": metrics[rule.metric],
        "valid": stages[mine[-1].name]["valid"],
        "test_metrics": metrics,
        "baselines": {},
        "stages": stages,
    }


def _export(trainer: Trainer, task: str, tables: Any) -> None:
    """Embeddings with the user's ids, a Parquet file per part, and the LM as transformers reads it."""
    folder = trainer.run / "export" / module_key(task).removeprefix("of ")
    for node_type, table in tables.items():
        target = folder / "embeddings" / node_type
        target.mkdir(parents=True, exist_ok=True)
        for part in trainer.parts:
            trainer.record.heartbeat("export")
            ids = torch.arange(*trainer.graph.manifest.part_range(node_type, part))
            rows = table.read(ids).float()
            values = pa.FixedSizeListArray.from_arrays(pa.array(rows.flatten().numpy()), rows.shape[1])
            names = pa.array(own_ids(trainer.graph, node_type, ids), pa.string())
            pq.write_table(pa.table({"id": names, "embedding": values}), target / f"part-{part}.parquet")
    if trainer.rank == 0:
        for node_type in text_types(trainer.graph.manifest):
            name = "shared" if trainer.plan.model.lm_shared else node_type
            final, temporary = folder / "lm" / name, folder / "lm" / f".{name}"
            if not final.exists():
                shutil.rmtree(temporary, ignore_errors=True)
                trainer.model.text.of(node_type).save(temporary)
                temporary.rename(final)
    torch.distributed.barrier()
