"""`lmgnn bench batches`: what the batches of one stage cost, means over consecutive steps of all parts.

Owns the command, the choice of stage, steps and partition, and the means; replay.py draws the batches. Never
runs a model.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from partition.build import BuildOptions, find_or_build
from partition.errors import UsageError
from partition.manifest import PartitionManifest
from partition.paths import is_url, store_folder
from pipeline.config import StagePlan, TrainPlan, load_plan
from pipeline.plain import nearest
from pipeline.plan_check import check_against
from pipeline.start.check import graph_folder, home
from pipeline.start.sizes import TRAINERS

if TYPE_CHECKING:  # its import brings DeepSpeed, see stage_batches
    from pipeline.cost.replay import BatchCost

_MOST_STEPS = 200
"""Drawn unless asked otherwise: a part of an epoch on a large graph."""


@dataclass(frozen=True)
class BatchMeans:
    """Of one part's batch, unless "per target" is said. Tokens as lm_work.py counts them."""

    batches: int
    """That the means are over."""
    targets: float
    nodes: float
    """Distinct ones."""
    texts: float
    """Nodes with text; those that the cache has not run through the LM, identical ones once."""
    lm_rows_trained: float
    """Texts, identical ones once, that gradients reach."""
    lm_rows_forward: float
    lm_rows_found: float
    """Text nodes whose embedding the cache had; identical ones count each."""
    lm_tokens_per_target: float
    padding_share: float
    """Padding in the tokens that run; 0 where none does."""
    remote_bytes_per_target: float
    """Edges, tokens and embeddings from other hosts; features and learnable rows are left out."""
    seconds: float
    """Of targets, negatives, neighbours and tokens, by one process from its own memory."""


@dataclass(frozen=True)
class StageBatches:
    """The command's answer."""

    plan: str
    stage: str
    partition: str
    hosts: int
    parts: int
    steps: int
    """Consecutive ones from the stage's first on."""
    steps_per_epoch: int
    means: BatchMeans


def means_of(costs: Iterable[BatchCost]) -> BatchMeans:
    """Means over batches, one or more; ratios are of their sums."""
    count = targets = nodes = texts = trained = forward = found = tokens = run = padding = remote = 0
    seconds = 0.0
    for cost in costs:  # one at a time: batches are large
        work, count = cost.work, count + 1
        targets, nodes = targets + cost.targets, nodes + sum(len(ids) for ids in cost.batch.nodes.values())
        texts += sum(len(lists) for lists in cost.batch.tokens.values())
        trained, forward = trained + work.rows_trained, forward + work.rows_forward
        tokens, run = tokens + work.tokens, run + work.tokens_run
        padding += work.padding_trained + work.padding_forward
        found, remote, seconds = found + cost.found, remote + cost.remote_bytes, seconds + cost.seconds
    assert count, "every part has a batch in every step"
    return BatchMeans(
        batches=count,
        targets=targets / count,
        nodes=nodes / count,
        texts=texts / count,
        lm_rows_trained=trained / count,
        lm_rows_forward=forward / count,
        lm_rows_found=found / count,
        lm_tokens_per_target=tokens / max(targets, 1),
        padding_share=padding / max(run, 1),
        remote_bytes_per_target=remote / max(targets, 1),
        seconds=seconds / count,
    )


