"""What the batches of a joint link task cost the language model, setting by setting, on one graph.

`python benchmarks/lm_cost.py --graph FOLDER` cuts the graph for 4 hosts x 1 trainer, draws an epoch with 256
targets a batch and two layers for each setting (cost_settings.py), and writes
benchmarks/results/lm_cost_NAME.json; the last line of stdout is {"rows": [...]}. --steps and --seconds make
it shorter. Nothing is trained (pipeline/cost/replay.py): the cache's age bound does not move. Rows in the
file already, of as many steps or of the same limits, are kept. Per target, means over all parts and steps:

* `lm_rows_per_target`: texts that run, `lm_tokens_per_target`: LM tokens as pipeline/lm_work.py counts
  them, `lm_tokens_trained_per_target`: those of texts with gradients, `padding_share`: of the tokens that
  run, `remote_bytes_per_target`: edges, tokens and embeddings from other hosts, `hit_share`: text nodes
  whose embedding the cache had; `seconds`: to draw one batch, by the clock, in this process.
* `last_lm_tokens_per_target`: over the last tenth of the steps, `later_lm_tokens_per_target`: over the first
  12 steps of a second epoch, for settings with a cache whose first was whole.
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
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("DGLBACKEND", "pytorch")  # else dgl's first import writes into the home folder
os.environ.setdefault("DS_ACCELERATOR", "cpu")

from cost_settings import SETTINGS, Setting
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
LATER = 12
"""Steps of the second epoch."""
SILENCE = 30
"""Seconds between two lines of progress."""


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
    limits = Limits(options.steps, options.seconds)
    for fanout in options.fanouts:
        for setting in wanted:
            there = [r for r in result["rows"] if (r["setting"], r["fanout"]) == (setting.name, fanout)]
            if any(limits.met_by(row) for row in there):
                continue
            plan = _plan(options.graph, predicted, setting, fanout)
            row = _row(setting, Trials(plan, manifest, folder, model), plan, limits, say)
            result["rows"] = _ordered([r for r in result["rows"] if r not in there] + [row])
            output.parent.mkdir(exist_ok=True)
            output.write_text(json.dumps(result, indent=1) + "\n")
            say(json.dumps(row))
    print(json.dumps({"rows": result["rows"]}))
    return 0


def _plan(graph: str, predicted: Sequence[str], setting: Setting, fanout: int) -> TrainPlan:
    stage = {
        "name": "joint",
        "kind": "joint",
        "task": "links",
        "batch_size": TARGETS,
        "epochs": 2,
        **setting.stage,
    }
    raw = {
        "name": "lm_cost",
        "graph": {"path": graph},
        "model": {"max_length": MAX_LENGTH, "fanout": [fanout, fanout], **setting.model},
        "tasks": {"links": {"relations": predicted, **setting.task}},
        "stages": [stage],
        "cache": setting.cache,
    }
    return TrainPlan.from_json(json.dumps(raw))


@dataclass(frozen=True)
class Limits:
    """How long a setting may take: steps, CPU seconds; None: an epoch."""

    steps: int | None
    seconds: float | None

    def met_by(self, row: dict[str, Any]) -> bool:
        """Whether a row has as many steps as asked for, or those that the same limits gave it."""
        epoch = row["steps_per_epoch"]
        return row["steps"] >= min(self.steps or epoch, epoch) or self.asked == row["asked"]

    @property
    def asked(self) -> dict[str, Any]:
        return {"steps": self.steps, "seconds": self.seconds}


def _row(setting: Setting, trials: Trials, plan: TrainPlan, limits: Limits, say: Say) -> dict[str, Any]:
    stage = plan.stages[0]
    rule: Any = UniformTargets(trials.rule(stage)) if setting.uniform else None
    replay = trials.replay(stage, rule)
    replay.empty_cache()
    epoch = replay.schedule.batches_per_epoch
    steps = min(limits.steps or epoch, epoch)
    drawn, started = replay.steps(range(2 * epoch)), time.process_time()
    work: list[LMWork] = []
    """Of each batch that was drawn."""

    def work_of(cost: BatchCost) -> LMWork:
        work.append(plain_work(cost.batch) if setting.plain else cost.work)
        return work[-1]

    def costs() -> Iterator[BatchCost]:
        told = time.monotonic()
        for number, step in enumerate(islice(drawn, steps), 1):
            yield from step
            spent = time.process_time() - started
            if time.monotonic() - told > SILENCE:
                told = time.monotonic()
                place = f"{setting.name}, fan-out {plan.model.fanout[0]}"
                say(f"{place}: step {number} of {steps}, {spent:.0f} CPU s")
            if limits.seconds and spent > limits.seconds:
                return

    means = means_of(costs(), work_of)
    spent, done = time.process_time() - started, len(work) // HOSTS
    row = {
        "setting": setting.name,
        "fanout": plan.model.fanout[0],
        "lm_rows_per_target": round((means.lm_rows_trained + means.lm_rows_forward) / means.targets, 3),
        "lm_tokens_per_target": round(means.lm_tokens_per_target, 2),
        "lm_tokens_trained_per_target": round(_trained(work) / len(work) / means.targets, 2),
        "last_lm_tokens_per_target": round(_mean_tokens(work[-HOSTS * -(-done // 10) :]) / means.targets, 2),
        "padding_share": round(means.padding_share, 4),
        "remote_bytes_per_target": round(means.remote_bytes_per_target),
        "hit_share": round(means.lm_rows_found / means.texts, 4),
        "seconds": round(means.seconds, 3),
        "cpu_seconds": round(spent, 1),
        "steps": done,
        "steps_per_epoch": epoch,
        "asked": limits.asked,
    }
    if replay.has_cache and done == epoch:
        later = means_of((cost for step in islice(drawn, LATER) for cost in step), work_of)
        row["later_lm_tokens_per_target"] = round(later.lm_tokens_per_target, 2)
    return row


def _trained(work: Sequence[LMWork]) -> int:
    """LM tokens of texts with gradients."""
    return sum(some.tokens - some.tokens_forward for some in work)


def _mean_tokens(work: Sequence[LMWork]) -> float:
    return sum(some.tokens for some in work) / len(work)


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
    add("--seconds", type=float, metavar="S", help="CPU seconds that a setting may take; unset: any")
    add("--store", default="store", help="folder of finished partitions")
    add("--output", type=Path, metavar="FILE", help="unset: benchmarks/results/lm_cost_NAME.json")
    add("--json", action="store_true", help="nothing on stdout but the last line")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
