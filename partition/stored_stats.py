"""Figures of a stored graph: how much of it is cut, what each host and part has, leaks.

Reads edges piece by piece. Never writes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from partition.arrays import pieces
from partition.stored import StoredGraph
from partition.tables import GraphTables

_KINDS = ("nodes", "edges", "targets", "tokens")


def graph_stats(graph: StoredGraph, tables: GraphTables) -> dict[str, Any]:
    """Cut, balance and leaks; shares are of 1, lists go by host and by part."""
    numbering = graph.numbering
    by_part = _balance(graph)
    by_host = {
        name: [int(v) for v in np.reshape(values, (numbering.hosts, -1)).sum(axis=1)]
        for name, values in by_part.items()
    }
    return {
        "cut": _cut(graph),
        "balance": {"hosts": by_host, "parts": by_part},
        "leaks": {name: leaks for name, table in tables.edges.items() if (leaks := table.leaks())},
    }


def _cut(graph: StoredGraph) -> dict[str, float]:
    """Shares of the edges, reverses apart, that join two hosts and two parts."""
    numbering = graph.numbering
    between = {"hosts": 0, "parts": 0}
    total = 0
    for relation in graph.relations:
        info = relation.info
        if info.is_reverse:
            continue
        total += info.count
        for mine in pieces(0, info.count):
            source = numbering.part_of(info.source, relation.source[mine])
            destination = numbering.part_of(info.destination, relation.destination[mine])
            between["parts"] += int((source != destination).sum())
            between["hosts"] += int((source // numbering.trainers != destination // numbering.trainers).sum())
    return {level: count / total if total else 0.0 for level, count in between.items()}


def _balance(graph: StoredGraph) -> dict[str, list[int]]:
    """Nodes, edges (by destination), training targets and tokens of each part."""
    numbering = graph.numbering
    total = {name: np.zeros(numbering.parts, dtype=np.int64) for name in _KINDS}

    def add(name: str, part: np.ndarray, weights: np.ndarray | None = None) -> None:
        total[name] += np.bincount(part, weights, minlength=numbering.parts).astype(np.int64)

    for name, table in graph.nodes.items():
        total["nodes"] += np.diff(numbering.part_bounds(name))
        if name in graph.tokens:
            for mine in pieces(0, len(table.ids)):
                part = numbering.part_of(name, numbering.ids[name][mine])
                add("tokens", part, graph.tokens[name].lengths(mine))
        if table.splits is not None:
            training = table.targets[table.splits[table.targets] == 0]
            add("targets", numbering.part_of(name, numbering.ids[name][training]))
    for relation in graph.relations:
        node_type = relation.info.destination
        total["edges"] += np.diff(relation.bounds(numbering.part_bounds(node_type)))
        if (targets := graph.targets.get(relation.info.name)) is not None:
            for mine in pieces(0, len(targets.rows)):
                training = targets.destination[mine][targets.splits[targets.rows[mine]] == 0]
                add("targets", numbering.part_of(node_type, training))
    return {name: values.tolist() for name, values in total.items()}
