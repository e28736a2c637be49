"""What the batches of a joint link task cost the language model, setting by setting, on one graph.

`python benchmarks/lm_cost.py --graph FOLDER --steps 60` cuts the graph for 4 hosts x 1 trainer, draws
the first steps of an epoch (all of it without --steps) with 256 targets a batch and two layers, and writes
benchmarks/results/lm_cost_NAME.json; the last line of stdout is {"rows": [...]}. Nothing is trained
(pipeline/cost/replay.py): the cache's age bound does not move. Rows that are in the file already, of as many
steps, are kept. Per target, means over all parts and steps:

* `lm_rows_per_target`: texts that run, `lm_tokens_per_target`: LM tokens as pipeline/lm_work.py counts
  them, `remote_bytes_per_target`: edges, tokens and embeddings from other hosts, `hit_share`: text nodes
  whose embedding the cache had; `seconds`: to draw one batch, in this process.
* Every setting trains `train_nodes` = 32 texts a batch, the plan's default, so those tokens are in all rows.
* Every cache starts empty: what is not encoded in the steps is not there.
* "Uniform" targets: all training targets in one random order, dealt out to the four trainers.
* "Plain" settings (naive, joint, paper, part) count the same batches in another way: every text node that the
  cache does not have runs, equal ones too, padded to the longest of the batch. Others: what our code runs.

`--predict` names the task's relations (unset: all that have a split), `--relations` those to load.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("DGLBACKEND", "pytorch")  # else dgl's first import writes into the home folder
os.environ.setdefault("DS_ACCELERATOR", "cpu")

from uniform import dealt_out

from partition.build import GRAPH_FILE, BuildOptions, Say, build
from partition.manifest import PartitionManifest
from partition.storage import InputFolder
from pipeline.batch import Batch
from pipeline.config import DEFAULT_LM, TrainPlan
from pipeline.cost.batches import means_of
from pipeline.cost.replay import BatchCost
from pipeline.cost.trial import Trials
from pipeline.lm_work import LMWork
from pipeline.model import LMGNN
from pipeline.stages import StageRule
from pipeline.start.init import read_schema
from pipeline.targets import Links

HERE = Path(__file__).resolve().parent
HOSTS = 4
MAX_LENGTH = 64
TARGETS = 256
FANOUTS = (10, 20)


@dataclass(frozen=True)
class Setting:
    """Sections of a plan, and how its batches are taken and counted."""

    name: str
    task: Mapping[str, Any] = field(default_factory=dict)
    stage: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    cache: Mapping[str, Any] = field(default_factory=lambda: {"mode": "exact"})
    uniform: bool = False
    """Targets of a batch from all parts alike, in place of the trainer's own part."""
    plain: bool = False
    """Counted without our grouping of texts."""


ANYWHERE = {"negative_mix": {"anywhere": 1.0}}
HALF = {"negative_mix": {"anywhere": 0.5, "part": 0.5}}
CLUSTERS = {"clusters": 16, "elsewhere": 0.1}
LABOR = {"sampler": "labor"}


def bounded(max_age: int) -> dict[str, Any]:
    return {"mode": "bounded", "max_age": max_age, "refresh": 0.05}


SETTINGS = (
    Setting(
        "naive",
        {**ANYWHERE, "negatives": "independent", "negatives_per_edge": 5},
        uniform=True,
        plain=True,
    ),
    Setting("joint", ANYWHERE, uniform=True, plain=True),
    Setting("paper", ANYWHERE, cache={"mode": "unbounded"}, plain=True),
    Setting("part", ANYWHERE, plain=True),
    Setting("grouped", ANYWHERE),
    Setting("clusters", ANYWHERE, CLUSTERS),
    Setting("local", HALF, CLUSTERS),
    Setting("labor", HALF, CLUSTERS, LABOR),
    Setting("cache_4", HALF, CLUSTERS, LABOR, bounded(4)),
    Setting("cache_16", HALF, CLUSTERS, LABOR, bounded(16)),
    Setting("cache_64", HALF, CLUSTERS, LABOR, bounded(64)),
    Setting("recommended", HALF, model=LABOR, cache=bounded(16)),
    Setting("less_refresh", HALF, model=LABOR, cache={**bounded(16), "refresh": 0.01}),
)
"""From `part` to `cache_64` each has all that those above it have; `recommended` leaves `clusters` out,
which save little here (docs/efficiency.md); `less_refresh` is that with a fifth of the recomputation."""


@dataclass(frozen=True)
class UniformTargets:
    """A stage's rule whose targets come from all parts in one random order."""

    rule: StageRule

    def targets(self, part: int) -> Links:
        return dealt_out(self.rule.targets, part, HOSTS)

    def batch(self, targets: Links, part: int, key: int) -> Batch:
        return self.rule.batch(targets, part, key)


