"""The course of a trainer: stages in order, then test, export and the material of the report.

Owns resume (which stages are over, which is under way) and what is written at the end. Every
decision is taken by all trainers alike.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from partition.errors import UsageError
from pipeline.carry import take_over
from pipeline.checkpoint import Checkpoint
from pipeline.config import StagePlan
from pipeline.durable import write_whole
from pipeline.events import read_events
from pipeline.export import export
from pipeline.fullrank import full_ranking
from pipeline.loop import run_stage
from pipeline.sharded import RowSource
from pipeline.showcase import Showcase
from pipeline.stages import STAGES, TaskStage
from pipeline.stored_texts import keep_stored_texts
from pipeline.tasks import LinkHead
from pipeline.trainer import Trainer


def run_job(trainer: Trainer, *, resume: bool) -> None:
    """Run all stages of the plan from where the run folder stands, then everything after them."""
    resumed = _newest(trainer) if resume else None
    links = [name for name, task in trainer.plan.tasks.items() if task.kind == "link_prediction"]
    showcases = {name: Showcase(trainer, name) for name in links[:1]}
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
                hint='start a new run, whose stages may begin with this one\'s models (start = "RUN:STAGE"), '
                "or take up this one with the plan it began with",
            )
    # Checkpoints from before there were numberings say nothing of it.
    if newest.state.get("numbering", expected["numbering"]) != expected["numbering"]:
        raise UsageError(
            f"{newest.path} belongs to partition {expected['partition']} as it was: it has been built again "
            "since, and its nodes have other ids now",
            hint="bring that one back, or start a new run whose stages begin with this one's models "
            '(start = "RUN:STAGE"): they find their nodes by the ids of the tables',
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
        take_over(trainer, Path(run) / "stages" / name)
    else:
        _load_stage(trainer, start)


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
    rule: TaskStage = STAGES[mine[-1].kind](trainer, mine[-1])
    tables = rule.tables()
    keep_stored_texts(trainer)
    metrics = rule.judge(tables, "test", 0) | _full_ranking(trainer, task, rule, tables)
    for name, value in metrics.items():
        trainer.record.event("test", task=task, metric=name, value=value)
    if task in showcases:
        showcases[task].rows("lm_gnn", tables)
        showcases[task].after(tables, rule.head())
    export(trainer, task, rule, tables)
    stages = {}
    for stage in trainer.plan.stages:
        best = trainer.stage_store(stage.name).latest()
        if best is not None:
            progress = best.state["progress"]
            stages[stage.name] = {"valid": progress["best"], "metric": progress["metric"]}
    return {
        "metric": rule.metric,
        "test": metrics[rule.metric],
        "valid": stages[mine[-1].name]["valid"],
        "test_metrics": metrics,
        "baselines": {},
        "stages": stages,
    }


def _full_ranking(
    trainer: Trainer, task: str, rule: TaskStage, tables: Mapping[str, RowSource]
) -> dict[str, float]:
    """Figures of the test edges against all nodes, where the plan asks for them."""
    if not trainer.plan.tasks[task].full_ranking:
        return {}
    return full_ranking(
        trainer.graph,
        cast(LinkHead, rule.head()),
        tables,
        trainer.plan.tasks[task].relations,
        parts=trainer.parts,
        device=trainer.device,
        gather=trainer.gather,
        alive=lambda: trainer.record.heartbeat("evaluate"),
    )
