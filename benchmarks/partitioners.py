"""Time, memory, cut and balance of the partition methods, beside DGL's own partitioner:

    python benchmarks/partition.py --edges 4000000 --methods auto,metis,kaminpar,semi-external,dgl,dgl-fold

Draws a graph (--graph community or rmat) into a file, then partitions it with each method, every job in a
process of its own: for 8 hosts of 1 trainer, then of 2, which for our methods are two levels.

* job "whole": our methods from Parquet tables to the files of all parts, as `partition build` does it,
  clusters included; `dgl` is dgl.distributed.partition_graph from tensors, for 1 trainer, `dgl-fold` the same
  with num_trainers_per_machine=2. All get and store each edge in one direction. Then a graph server loads
  the first part.
* job "cut" (--cut-only): our methods from the graph on disk to the part of each node; job "build" makes that
  graph.

With --tables-only edges go from the generator into the tables, repeats as well, and nothing else is kept
beside them; cut and balance are as the partition tells them, every row of the tables counted as an edge.
What a build says goes to stderr, with seconds before it.

A method's name may end in +even (partition build --even). Set OMP_NUM_THREADS=1 to compare on one thread.
peak_anonymous_bytes is memory that cannot be dropped, above that after imports and compiling;
peak_bytes_per_edge is the same per undirected edge. peak_total_bytes counts imports and mapped files as well,
which the kernel may drop. server_*: of the edges of one host. The last line is {"rows": [...]} as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.cut_figures import counted_figures, told_figures
from benchmarks.runs import read_json, write_json
from benchmarks.stream_graph import draw_edges, read_edges, write_graph
from benchmarks.watched import Watched, size_of, watched
from benchmarks.whole_tables import part_of_nodes, write_tables
from partition.csr import open_graph
from partition.memory import memory_bytes

JOB = Path(__file__).with_name("partition_job.py")
HOSTS = 8
OUT = "out"
"""Where jobs leave their parts, as in partition_job.py."""


@dataclass(frozen=True)
class Row:
    """One method on one graph."""

    job: str
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
    disk_bytes_per_edge: float | None = None
    """Of all parts."""
    disk_peak_bytes_per_edge: float | None = None
    """With scratch files, at most."""
    server_peak_bytes_per_edge: float | None = None
    server_bytes_per_edge: float | None = None
    """Once loaded."""


def main() -> None:
    options = _parser().parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.scratch)))
        nodes, edges = _drawn(folder, options)
        trainers = tuple(map(int, options.trainers.split(",")))
        bench = _Bench(folder, nodes, edges, options.memory, trainers, options.tables_only)
        result: dict[str, Any] = {
            "graph": options.graph,
            "nodes": nodes,
            "edges": edges,
            "hosts": HOSTS,
            "memory": options.memory,
            "rows": [],
        }
        for row in bench.rows(options.methods.split(","), cut_only=options.cut_only):
            result["rows"].append(asdict(row))
            _say(row, quiet=options.json)
            if options.out:
                write_json(options.out, result)  # what is there stays when a long run is ended
    print(json.dumps(result))


def _drawn(folder: Path, options: argparse.Namespace) -> tuple[int, int]:
    """Numbers of nodes and of distinct edges of the graph in `folder`, which is drawn there if need be."""
    asked = {"graph": options.graph, "edges": options.edges, "repeats": options.repeats}
    if options.tables_only:
        asked["tables_only"] = True
    record = folder / "drawn.json"
    if record.is_file():
        found = read_json(record)
        if found["asked"] != asked:
            raise SystemExit(f"{folder} has another graph: {found['asked']}; asked for {asked}")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        if options.tables_only:
            edges = options.edges
            nodes, chunks = draw_edges(options.graph, edges, seed=0)
            write_tables(folder, nodes, chunks)
        else:
            nodes, edges = write_graph(folder, options.graph, options.edges, seed=0, repeats=options.repeats)
            write_tables(folder, nodes, read_edges(folder / "edges.bin"))
        found = {"asked": asked, "nodes": nodes, "edges": edges}
        write_json(record, found)
    return found["nodes"], found["edges"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--edges", type=int, default=1_000_000, help="to draw, from which repeats are dropped")
    add("--graph", default="community", help="community or rmat")
    add("--repeats", action="store_true", help="leave repeats in: edges then differ in weight")
    add(
        "--tables-only", action="store_true", help="for graphs that fill the disk, and our methods: see above"
    )
    add("--trainers", default="1,2", help="of a host, for our methods")
    add("--methods", default="auto,metis,kaminpar,semi-external,dgl,dgl-fold")
    add("--cut-only", action="store_true", help="our methods cut, and write nothing")
    add("--memory", default="", help="by which auto chooses; none = most of this machine's")
    add("--scratch", type=Path, help="folder on a disk with 250 bytes an edge")
    add("--keep", type=Path, help="folder for the graph, which stays there for the next time")
    add("--out", type=Path, help="file for the result, besides the last line")
    add("--json", action="store_true", help="nothing but the last line")
    return parser


def _say(row: Row, *, quiet: bool) -> None:
    if quiet:
        return
    words = [
        f"{row.job} {row.method} x{row.trainers}",
        *row.chosen,
        f"{row.cpu_seconds} CPU s",
        f"{row.peak_bytes_per_edge} B/edge",
    ]
    if row.cut_percent is not None:
        words += [f"cut {row.cut_percent} / {row.trainer_cut_percent} %"]
        words += [f"nodes {row.node_balance}", f"edges {row.edge_balance}"]
    if row.disk_bytes_per_edge is not None:
        words += [f"disk {row.disk_bytes_per_edge} B/edge", f"server {row.server_peak_bytes_per_edge} B/edge"]
    print(", ".join(words), flush=True)


@dataclass(frozen=True)
class _Bench:
    """One graph, and the jobs on it."""

    folder: Path
    nodes: int
    edges: int
    memory: str
    trainers: tuple[int, ...]
    """Of a host, for our methods."""
    tables_only: bool

    def rows(self, methods: Sequence[str], *, cut_only: bool) -> Iterator[Row]:
        """Makes what the jobs need, then one row after the other."""
        if not self.tables_only:
            built = self._run("build", "", 1)
            if cut_only:
                yield self._row("build", "", 1, built)
        for method in methods:
            dgl = method.startswith("dgl")
            job = "cut" if cut_only and not dgl else "whole"
            for trainers in {"dgl": (1,), "dgl-fold": (2,)}.get(method, self.trainers):
                yield self._row(job, method, trainers, self._run(job, method, trainers))

    def _run(self, job: str, method: str, trainers: int) -> Watched:
        numbers = [self.nodes, HOSTS, trainers, memory_bytes(self.memory)]
        command = [sys.executable, "-P", str(JOB), job, method, str(self.folder), *map(str, numbers)]
        return watched(command, self.folder / OUT)

    def _row(self, job: str, method: str, trainers: int, done: Watched) -> Row:
        figures: dict[str, float] = {}
        if self.tables_only:
            figures = told_figures(Path(done.told["config"]).parent)
        elif job != "build":
            if job == "whole" and not method.startswith("dgl"):
                np.save(self.folder / "part.npy", part_of_nodes(Path(done.told["config"]).parent))
            part = np.load(self.folder / "part.npy")
            figures = counted_figures(open_graph(self.folder / "graph"), part, HOSTS, trainers)
        if job == "whole":
            figures |= self._stored(done)
        return Row(
            job=job,
            method=method,
            trainers=trainers,
            chosen=done.told.get("chosen", []),
            seconds=round(done.seconds, 2),
            cpu_seconds=round(done.told["cpu_seconds"], 2),
            cpu_seconds_per_million_edges=round(done.told["cpu_seconds"] / self.edges * 1e6, 2),
            peak_bytes_per_edge=round(done.peak_anonymous / self.edges, 1),
            peak_anonymous_bytes=done.peak_anonymous,
            peak_total_bytes=done.peak_total,
            **figures,
        )

    def _stored(self, done: Watched) -> dict[str, float]:
        """What the parts take on the disk, which are gone afterwards, and in a server."""
        config = Path(done.told["config"])
        stored = size_of(config.parent)
        (self.folder / "config").write_text(str(config))
        server = self._run("server", "", 1)
        shutil.rmtree(self.folder / OUT)
        mine = self.edges / HOSTS
        return {
            "disk_bytes_per_edge": round(stored / self.edges, 1),
            "disk_peak_bytes_per_edge": round(done.peak_disk / self.edges, 1),
            "server_peak_bytes_per_edge": round(server.peak_anonymous / mine, 1),
            "server_bytes_per_edge": round(server.loaded / mine, 1),
        }
