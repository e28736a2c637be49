"""Where hosts, types and relations begin among DGL's ids, and `graph.json`, which tells DGL.

Homogeneous node ids follow (host, type, trainer, cluster), edge ids (host of the destination, relation,
destination, source). Never reads an edge but to find where a host's begin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from partition.manifest import PartitionManifest, RelationInfo
from partition.stored import StoredGraph


@dataclass(frozen=True)
class Layout:
    """Where things begin."""

    node_ranges: tuple[Mapping[str, tuple[int, int]], ...]
    """Per host, type -> [first, last) of its ids."""
    node_starts: Mapping[str, tuple[int, ...]]
    """Type -> homogeneous id of its first node, per host."""
    host_starts: tuple[int, ...]
    """Homogeneous id of each host's first node, then the count; hosts + 1."""
    edge_bounds: tuple[np.ndarray, ...]
    """Per relation, int64 hosts + 1: its first edge on each host, then the count."""
    edge_starts: tuple[tuple[int, ...], ...]
    """Per relation and host, the homogeneous id of its first edge."""


def layout_of(manifest: PartitionManifest, graph: StoredGraph) -> Layout:
    """Types in the manifest's order, relations in the graph's."""
    ranges = tuple(
        {t.name: manifest.host_range(t.name, host) for t in manifest.node_types}
        for host in range(manifest.hosts)
    )
    nodes = [sum(last - first for first, last in mine.values()) for mine in ranges]
    bounds = tuple(r.bounds(graph.numbering.host_bounds(r.info.destination)) for r in graph.relations)
    sizes = [int(b[host + 1] - b[host]) for host in range(manifest.hosts) for b in bounds]
    flat = [0, *accumulate(sizes)]
    starts = tuple(
        tuple(flat[host * len(bounds) + index] for host in range(manifest.hosts))
        for index in range(len(bounds))
    )
    return Layout(ranges, manifest.homogeneous_starts(), (0, *accumulate(nodes)), bounds, starts)


def graph_json(manifest: PartitionManifest, graph: StoredGraph, layout: Layout) -> dict[str, Any]:
    """DGL's partition configuration."""
    hosts = range(manifest.hosts)
    node_map = {}
    for node_type in manifest.node_types:
        spans = []
        for host in hosts:
            first, last = layout.node_ranges[host][node_type.name]
            start = layout.node_starts[node_type.name][host]
            spans.append([start, start + last - first])
        node_map[node_type.name] = spans
    edge_map = {}
    for relation, bounds, starts in zip(graph.relations, layout.edge_bounds, layout.edge_starts, strict=True):
        edge_map[key_of(relation.info)] = [
            [starts[host], starts[host] + int(bounds[host + 1] - bounds[host])] for host in hosts
        ]
    return {
        "graph_name": manifest.graph_name,
        "num_nodes": layout.host_starts[-1],
        "num_edges": sum(r.info.count for r in graph.relations),
        "part_method": manifest.options["method"],
        "num_parts": manifest.hosts,
        "halo_hops": 1,
        "node_map": node_map,
        "edge_map": edge_map,
        "ntypes": {t.name: index for index, t in enumerate(manifest.node_types)},
        "etypes": {key_of(relation.info): index for index, relation in enumerate(graph.relations)},
        **{
            f"part-{host}": {
                "node_feats": f"part{host}/node_feat.dgl",
                "edge_feats": f"part{host}/edge_feat.dgl",
                "part_graph": f"part{host}/graph.dgl",
            }
            for host in hosts
        },
    }


def key_of(relation: RelationInfo) -> str:
    """What DGL's files call it."""
    return f"{relation.source}:{relation.name}:{relation.destination}"
