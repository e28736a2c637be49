"""The smoke job over hosts of any kind, and the figures in which it must not differ."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.hosts.ssh_hosts import environment

Figures = dict[tuple[str, str, int, str], float]
"""(event, stage, step, metric) -> what was measured."""
REPO = Path(__file__).resolve().parents[2]


def arguments(work: Path, run: Path, *flags: str) -> list[str]:
    """What the smoke job is told, with graph and store in `work`."""
    settings = {"graph.path": work / "graph", "partition.store": work / "store"}
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return ["--config", str(REPO / "examples" / "smoke.toml"), *sets, "--run-dir", str(run), *flags]


def smoke(work: Path, run: Path, *flags: str, nodes: int = 2) -> list[str]:
    """The command of the smoke job."""
    command = [sys.executable, "-P", "-m", "launch", "run"]
    return [*command, *arguments(work, run, "--nodes", str(nodes), *flags)]


def run_here(argv: Sequence[str]) -> None:
    """Run a job on this machine to its end."""
    result = subprocess.run(
        argv, env=environment(REPO), capture_output=True, text=True, timeout=1200, check=False
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]


def figures(run: Path) -> Figures:
    """Everything measured: losses of all steps, validation at every evaluation, the test figure."""
    found: Figures = {}
    for line in (run / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        what = {"step": "loss", "eval": "value"}.get(event["event"])
        if what:
            found[event["event"], event["stage"], event["step"], event.get("metric", "")] = event[what]
    kinds = [kind for kind, *_ in found]
    assert kinds.count("step") > 10
    assert kinds.count("eval") > 2
    found["test", "", 0, ""] = json.loads((run / "metrics.json").read_text())["tasks"]["cites"]["test"]
    return found
