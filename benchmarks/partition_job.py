"""One cut of a graph by one method, in a process of its own: started by partitioners.py, which watches it.

Says "ready" when all is imported and compiled, waits for a line, cuts, writes `part.npy`, and prints what it
has to tell as JSON. FOLDER holds edges.bin and, once the job "build" is done, graph/.
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
from partition.assign import adjacency_of, assign, combined_weights, even_bounds
from partition.csr import DiskGraph, build, open_graph
from partition.even import evened
from partition.methods import METHODS

EVEN = "+even"
"""Behind a method's name: as partition build --even."""


def main() -> None:
    method, folder, nodes, hosts, trainers, memory = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])
    if method.startswith("dgl"):
        import dgl  # takes seconds; measured apart
        import torch

        told = _when_told(lambda: _dgl(dgl, torch, folder, nodes, hosts, trainers))
    elif method == "build":
        told = _when_told(lambda: _build(folder, nodes))
    else:
        _warm_up(method, folder)
        told = _when_told(lambda: _assign(method, folder, hosts, trainers, memory))
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


def _assign(method: str, folder: Path, hosts: int, trainers: int, memory: int) -> dict[str, Any]:
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
        graph = adjacency_of(folder / "ring", [1000], [(0, ring, 0, (ring + 1) % 1000)])
        METHODS[name](graph, np.ones(1000, dtype=np.int64), 2, 0)
        if method.endswith(EVEN):
            uneven = np.zeros(1000, dtype=np.int64)
            evened(graph, uneven, 2, np.ones((3, 1000), dtype=np.int64), [1.0] * 3)
        shutil.rmtree(folder / "ring")


def _dgl(dgl: Any, torch: Any, folder: Path, nodes: int, hosts: int, trainers: int) -> dict[str, Any]:
    """The whole job of dgl.distributed: METIS and the files of all parts."""
    pairs = np.fromfile(folder / "edges.bin", np.int32)
    ends = torch.from_numpy(pairs[::2].astype(np.int64)), torch.from_numpy(pairs[1::2].astype(np.int64))
    del pairs
    graph = dgl.graph(ends, num_nodes=nodes)
    del ends
    out = folder / "dgl"
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
    shutil.rmtree(out)
    return {}


if __name__ == "__main__":
    main()
