"""A joint epoch beside a cached one, and what they lead to, under the settings at which GraphStorm 0.5.1 was
measured (benchmarks/peer/topic.toml): one trainer of one thread, three seeds.

`python benchmarks/peer.py --graph data/peer` writes benchmarks/results/peer.json: seed by seed. A
finished run is not repeated. Epochs are compared by processor seconds of the trainer, since a busy
machine stretches the clock's; those are there too. The graph has 3,000 papers and 1,500 authors with texts; a
folder tinybert with a random BERT of two layers lies in it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from statistics import mean

from runs import ensure_run, read_json, steps, write_json

HERE = Path(__file__).resolve().parent
EPOCH = 15
"""Steps: 900 targets, 64 a batch."""
TIMES = ("sample_s", "fetch_s", "compute_s", "step_s")
PEER = {"epochs": 31.0, "valid": 0.690, "test": 0.730}
"""GraphStorm 0.5.1 on this graph: a joint epoch in cached ones, and its figures (one seed)."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--graph", default="data/peer", help="folder of graph.toml")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-peer"), help="run folders")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes",
        help="change a key of the plan (may be repeated); name a --runs folder of its own")  # fmt: skip
    parser.add_argument("--output", type=Path, default=HERE / "results" / "peer.json")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = [{"seed": seed, **_figures(_run(options, seed))} for seed in range(options.seeds)]
    figures = ("valid", "test", "valid_after_joint", "joint_epoch_in_cached_ones", "lm_tokens_per_target")
    means = {name: mean(row[name] for row in rows) for name in figures}
    write_json(options.output, {"changes": options.changes, "rows": rows, "mean": means, "peer": PEER})
    print(json.dumps(means))
    return 0


def _run(options: argparse.Namespace, seed: int) -> Path:
    """The folder of a finished run."""
    folder: Path = options.runs / f"seed{seed}"
    graph = {"graph.path": options.graph, "model.lm": f"{options.graph}/tinybert"}
    ensure_run(
        HERE / "peer" / "topic.toml",
        folder,
        changes={**graph, "seed": seed, **dict(change.split("=", 1) for change in options.changes)},
        arguments=["--trainers-per-node", "1"],
    )
    return folder


def _figures(folder: Path) -> dict[str, float]:
    """Seconds of an epoch, the first step of a stage left out (it warms up), and accuracies."""
    task = read_json(folder / "metrics.json")["tasks"]["topic"]
    seconds, clock, tokens, most = {}, {}, {}, {}
    for stage in ("frozen", "joint"):
        events = [event for event in steps(folder) if event["stage"] == stage and event["step"] > 1]
        seconds[stage] = EPOCH * mean(event["cpu_s"] for event in events)
        clock[stage] = EPOCH * mean(sum(event[name] for name in TIMES) for event in events)
        tokens[stage] = sum(event["lm_tokens"] for event in events) / sum(e["targets"] for e in events)
        most[stage] = max(event["lm_rows_forward"] for event in events)
    return {
        "valid": task["valid"],
        "test": task["test"],
        "valid_after_joint": _last_evaluation(folder),
        "cached_epoch_cpu_seconds": seconds["frozen"],
        "joint_epoch_cpu_seconds": seconds["joint"],
        "cached_epoch_seconds": clock["frozen"],
        "joint_epoch_seconds": clock["joint"],
        "joint_epoch_in_cached_ones": seconds["joint"] / seconds["frozen"],
        "lm_tokens_per_target": tokens["joint"],
        "most_texts_forward_in_a_step": most["joint"],
    }


def _last_evaluation(folder: Path) -> float:
    """Validation accuracy of the joint stage's last model, which is kept only if none was better."""
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    joint = [event for event in events if event["event"] == "eval" and event["stage"] == "joint"]
    return float([event["value"] for event in joint if event["metric"] == "accuracy"][-1])


if __name__ == "__main__":
    sys.exit(main())
