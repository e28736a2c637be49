"""Three tasks on Debian's package graph, against their classical baselines in the same run.

`python benchmarks/debian.py --graph data/debian` runs benchmarks/debian/{section,depends,relation}.toml
one after the other through `lmgnn run` and writes benchmarks/results/debian.json, in the form of a
run's metrics.json with what the runs cost. A run that was interrupted goes on, a finished one is not
repeated (its folder lies under --runs): start the command again. The graph is made by
examples/debian/build.py. Plans are tuned on validation figures only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runs import ensure_run, read_json, steps, write_json

HERE = Path(__file__).resolve().parent
PLANS = ("section", "depends", "relation")
FLOORS = {"section": 0.801, "depends": 0.805, "relation": 0.728}
"""What a task must exceed: the best classical figure for section (text + neighbours) and relation, a
quick two-layer RGCN over a frozen MiniLM for depends."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--graph", default="data/debian", help="folder of graph.toml")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-debian"), help="run folders")
    parser.add_argument("--tasks", nargs="*", choices=PLANS, default=PLANS)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "debian.json")
    options = parser.parse_args()
    for name in options.tasks:
        folder = options.runs / name
        ensure_run(HERE / "debian" / f"{name}.toml", folder, changes={"graph.path": options.graph})
        _record(options.output, name, folder)
    missed = [
        name for name, task in read_json(options.output)["tasks"].items() if task["test"] <= task["floor"]
    ]
    print(f"written to {options.output}" + (f"; below their floors: {', '.join(missed)}" if missed else ""))
    return 1 if missed else 0


def _record(output: Path, name: str, folder: Path) -> None:
    """Add a finished run to the results, with what it cost."""
    task = read_json(folder / "metrics.json")["tasks"][name]
    outcome = read_json(folder / "outcome.json")
    task |= {
        "floor": FLOORS[name],
        "job_seconds": round(outcome["seconds"]),
        "peak_bytes": outcome["peak_bytes"],
    }
    task["lm_tokens"] = _lm_tokens(folder)
    results: dict[str, Any] = read_json(output) if output.exists() else {"tasks": {}}
    results["tasks"][name] = task
    write_json(output, results)


def _lm_tokens(folder: Path) -> Mapping[str, float]:
    """Stage -> LM tokens (pipeline/lm_work.py) of its training steps, over all trainers."""
    found: dict[str, float] = {}
    for event in steps(folder):
        found[event["stage"]] = found.get(event["stage"], 0.0) + event.get("lm_tokens", 0.0)
    return found


if __name__ == "__main__":
    sys.exit(main())
