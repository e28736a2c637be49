"""One job on a graph, in a process of its own: started by partitioners.py, which watches it.

Says "ready" when all is imported and compiled, waits for a line, works, and prints what it has to tell as
JSON. FOLDER holds edges.bin, tables/ and, once the job "build" is done, graph/. A cut and DGL's job write
`part.npy`; whole jobs leave their parts in out/. "server" loads the first part that `config` names, says
"loaded" and waits for a line.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.stream_graph import read_edges
from partition import scans
from partition.assign import assign, combined_weights, even_bounds
from partition.build import BuildOptions, find_or_build
from partition.clusters import cluster_parts
from partition.csr import DiskGraph, build, open_graph
from partition.even import evened
from partition.manifest import PartitionManifest
from partition.methods import METHODS

EVEN = "+even"
"""Behind a method's name: as partition build --even."""


def main() -> None:
    job, method, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    nodes, hosts, trainers, memory = map(int, sys.argv[4:])
    if job == "server" or method.startswith("dgl"):
        import dgl  # takes seconds; measured apart
        import torch
    if job == "server":
        told = _when_told(lambda: _server(dgl, folder))
    elif job == "build":
        told = _when_told(lambda: _build(folder, nodes))
    elif method.startswith("dgl"):
        told = _when_told(lambda: _dgl(dgl, torch, folder, nodes, hosts, trainers))
    else:
        if job == "whole":
            import partition.writer  # noqa: F401 - DGL, measured apart here as well
        _warm_up(method, folder)
        work = _whole if job == "whole" else _cut
        told = _when_told(lambda: work(method, folder, hosts, trainers, memory))
    print(json.dumps(told), flush=True)


def _when_told(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.process_time()
    return {**work(), "cpu_seconds": time.process_time() - start}


def _build(folder: Path, nodes: int) -> dict[str, Any]:
    shutil.rmtree(folder / "graph", ignore_errors=True)
    return {"edges": build(folder / "graph", nodes, lambda: read_edges(folder / "edges.bin")).edges}


def _counted(graph: DiskGraph) -> list[np.ndarray]:
    """Nodes, edges, tokens, targets: none of the last two."""
    none = np.zeros(graph.nodes)
    return [np.ones(graph.nodes), np.diff(graph.indptr).astype(np.float64), none, none]


def _whole(method: str, folder: Path, hosts: int, trainers: int, memory: int) -> dict[str, Any]:
    """What `lmgnn partition build` does: from tables to the files of all parts."""
    options = BuildOptions(
        hosts, trainers, method=method.removesuffix(EVEN), even=method.endswith(EVEN), reverse=False
    )
    tables, store = str(folder / "tables"), str(folder / "out")
    start = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - start:9.1f} s  {line}", file=sys.stderr, flush=True)

    made = find_or_build(tables, options, store=store, memory=str(memory), reuse=False, say=say)
    choices = PartitionManifest.load(made.path).stats["methods"]
    return {"chosen": [choice["method"] for choice in choices], "config": str(made.path / "graph.json")}


def _server(dgl: Any, folder: Path) -> dict[str, Any]:
    """What a graph server does before it waits for trainers: the first part, once loaded."""
    peers = folder / "peers"
    peers.write_text("127.0.0.1 30050")  # it never listens
    config = (folder / "config").read_text()
    server = dgl.distributed.DistGraphServer(0, str(peers), 1, 1, config, graph_format=("csc",))
    print("loaded", flush=True)
    sys.stdin.readline()  # what it holds is looked at meanwhile
    return {"server": type(server).__name__}


def _cut(method: str, folder: Path, hosts: int, trainers: int, memory: int) -> dict[str, Any]:
    graph = open_graph(folder / "graph")
    counted = _counted(graph)
    found = assign(
        graph,
        combined_weights(counted),
        hosts=hosts,
        trainers=trainers,
        cluster_size=graph.nodes,  # no clusters
        method=method.removesuffix(EVEN),
        seed=0,
        memory=memory,
        bounds=even_bounds(counted) if method.endswith(EVEN) else (),
    )
    np.save(folder / "part.npy", found.part)
    return {"chosen": [choice.method for choice in found.choices], "why": found.choices[0].why}


def _warm_up(method: str, folder: Path) -> None:
    """Imports and compiles what the method needs, on a ring."""
    ring = np.arange(1000)
    asked = method.removesuffix(EVEN)
    for name in [asked] if asked in METHODS else list(METHODS):
        graph = build(folder / "ring", 1000, lambda: [(ring, (ring + 1) % 1000)])
        ones = np.ones(1000, dtype=np.int64)
        METHODS[name](graph, ones, 2, 0, 1 << 30)
        if method.endswith(EVEN):
            uneven = np.zeros(1000, dtype=np.int64)
            evened(graph, uneven, 2, np.ones((3, 1000), dtype=np.int64), [1.0] * 3)
        cluster_parts(graph, ones, np.arange(1000) // 500, [5, 5], 0, 0)
        scans.cluster_scans(graph, ones, 10, 0, 1, many=0)
        shutil.rmtree(folder / "ring")


def _dgl(dgl: Any, torch: Any, folder: Path, nodes: int, hosts: int, trainers: int) -> dict[str, Any]:
    """The whole job of dgl.distributed: METIS and the files of all parts."""
    pairs = np.fromfile(folder / "edges.bin", np.int32)
    ends = torch.from_numpy(pairs[::2].astype(np.int64)), torch.from_numpy(pairs[1::2].astype(np.int64))
    del pairs
    graph = dgl.graph(ends, num_nodes=nodes)
    del ends
    out = folder / "out"
    original, _ = dgl.distributed.partition_graph(
        graph, "graph", hosts, str(out), return_mapping=True, num_trainers_per_machine=trainers
    )
    if trainers > 1:
        part = graph.ndata["trainer_id"].numpy()
    else:
        ranges = json.loads((out / "graph.json").read_text())["node_map"]["_N"]
        part = np.empty(nodes, dtype=np.int64)
        part[original.numpy()] = np.repeat(np.arange(hosts), [last - first for first, last in ranges])
    np.save(folder / "part.npy", part)
    return {"config": str(out / "graph.json")}


if __name__ == "__main__":
    main()
