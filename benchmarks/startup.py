"""Seconds from the command to the first training step, and where they go, for one host and for several.

`PYTHONPATH=. python benchmarks/startup.py --nodes 1 2 8` starts the smoke job (examples/smoke.toml, one
trainer a host, hosts simulated on this machine) through launch/run.sh with environment, graph and partition
made before, watches the files of its run, and ends it at its first step. Writes
benchmarks/results/startup.json; the last line of stdout is {"rows": [...]}, a row per number of hosts with
the median of each part over the repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from runs import write_json

from launch.watch import STATE_FILE, STEPS_FILE

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "benchmarks" / "results" / "startup.json"
DEADLINE_S = 600.0
POLL_S = 0.01


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())  # type: ignore[no-any-return]
    except (OSError, ValueError):
        return {}


def _step_done(run: Path, name: str) -> bool:
    rows = _read(run / STEPS_FILE).get("processes", [])
    return any(row["role"] == name and row["returncode"] == 0 for row in rows)


def _servers_ready(run: Path, nodes: int) -> bool:
    rows = _read(run / STATE_FILE).get("processes", [])
    return sum(row["role"] == "server" and row["state"] == "ready" for row in rows) == nodes


def _has_event(run: Path, kind: str) -> bool:
    try:
        return f'"event": "{kind}"' in (run / "events.jsonl").read_text()
    except OSError:
        return False


def milestones(run: Path, nodes: int) -> list[tuple[str, Callable[[], bool]]]:
    """What has to be over, in its order; a part is the time since the one before."""
    return [
        ("launcher", (run / "run.json").exists),
        ("partition_found", lambda: _step_done(run, "partition")),
        ("leaks", lambda: _step_done(run, "leaks")),
        ("agents", (run / "launch.json").exists),
        ("servers", lambda: _servers_ready(run, nodes)),
        ("trainers_imported", lambda: len(list(run.glob("live/a1/trainer-*.json"))) == nodes),
        ("connected", lambda: _has_event(run, "run_start")),
        ("first_step", lambda: _has_event(run, "step")),
    ]


def command(work: Path, run: Path, nodes: int) -> list[str]:
    settings = {"graph.path": work / "graph", "partition.store": work / "store"}
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    smoke = ["run", "--config", str(ROOT / "examples" / "smoke.toml"), *sets, "--run-dir", str(run)]
    return [str(ROOT / "launch" / "run.sh"), *smoke, "--nodes", str(nodes), "--trainers-per-node", "1"]


def start_once(work: Path, nodes: int, number: int) -> dict[str, float]:
    """Milestone -> seconds since the command."""
    run = work / f"{nodes}-{number}"
    with (work / f"{nodes}-{number}.log").open("w") as log:
        began = time.monotonic()
        job = subprocess.Popen(command(work, run, nodes), stdout=log, stderr=log, start_new_session=True)
        seconds: dict[str, float] = {}
        try:
            for name, over in milestones(run, nodes):
                while not over():
                    if job.poll() is not None or time.monotonic() - began > DEADLINE_S:
                        raise RuntimeError(f"{name} was not reached: {log.name}")
                    time.sleep(POLL_S)
                seconds[name] = time.monotonic() - began
        finally:
            if job.poll() is None:
                os.kill(job.pid, signal.SIGKILL)  # agents end all the rest
                job.wait()
    time.sleep(5)  # they need a moment, and it is not the next start's
    return seconds


def row(nodes: int, starts: Sequence[dict[str, float]]) -> dict[str, Any]:
    names = list(starts[0])
    parts = {}
    for before, name in zip([None, *names], names, strict=False):
        spent = [start[name] - (start[before] if before else 0.0) for start in starts]
        parts[name] = round(median(spent), 2)
    totals = [start[names[-1]] for start in starts]
    return {"nodes": nodes, "seconds": round(median(totals), 2), "parts": parts,
            "all_seconds": [round(total, 2) for total in totals]}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory(prefix="startup-") as folder:
        for nodes in options.nodes:
            start_once(Path(folder), nodes, 0)  # makes graph and partition, fills the page cache
            starts = [start_once(Path(folder), nodes, k + 1) for k in range(options.repeats)]
            rows.append(row(nodes, starts))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    load = os.getloadavg()[0]
    write_json(options.output, {"cores": os.cpu_count(), "load_at_the_end": round(load, 1), "rows": rows})
    print(json.dumps({"rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
