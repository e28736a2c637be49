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
from lm_counts import Counted, figures, tokens_per_target
from uniform import dealt_out

from partition.build import Say, build
from partition.manifest import PartitionManifest
from partition.request import GRAPH_FILE, BuildOptions
from partition.storage import InputFolder
from pipeline.batch import Batch
from pipeline.config import DEFAULT_LM, TrainPlan
from pipeline.cost.trial import Trials
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
"""Seconds between two lines of progress; the file has a setting's row then, of the steps so far."""


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
            for row in _rows(setting, Trials(plan, manifest, folder, model), plan, limits):
                kept = [r for r in result["rows"] if (r["setting"], r["fanout"]) != (setting.name, fanout)]
                result["rows"] = _ordered([*kept, row])
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
        return row["steps"] >= min(self.steps or epoch, epoch) or row["asked"] == self.asked

    @property
    def asked(self) -> dict[str, Any]:
        return {"steps": self.steps, "seconds": self.seconds}


def _rows(setting: Setting, trials: Trials, plan: TrainPlan, limits: Limits) -> Iterator[dict[str, Any]]:
    """A setting's row, again and again with more steps; the last has all that the limits allow."""
    rule: Any = UniformTargets(trials.rule(plan.stages[0])) if setting.uniform else None
    replay = trials.replay(plan.stages[0], rule)
    replay.empty_cache()
    epoch = replay.schedule.batches_per_epoch
    drawn, started, told = replay.steps(range(2 * epoch)), time.process_time(), time.monotonic()
    some: list[Counted] = []

    def row(asked: dict[str, Any] | None) -> dict[str, Any]:
        where = {"setting": setting.name, "fanout": plan.model.fanout[0], **figures(some, HOSTS)}
        where |= {"cpu_seconds": round(time.process_time() - started, 1), "steps": len(some) // HOSTS}
        return {**where, "steps_per_epoch": epoch, "asked": asked}

    for step in islice(drawn, min(limits.steps or epoch, epoch)):
        some += [Counted.of(cost, plain=setting.plain) for cost in step]
        if limits.seconds and time.process_time() - started > limits.seconds:
            break
        if time.monotonic() - told > SILENCE:
            told = time.monotonic()
            yield row(None)
    last = row(limits.asked)
    if replay.has_cache and last["steps"] == epoch:
        later = [Counted.of(cost, plain=setting.plain) for step in islice(drawn, LATER) for cost in step]
        last["later_lm_tokens_per_target"] = round(tokens_per_target(later), 2)
    yield last


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
