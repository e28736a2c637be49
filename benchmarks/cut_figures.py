"""How good a cut is: edges between hosts and between trainers, and how evenly these are loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from partition.csr import DiskGraph
from partition.manifest import PartitionManifest


def counted_figures(graph: DiskGraph, part: np.ndarray, hosts: int, trainers: int) -> dict[str, float]:
    """Of the part of each node, int N: cuts in per cent of the edges, parallel ones once; balances."""
    between = np.zeros(2, dtype=np.int64)
    for first, last in graph.row_ranges():
        entries = graph.entries(first, last)
        rows, columns = part[entries.rows], part[entries.columns]
        between += [(rows // trainers != columns // trainers).sum(), (rows != columns).sum()]
    figures = _cuts(*(between / len(graph.indices)))
    degrees = np.diff(graph.indptr)
    for prefix, block, count in (("", part // trainers, hosts), ("trainer_", part, hosts * trainers)):
        for name, weights in (("node", None), ("edge", degrees)):
            figures[f"{prefix}{name}_balance"] = _balance(np.bincount(block, weights, minlength=count))
    return figures


def told_figures(partition: Path) -> dict[str, float]:
    """The same by the partition's manifest: of all edges that it stores, which load the host they lead to."""
    stats = PartitionManifest.load(partition).stats
    figures = _cuts(stats["cut"]["hosts"], stats["cut"]["parts"])
    for prefix, level in (("", "hosts"), ("trainer_", "parts")):
        for name in ("node", "edge"):
            figures[f"{prefix}{name}_balance"] = _balance(np.array(stats["balance"][level][f"{name}s"]))
    return figures


def _cuts(hosts: float, trainers: float) -> dict[str, float]:
    return {
        "cut_percent": round(100 * float(hosts), 2),
        "trainer_cut_percent": round(100 * float(trainers), 2),
    }


def _balance(loads: np.ndarray) -> float:
    return round(float(loads.max() / loads.mean()), 3)
