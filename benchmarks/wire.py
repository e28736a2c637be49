"""Bytes between hosts of a joint link stage, counted on the wire: 4 simulated hosts x 1 trainer.

`python benchmarks/wire.py --graph FOLDER` cuts the graph, runs a few steps of each setting with real graph
servers and trainers (wire_client.py), and writes benchmarks/results/wire.json; the last line of stdout is
{"rows": [...]}. Two layers of MiniLM, 64 tokens, fan-out 10, 10, 256 targets a batch, every cache empty at
first. Settings that are in the file already, of as many steps, are kept. Over all trainers and steps:

* `graph_bytes_per_target`: between trainers and graph servers of other hosts, both ways, without headers:
  neighbours, tokens, embeddings. `replayed_bytes_per_target`: what pipeline/cost/replay.py works out for
  the same steps, as lm_cost.py and `lmgnn bench batches` tell it.
* `exchange_bytes_per_target`: computed embeddings that go to the trainers who own them, for the cache.
* `collective_bytes_per_target`: all between trainers, most of it gradients: as many a step for any targets.
* `interface_bytes_per_target`: all that the hosts' network interfaces received, headers included.
* `hit_share`: text nodes whose embedding was young enough, the few recomputed ones among them;
  `replayed_hit_share`: the same by replay, `private_hit_share`: if every host had a cache of its own.
* `draw_ms`: targets, negatives, neighbours of a batch, in a thread beside the model; `fill_ms`: looking up
  embeddings, fetching tokens; `..._cpu_ms`: of them on this process's core. All share the machine's cores.
* `idle_share`: of a trainer's time, waiting for a batch to be drawn, or filling it.

With a cache `steady` has the figures of the last third of the steps (not the very last), in which next to
nothing is met for the first time, and `epoch_graph_bytes_per_target` what an epoch comes to: the steps before
as counted, all others like these.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("DGLBACKEND", "pytorch")  # else dgl's first import writes into the home folder
os.environ.setdefault("DS_ACCELERATOR", "cpu")

from cost_settings import ANYWHERE, FEW, HALF, LABOR, Setting
from hosts import run_on_hosts
from lm_cost import HOSTS, MAX_LENGTH, TARGETS, UniformTargets
from runs import read_json, steps, write_json

from partition.build import build
from partition.manifest import PartitionManifest
from partition.request import GRAPH_FILE, BuildOptions
from partition.storage import InputFolder
from pipeline.config import DEFAULT_LM, TrainPlan
from pipeline.cost.replay import BatchCost
from pipeline.cost.trial import Trials
from pipeline.model import LMGNN
from pipeline.start.init import read_schema

HERE = Path(__file__).resolve().parent
LAYERS = 2
SETTINGS = (
    Setting("flat", ANYWHERE, uniform=True),
    Setting("part", ANYWHERE),
    Setting("near", HALF, model=LABOR),
    Setting("bounded", HALF, FEW, LABOR, {"mode": "bounded"}),
    Setting("few_labor", HALF, FEW, LABOR, {"mode": "unbounded"}),
    Setting("recommended", HALF, FEW, cache={"mode": "unbounded"}),
)
"""flat: targets from all parts; part: the trainer's own; near: and half of the negatives from the part,
and LABOR; bounded: near with gradients for 8 texts a batch and the plan's default cache; few_labor: that with
a cache without a bound; recommended: few_labor with neighbours drawn for each node by itself."""


def main() -> int:
    options = _parser().parse_args()
    wanted = [s for s in SETTINGS if s.name in options.settings]
    build_options = BuildOptions(hosts=HOSTS, tokenizer=DEFAULT_LM, max_length=MAX_LENGTH)
    folder = build(
        options.graph, build_options, store=options.store, say=lambda line: print(line, flush=True)
    )
    manifest = PartitionManifest.load(folder)
    predicted = options.predict or [r.name for r in manifest.relations if r.targets.get("train")]
    result: dict[str, Any] = {
        "graph": read_schema(InputFolder(options.graph).file(GRAPH_FILE)).name,
        "nodes": {node_type.name: node_type.count for node_type in manifest.node_types},
        "predicted": predicted,
        "partition": manifest.id,
        "hosts": HOSTS,
        "trainers_per_host": 1,
        "targets_per_batch": TARGETS,
        "max_length": MAX_LENGTH,
        "lm_layers": LAYERS,
        "rows": [],
    }
    if options.output.exists() and (before := read_json(options.output))["partition"] == manifest.id:
        result = before
    for setting in wanted:
        count = options.steps if setting.cache["mode"] == "exact" else options.cached_steps
        there = [row for row in result["rows"] if row["setting"] == setting.name]
        if there and there[0]["steps"] == count:
            continue
        plan = _plan(options.graph, predicted, setting)
        row = {"setting": setting.name, "steps": count}
        row |= _replayed(setting, plan, manifest, folder, count)
        events = _measured(setting, plan, folder, options.runs / setting.name, row.pop("epochs"))
        row |= figures(events)
        if setting.cache["mode"] != "exact":
            row |= steady(events, row["steps_per_epoch"])
        result["rows"] = _ordered([r for r in result["rows"] if r not in there] + [row])
        write_json(options.output, result)
        print(json.dumps(row), flush=True)
    print(json.dumps({"rows": result["rows"]}))
    return 0


def _plan(graph: str, predicted: Sequence[str], setting: Setting) -> TrainPlan:
    stage = {"name": "joint", "kind": "joint", "task": "links", "batch_size": TARGETS, "evals": 0}
    raw = {
        "name": "wire",
        "graph": {"path": graph},
        "model": {"lm_layers": LAYERS, "max_length": MAX_LENGTH, "fanout": [10, 10], **setting.model},
        "tasks": {"links": {"relations": predicted, **setting.task}},
        "stages": [{**stage, **setting.stage}],
        "cache": setting.cache,
        "engine": {"threads": 1, "forward_precision": "auto"},
    }
    return TrainPlan.from_json(json.dumps(raw))


def _replayed(
    setting: Setting, plan: TrainPlan, manifest: PartitionManifest, folder: Path, count: int
) -> dict[str, Any]:
    """What replays of the first steps tell, and `epochs`, so many that the stage ends after them."""
    trials, stage = Trials(plan, manifest, folder, LMGNN(plan, manifest)), plan.stages[0]
    rule: Any = UniformTargets(trials.rule(stage)) if setting.uniform else None
    replay = trials.replay(stage, rule)
    both = _Counted().add(replay.steps(range(count)))
    found: dict[str, Any] = {
        "epochs": count / replay.schedule.batches_per_epoch,
        "steps_per_epoch": replay.schedule.batches_per_epoch,
        "replayed_bytes_per_target": round(both.remote_bytes / both.targets),
    }
    if replay.has_cache:
        alone = _Counted()
        for part in range(HOSTS):
            alone.add(trials.replay(stage, rule).steps(range(count), [part]))
        found["replayed_hit_share"] = round(both.found / both.texts, 4)
        found["private_hit_share"] = round(alone.found / alone.texts, 4)
    return found


@dataclass
class _Counted:
    """Sums over batches of a replay."""

    targets: int = 0
    remote_bytes: int = 0
    texts: int = 0
    """Nodes with text; `found`: those whose embedding was there, to be used or to be compared."""
    found: int = 0

    def add(self, drawn: Iterable[Sequence[BatchCost]]) -> _Counted:
        for cost in (cost for step in drawn for cost in step):
            self.targets += cost.targets
            self.remote_bytes += cost.remote_bytes
            self.texts += sum(len(lists) for lists in cost.batch.tokens.values())
            self.found += cost.found + sum(len(rows) for rows in cost.batch.stale.values())
        return self


def _measured(
    setting: Setting, plan: TrainPlan, partition: Path, folder: Path, epochs: float
) -> list[dict[str, Any]]:
    """Run the setting; all trainers' step events."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("events*.jsonl"):
        old.unlink()  # of a run that was interrupted
    write_json(folder / "wire.json", {"uniform": setting.uniform})
    plan = replace(plan, stages=(replace(plan.stages[0], epochs=epochs),))
    run_on_hosts(plan, partition, folder, hosts=HOSTS, client=HERE / "wire_client.py")
    return list(steps(folder))