def stage_batches(
    plan: TrainPlan, stage: StagePlan, manifest: PartitionManifest, folder: Path, *, steps: int | None = None
) -> StageBatches:
    """The first `steps` steps of a stage; unset: an epoch, or as many as the stage and _MOST_STEPS leave.

    The cache starts as the stage finds it: full after an evaluation at the start, else empty. Evaluations
    within the stage, which fill it again, are left out.
    """
    if torch.cuda.device_count() == 0:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed's import warns on stdout
    # Imported late, for that reason.
    from pipeline.cost.trial import Trials
    from pipeline.model import LMGNN

    check_against(plan, manifest)
    replay = Trials(plan, manifest, folder, LMGNN(plan, manifest)).replay(stage)
    schedule = replay.schedule
    epoch = -(-schedule.batches_per_epoch // schedule.accumulate)
    if steps is not None and not 1 <= steps <= schedule.steps:
        raise UsageError(
            f"--batches {steps}: expected 1 to {schedule.steps}, the steps of stage {stage.name!r}",
            hint=f"longer stages have more: --set stages.{stage.name}.epochs=N",
        )
    chosen = steps or min(epoch, schedule.steps, _MOST_STEPS)
    means = means_of(cost for step in replay.steps(range(chosen)) for cost in step)
    return StageBatches(
        plan.name, stage.name, manifest.id, manifest.hosts, manifest.parts, chosen, epoch, means
    )


def chosen_stage(plan: TrainPlan, name: str) -> StagePlan:
    """The stage of that name; of "" the first joint one, else the first that samples neighbours."""
    stages = {stage.name: stage for stage in plan.stages}
    if name and name not in stages:
        raise UsageError(f"--stage {name}: no such stage{nearest(name, stages)}")
    if name:
        return stages[name]
    for kind in ("joint", "gnn_warm"):
        for stage in plan.stages:
            if stage.kind == kind:
                return stage
    raise UsageError(f"{plan.name}: no stage with a graph", hint=f"name one: --stage {plan.stages[0].name}")


def built_partition(plan: TrainPlan, plan_folder: Path) -> Path:
    """The partition of a run on one host with two trainers: found in the plan's store, or built."""
    cut = plan.partition
    options = BuildOptions(
        trainers=cut.parts_per_host or TRAINERS,
        cluster_size=cut.cluster_size,
        method=cut.method,
        seed=cut.seed,
        keep_eval_edges=cut.keep_eval_edges,
        reverse=cut.reverse,
        relations=plan.graph.relations,
        tokenizer=plan.model.lm,
        max_length=plan.model.max_length,
        bad_rows=cut.bad_rows,
        bad_rows_cap=cut.bad_rows_cap,
    )
    store = cut.store
    if not is_url(store):
        store = str(home() / store_folder(store, key="partition.store"))
    folder = graph_folder(plan, plan_folder)
    cache = str(home() / "store")  # as a run has it
    return find_or_build(
        folder, options, store=store, cache=cache, say=lambda line: print(line, file=sys.stderr)
    ).path


def _loaded(folder: Path, plan: TrainPlan) -> PartitionManifest:
    """A partition that was asked for by name; UsageError if its texts are not the plan's."""
    manifest = PartitionManifest.load(folder)
    stored = manifest.options["max_length"]
    if stored != plan.model.max_length:
        raise UsageError(
            f"--partition {folder}: its texts are cut at {stored} tokens, model.max_length is "
            f"{plan.model.max_length}",
            hint="`lmgnn plan --config PLAN` builds and names the partition of a plan",
        )
    return manifest


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lmgnn bench",
        description="Say what the batches of a stage cost, drawn as a run draws them, without running it.",
        epilog="example: lmgnn bench batches --config my.toml --set model.sampler=labor",
    )
    commands = parser.add_subparsers(metavar="WHAT", required=True)
    batches = commands.add_parser("batches", help="texts, LM tokens, bytes and seconds of a batch")
    add = batches.add_argument
    add("--config", required=True, type=Path, metavar="PLAN", help="the plan, a TOML file")
    add("--partition", type=Path, metavar="FOLDER",
        help="a finished partition, one part per trainer; unset: found or built for one host with "
        f"{TRAINERS} trainers. `lmgnn plan --nodes N` builds and names others")  # fmt: skip
    add("--stage", default="", metavar="NAME", help="unset: the first joint stage, or with a graph")
    add("--batches", type=int, metavar="N",
        help=f"steps to draw, of all parts; unset: an epoch, {_MOST_STEPS} at most")  # fmt: skip
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="change a key of the plan (may be repeated)")  # fmt: skip
    add("--json", action="store_true", help="print one JSON object")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m pipeline bench batches`: a line per figure, or one line of JSON."""
    options = _parser().parse_args(argv)
    plan = load_plan(options.config, options.overrides)
    plan_folder = options.config.resolve().parent
    if (there := plan_folder / plan.model.lm).is_dir():
        plan = replace(plan, model=replace(plan.model, lm=str(there)))
    stage = chosen_stage(plan, options.stage)
    folder = options.partition or built_partition(plan, plan_folder)
    answer = stage_batches(plan, stage, _loaded(folder, plan), folder, steps=options.batches)
    if options.json:
        sys.stdout.write(json.dumps(asdict(answer)) + "\n")
        return 0
    sys.stdout.write(
        f"{answer.plan}, stage {answer.stage}: {answer.steps} of {answer.steps_per_epoch} steps of an epoch, "
        f"{answer.parts} part(s) on {answer.hosts} host(s)\n"
    )
    for name, value in asdict(answer.means).items():
        sys.stdout.write(f"{name:<24} {value:>14,.{3 if value < 10 else 1}f}\n")
    return 0
