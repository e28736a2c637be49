"""A graph some of whose rows are left out, through a whole job: the figures of the tables without them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from toy import REPO

PLAN = """
name = "toy"
graph = { path = "PATH" }
model = { lm = "LM", max_length = 12, hidden = 16, fanout = [3, 3] }
partition = { bad_rows = "quarantine" }
engine = { threads = 1 }
[tasks.cites]
relations = ["cites"]
[[stages]]
name = "joint"
kind = "joint"
task = "cites"
"""


def with_bad_rows(graph: Path, folder: Path) -> Path:
    """A copy of a graph with a paper that is there twice, an edge to nobody and one with a wrong split."""
    folder.mkdir()
    for path in graph.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    for name, rows in {
        "paper": [{"id": "paper-3", "text": "again", "label": "topic 1", "split": "train"}],
        "cites": [
            {"src_id": "paper-0", "dst_id": "nobody", "split": "train", "kind": "within"},
            {"src_id": "paper-0", "dst_id": "paper-1", "split": "trian", "kind": "within"},
        ],
    }.items():
        table = pq.read_table(folder / f"{name}.parquet")
        pq.write_table(
            pa.concat_tables([table, pa.Table.from_pylist(rows, table.schema)]), folder / f"{name}.parquet"
        )
    return folder


def job(home: Path, graph: Path, lm: Path) -> Path:
    """Run folder of a job with one trainer."""
    home.mkdir()
    (home / "plan.toml").write_text(PLAN.replace("PATH", str(graph)).replace("LM", str(lm)))
    command = [sys.executable, "-P", "-m", "launch", "run", "--config", str(home / "plan.toml")]
    command += ["--run-dir", str(home / "run"), "--trainers-per-node", "1"]
    command += ["--set", f"partition.store={home / 'store'}"]
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=home, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return home / "run"


def figures(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "metrics.json").read_text())["tasks"]["cites"]
    return {
        key: value for key, value in found.items() if key in ("test", "valid", "test_metrics", "baselines")
    }


def test_a_job_over_a_graph_with_rows_left_out_ends_with_the_figures_of_the_others(
    toy: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    graph, lm, _ = toy
    run = job(tmp_path / "dirty", with_bad_rows(graph, tmp_path / "graph"), lm)
    assert json.loads((run / "outcome.json").read_text())["exit_code"] == 0
    assert (run / "report.html").is_file()
    (partition,) = [path.parent for path in (tmp_path / "dirty/store").glob("*/manifest.json")]
    stats = json.loads((partition / "manifest.json").read_text())["stats"]["quarantine"]
    assert {name: table["left_out"] for name, table in stats.items()} == {"nodes.paper": 1, "edges.cites": 2}
    assert {path.name for path in (partition / "quarantine").iterdir()} == {
        "nodes.paper.parquet",
        "edges.cites.parquet",
    }
    clean = job(tmp_path / "clean", graph, lm)
    assert figures(run)
    assert figures(run) == figures(clean)