def steady(events: Sequence[Mapping[str, float]], steps_per_epoch: int) -> dict[str, Any]:
    """Figures of the last third of the steps but the very last, during which no batch is drawn ahead; and the
    epoch's bytes if all later steps are like those."""
    last = int(max(event["step"] for event in events)) - 1
    first = last - last // 3
    late = [event for event in events if first < event["step"] <= last]
    early = [event for event in events if event["step"] <= first]
    before, after = figures(early)["graph_bytes_per_target"], figures(late)["graph_bytes_per_target"]
    share = min(1.0, first / steps_per_epoch)
    epoch = round(share * before + (1 - share) * after)
    return {"epoch_graph_bytes_per_target": epoch, "steady": {"steps": last - first, **figures(late)}}


def figures(events: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Of all trainers' step events."""

    def total(*names: str) -> float:
        return sum(event.get(name, 0.0) for event in events for name in names)

    targets, batches = total("targets"), len(events)
    kinds = ("graph_bytes", "exchange_bytes", "collective_bytes", "interface_bytes")
    times = ("draw", "draw_cpu", "fill", "fill_cpu")
    waiting = ("sample_s", "fetch_s")
    found: dict[str, Any] = {"targets": round(targets)}
    found |= {f"{kind}_per_target": round(total(kind) / targets) for kind in kinds}
    found |= {f"{name}_ms": round(1000 * total(f"{name}_s") / batches, 1) for name in times}
    found["idle_share"] = round(total(*waiting) / total(*waiting, "compute_s", "step_s"), 4)
    if texts := total("cache_texts"):
        found["hit_share"] = round(total("cache_usable") / texts, 4)
    return found


def _ordered(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    names = [setting.name for setting in SETTINGS]
    return sorted(rows, key=lambda row: names.index(row["setting"]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [setting.name for setting in SETTINGS]
    add = parser.add_argument
    add("--graph", required=True, help="folder of graph.toml")
    add("--predict", nargs="*", default=[], metavar="RELATION", help="the task; unset: all with a split")
    add("--settings", nargs="*", choices=names, default=names, metavar="NAME", help=", ".join(names))
    add("--steps", type=int, default=2, metavar="N", help="without a cache: every text of a batch runs")
    add("--cached-steps", type=int, default=24, metavar="N")
    add("--store", default="store", help="folder of finished partitions")
    add("--runs", type=Path, default=Path("runs/benchmark-wire"), help="run folders")
    add("--output", type=Path, default=HERE / "results" / "wire.json", metavar="FILE")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
