"""Time, memory, cut and balance of the partition methods, beside DGL's own partitioner:

    python benchmarks/partition.py --edges 4000000 --methods auto,metis,kaminpar,semi-external,dgl,dgl-fold

Draws a graph (--graph community or rmat) into a file, then cuts it with each method in a process of its own:
for 8 hosts of 1 trainer, then of 2, which for our methods are two levels. `dgl` is the whole job of
dgl.distributed.partition_graph, which writes its parts as well, for 1 trainer; `dgl-fold` is the same with
num_trainers_per_machine=2. DGL gets each edge in one direction only. `build` makes our graph out of the file
of edges. A method's name may end in +even (partition build --even). Set
OMP_NUM_THREADS=1 to compare on one thread: ours use no more.

peak_anonymous_bytes is memory that cannot be dropped, above that after imports and compiling;
peak_bytes_per_edge is the same per undirected edge. peak_total_bytes counts imports and mapped files as well,
which the kernel may drop. The last line is {"rows": [...]} as JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.runs import write_json
from benchmarks.stream_graph import write_graph
from partition.csr import DiskGraph, open_graph
from partition.memory import memory_bytes

JOB = Path(__file__).with_name("partition_job.py")
HOSTS = 8
SAMPLE_S = 0.02


@dataclass(frozen=True)
class Row:
    """One method on one graph."""

    method: str
    trainers: int
    chosen: list[str]
    """Methods of the levels, where ours cut."""
    seconds: float
    cpu_seconds: float
    """What `seconds` are on a machine at rest, but for the disk."""
    cpu_seconds_per_million_edges: float
    peak_bytes_per_edge: float
    peak_anonymous_bytes: int
    peak_total_bytes: int
    cut_percent: float | None = None
    """Edges between hosts."""
    trainer_cut_percent: float | None = None
    node_balance: float | None = None
    """Most nodes of a host / mean."""
    edge_balance: float | None = None
    trainer_node_balance: float | None = None
    trainer_edge_balance: float | None = None


@dataclass
class Peaks:
    """What a process held at most, in bytes, sampled."""

    anonymous: int = 0
    total: int = 0

    def sample(self, pid: int) -> None:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}
        if "VmRSS" in sizes:  # a process that has ended has none
            self.anonymous = max(self.anonymous, sizes["RssAnon"] + sizes["RssShmem"])
            self.total = max(self.total, sizes["VmRSS"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--edges", type=int, default=1_000_000, help="to draw, from which repeats are dropped"
    )
    parser.add_argument("--graph", default="community", help="community or rmat")
    parser.add_argument(
        "--repeats", action="store_true", help="leave repeats in: edges then differ in weight"
    )
    parser.add_argument("--methods", default="auto,metis,kaminpar,semi-external,dgl,dgl-fold")
    parser.add_argument("--memory", default="", help="by which auto chooses; none = most of this machine's")
    parser.add_argument("--scratch", type=Path, help="folder on a disk with 40 bytes an edge, DGL's 200")
    parser.add_argument("--out", type=Path, help="file for the result, besides the last line")
    parser.add_argument("--json", action="store_true", help="nothing but the last line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        folder = Path(name)
        nodes, edges = write_graph(folder, options.graph, options.edges, seed=0, repeats=options.repeats)
        _, built = _job("build", folder, nodes, 1, options.memory, edges)
        rows = [built]
        say(built, quiet=options.json)
        for method in options.methods.split(","):
            for trainers in {"dgl": (1,), "dgl-fold": (2,)}.get(method, (1, 2)):
                _, row = _job(method, folder, nodes, trainers, options.memory, edges)
                rows.append(row)
                say(row, quiet=options.json)
    result = {
        "graph": options.graph,
        "nodes": nodes,
        "edges": edges,
        "hosts": HOSTS,
        "rows": [asdict(row) for row in rows],
    }
    if options.out:
        write_json(options.out, result)
    print(json.dumps(result))


def say(row: Row, *, quiet: bool) -> None:
    if quiet:
        return
    words = [
        f"{row.method} x{row.trainers}",
        *row.chosen,
        f"{row.cpu_seconds} CPU s",
        f"{row.peak_bytes_per_edge} B/edge",
    ]
    if row.cut_percent is not None:
        words += [f"cut {row.cut_percent} / {row.trainer_cut_percent} %"]
        words += [f"nodes {row.node_balance}", f"edges {row.edge_balance}"]
    print(", ".join(words), flush=True)


def _job(
    method: str, folder: Path, nodes: int, trainers: int, memory: str, edges: int
) -> tuple[dict[str, Any], Row]:
    """What the job told, and its row."""
    numbers = [nodes, HOSTS, trainers, memory_bytes(memory)]
    command = [sys.executable, "-P", str(JOB), method, str(folder)]
    process = subprocess.Popen(
        [*command, *map(str, numbers)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    while process.stdout.readline() not in ("ready\n", ""):
        pass  # what libraries say while they are imported
    before, during = Peaks(), Peaks()
    before.sample(process.pid)
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(process.pid, during, done))
    watcher.start()
    start = time.monotonic()
    print("go", file=process.stdin, flush=True)
    lines = process.stdout.read().splitlines()
    seconds = time.monotonic() - start
    done.set()
    watcher.join()
    if process.wait():
        raise SystemExit(f"{method} failed with exit code {process.returncode}")
    told = json.loads(lines[-1])
    held = max(during.anonymous - before.anonymous, 0)
    figures = (
        {}
        if method == "build"
        else _figures(open_graph(folder / "graph"), np.load(folder / "part.npy"), trainers)
    )
    row = Row(
        method=method,
        trainers=trainers,
        chosen=told.get("chosen", []),
        seconds=round(seconds, 2),
        cpu_seconds=round(told["cpu_seconds"], 2),
        cpu_seconds_per_million_edges=round(told["cpu_seconds"] / edges * 1e6, 2),
        peak_bytes_per_edge=round(held / edges, 1),
        peak_anonymous_bytes=held,
        peak_total_bytes=during.total,
        **figures,
    )
    return told, row


def _watch(pid: int, peaks: Peaks, done: threading.Event) -> None:
    while not done.wait(SAMPLE_S):
        peaks.sample(pid)


def _figures(graph: DiskGraph, part: np.ndarray, trainers: int) -> dict[str, float]:
    """Cuts in per cent of the edges, parallel ones counted once; balances."""
    between = np.zeros(2, dtype=np.int64)
    for first, last in graph.row_ranges():
        entries = graph.entries(first, last)
        rows, columns = part[entries.rows], part[entries.columns]
        between += [(rows // trainers != columns // trainers).sum(), (rows != columns).sum()]
    cut, trainer_cut = (round(100 * float(count) / len(graph.indices), 2) for count in between)
    figures = {"cut_percent": cut, "trainer_cut_percent": trainer_cut}
    degrees = np.diff(graph.indptr)
    for prefix, block, count in (("", part // trainers, HOSTS), ("trainer_", part, HOSTS * trainers)):
        for name, weights in (("node", None), ("edge", degrees)):
            loads = np.bincount(block, weights, minlength=count)
            figures[f"{prefix}{name}_balance"] = round(float(loads.max() / loads.mean()), 3)
    return figures