def main() -> int:
    options = _parser().parse_args()
    say: Say = (lambda line: None) if options.json else (lambda line: print(line, flush=True))
    wanted = [s for s in SETTINGS if s.name in options.settings]
    folder = build(
        options.graph,
        BuildOptions(
            hosts=HOSTS, relations=tuple(options.relations), tokenizer=DEFAULT_LM, max_length=MAX_LENGTH
        ),
        store=options.store,
        say=say,
    )
    manifest = PartitionManifest.load(folder)
    predicted = options.predict or [r.name for r in manifest.relations if r.targets.get("train")]
    output = (
        options.output
        or HERE / "results" / f"lm_cost_{read_schema(InputFolder(options.graph).file(GRAPH_FILE)).name}.json"
    )
    result: dict[str, Any] = {
        "predicted": predicted,
        "partition": manifest.id,
        "hosts": HOSTS,
        "trainers_per_host": 1,
        "targets_per_batch": TARGETS,
        "max_length": MAX_LENGTH,
        "lm": DEFAULT_LM,
        "rows": [],
    }
    if output.exists() and (before := json.loads(output.read_text()))["partition"] == manifest.id:
        result = before
    model = LMGNN(_plan(options.graph, predicted, wanted[0], FANOUTS[0]), manifest)
    for fanout in options.fanouts:
        for setting in wanted:
            there = [r for r in result["rows"] if (r["setting"], r["fanout"]) == (setting.name, fanout)]
            if there and there[0]["asked_steps"] == options.steps:
                continue
            plan = _plan(options.graph, predicted, setting, fanout)
            row = _row(setting, plan, manifest, folder, model, options.steps)
            result["rows"] = _ordered([r for r in result["rows"] if r not in there] + [row])
            output.parent.mkdir(exist_ok=True)
            output.write_text(json.dumps(result, indent=1) + "\n")
            say(json.dumps(row))
    print(json.dumps({"rows": result["rows"]}))
    return 0


def _plan(graph: str, predicted: Sequence[str], setting: Setting, fanout: int) -> TrainPlan:
    stage = {"name": "joint", "kind": "joint", "task": "links", "batch_size": TARGETS, **setting.stage}
    raw = {
        "name": "lm_cost",
        "graph": {"path": graph},
        "model": {"max_length": MAX_LENGTH, "fanout": [fanout, fanout], **setting.model},
        "tasks": {"links": {"relations": predicted, **setting.task}},
        "stages": [stage],
        "cache": setting.cache,
    }
    return TrainPlan.from_json(json.dumps(raw))


def _row(
    setting: Setting,
    plan: TrainPlan,
    manifest: PartitionManifest,
    folder: Path,
    model: LMGNN,
    asked: int | None,
) -> dict[str, Any]:
    trials, stage = Trials(plan, manifest, folder, model), plan.stages[0]
    rule: Any = UniformTargets(trials.rule(stage)) if setting.uniform else None
    replay = trials.replay(stage, rule)
    replay.empty_cache()
    steps = min(asked or replay.schedule.steps, replay.schedule.steps)

    def costs() -> Iterator[BatchCost]:
        for step in replay.steps(range(steps)):
            for cost in step:
                yield replace(cost, work=plain_work(cost.batch)) if setting.plain else cost

    means = means_of(costs())
    return {
        "setting": setting.name,
        "fanout": plan.model.fanout[0],
        "lm_rows_per_target": round((means.lm_rows_trained + means.lm_rows_forward) / means.targets, 2),
        "lm_tokens_per_target": round(means.lm_tokens_per_target, 1),
        "remote_bytes_per_target": round(means.remote_bytes_per_target),
        "hit_share": round(means.lm_rows_found / means.texts, 4),
        "seconds": round(means.seconds, 3),
        "steps": steps,
        "steps_per_epoch": replay.schedule.steps,
        "asked_steps": asked,
    }


def plain_work(batch: Batch) -> LMWork:
    """Every text node that the cache does not have, padded to the longest of the batch."""
    trained = rows = real = real_trained = longest = 0
    for node_type, tokens in batch.tokens.items():
        lengths, chosen = tokens.lengths(), batch.train_rows[node_type]
        rows += len(tokens) - len(batch.hits.get(node_type, ()))
        trained, real = trained + len(chosen), real + int(lengths.sum())
        real_trained += int(lengths[chosen].sum())
        longest = max(longest, int(lengths.max()))
    forward = rows - trained
    return LMWork(
        rows_trained=trained,
        rows_forward=forward,
        tokens_trained=trained * longest,
        tokens_forward=forward * longest,
        padding_trained=trained * longest - real_trained,
        padding_forward=forward * longest - (real - real_trained),
    )


def _ordered(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    names = [setting.name for setting in SETTINGS]
    return sorted(rows, key=lambda row: (row["fanout"], names.index(row["setting"])))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [setting.name for setting in SETTINGS]
    add = parser.add_argument
    add("--graph", required=True, help="folder of graph.toml")
    add("--predict", nargs="*", default=[], metavar="RELATION", help="the task; unset: all with a split")
    add("--relations", nargs="*", default=[], metavar="RELATION", help="to load; unset: all")
    add("--settings", nargs="*", choices=names, default=names, metavar="NAME", help=", ".join(names))
    add("--fanouts", nargs="*", type=int, choices=FANOUTS, default=FANOUTS, metavar="F", help="10 and 20")
    add("--steps", type=int, metavar="N", help="first steps of the epoch; unset: all of it")
    add("--store", default="store", help="folder of finished partitions")
    add("--output", type=Path, metavar="FILE", help="unset: benchmarks/results/lm_cost_NAME.json")
    add("--json", action="store_true", help="nothing on stdout but the last line")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
