"""A stored graph -> DGL 1.1.3's distributed files, token files, id maps and target files, host by host.

Owns the layout inside a partition folder. Never decides where a node lives, and never publishes.
Homogeneous node ids follow (host, type, trainer, cluster), edge ids (host of the destination, relation,
destination, source). A local graph has its inner nodes first, then the sources that live elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import dgl
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from dgl.data.utils import load_graphs, load_tensors, save_graphs, save_tensors

from partition.errors import StoreError
from partition.manifest import PartitionManifest
from partition.stored import StoredGraph, StoredRelation

_FULL_BYTES = 1 << 20
"""With less than this free, DGL's failed write is put down to a full disk."""


@dataclass(frozen=True)
class _Layout:
    """Where hosts, types and relations begin among the homogeneous ids."""

    node_starts: Mapping[str, tuple[int, ...]]
    """Type -> homogeneous id of its first node, per host."""
    host_starts: tuple[int, ...]
    """Homogeneous id of each host's first node, then the count; hosts + 1."""
    edge_bounds: tuple[np.ndarray, ...]
    """Per relation, int64 hosts + 1: its first edge on each host, then the count."""
    edge_starts: tuple[tuple[int, ...], ...]
    """Per relation and host, the homogeneous id of its first edge."""


def write_parts(folder: Path, manifest: PartitionManifest, graph: StoredGraph) -> None:
    """Write all but the manifest and what is there already; OSError with ENOSPC if the disk is full.

    A file that is there is linked from another partition (links.py): to write into it would change both.
    """
    layout = _layout(manifest, graph)
    (folder / "graph.json").write_text(json.dumps(_graph_json(manifest, graph, layout), indent=1))
    for host in range(manifest.hosts):
        part = folder / f"part{host}"
        part.mkdir(exist_ok=True)
        _write_graph(part, manifest, graph, layout, host)
        _write_node_features(part, manifest, graph, host)
        _write_edge_features(part, graph, layout, host)
        _write_tokens(part, manifest, graph, host)
        _write_ids(part, manifest, graph, host)
        _write_node_targets(part, manifest, graph, host)
        _write_edge_targets(part, manifest, graph, host)


def _layout(manifest: PartitionManifest, graph: StoredGraph) -> _Layout:
    bounds = tuple(
        np.searchsorted(r.destination, graph.numbering.host_bounds(r.info.destination))
        for r in graph.relations
    )
    sizes = [int(b[host + 1] - b[host]) for host in range(manifest.hosts) for b in bounds]
    flat = [0, *accumulate(sizes)]
    starts = tuple(
        tuple(flat[host * len(bounds) + index] for host in range(manifest.hosts))
        for index in range(len(bounds))
    )
    nodes = [
        sum(last - first for first, last in (manifest.host_range(t.name, host) for t in manifest.node_types))
        for host in range(manifest.hosts)
    ]
    return _Layout(manifest.homogeneous_starts(), (0, *accumulate(nodes)), bounds, starts)


def _graph_json(manifest: PartitionManifest, graph: StoredGraph, layout: _Layout) -> dict[str, Any]:
    hosts = range(manifest.hosts)
    node_map = {}
    for node_type in manifest.node_types:
        spans = []
        for host in hosts:
            first, last = manifest.host_range(node_type.name, host)
            start = layout.node_starts[node_type.name][host]
            spans.append([start, start + last - first])
        node_map[node_type.name] = spans
    edge_map = {}
    for relation, bounds, starts in zip(graph.relations, layout.edge_bounds, layout.edge_starts, strict=True):
        edge_map[_key(relation)] = [
            [starts[host], starts[host] + int(bounds[host + 1] - bounds[host])] for host in hosts
        ]
    return {
        "graph_name": manifest.graph_name,
        "num_nodes": layout.host_starts[-1],
        "num_edges": sum(len(r.source) for r in graph.relations),
        "part_method": manifest.options["method"],
        "num_parts": manifest.hosts,
        "halo_hops": 1,
        "node_map": node_map,
        "edge_map": edge_map,
        "ntypes": {t.name: index for index, t in enumerate(manifest.node_types)},
        "etypes": {_key(relation): index for index, relation in enumerate(graph.relations)},
        **{
            f"part-{host}": {
                "node_feats": f"part{host}/node_feat.dgl",
                "edge_feats": f"part{host}/edge_feat.dgl",
                "part_graph": f"part{host}/graph.dgl",
            }
            for host in hosts
        },
    }


def _write_graph(
    part: Path, manifest: PartitionManifest, graph: StoredGraph, layout: _Layout, host: int
) -> None:
    if (path := part / "graph.dgl").exists():
        return
    sources, destinations, relations, edge_ids = _host_edges(manifest, graph, layout, host)
    first, last = layout.host_starts[host], layout.host_starts[host + 1]
    # CSC sorted by relation: DGL's typed sampling takes that for granted.
    order = np.lexsort((edge_ids, relations, destinations))
    sources, destinations, relations, edge_ids = (
        array[order] for array in (sources, destinations, relations, edge_ids)
    )
    outside = (sources < first) | (sources >= last)
    halo = np.unique(sources[outside])
    local = np.where(outside, last - first + np.searchsorted(halo, sources), sources - first)
    nodes = np.concatenate([np.arange(first, last), halo])
    block = dgl.graph(
        (torch.from_numpy(local), torch.from_numpy(destinations - first)),
        num_nodes=len(nodes),
        idtype=torch.int64,
    )
    inner = torch.zeros(len(nodes), dtype=torch.uint8)
    inner[: last - first] = 1
    block.ndata[dgl.NID] = torch.from_numpy(nodes)
    block.ndata[dgl.NTYPE] = torch.from_numpy(_types_of(manifest, layout, nodes))
    block.ndata["inner_node"] = inner
    block.edata[dgl.EID] = torch.from_numpy(edge_ids)
    block.edata[dgl.ETYPE] = torch.from_numpy(relations)
    block.edata["inner_edge"] = torch.ones(len(edge_ids), dtype=torch.uint8)
    with _dgl_writing(path):
        save_graphs(str(path), [block], formats=["csc"])
        back = load_graphs(str(path))[0][0]
        if (back.num_nodes(), back.num_edges()) != (block.num_nodes(), block.num_edges()):
            raise StoreError(f"{path}: DGL reads back another graph than it wrote")


def _host_edges(
    manifest: PartitionManifest, graph: StoredGraph, layout: _Layout, host: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(source, destination, edge id: int64 homogeneous; relation: int32) of all edges into a host."""
    none = np.zeros(0, dtype=np.int64)
    sources, destinations, ids, relations = [none], [none], [none], [none.astype(np.int32)]
    for index, relation in enumerate(graph.relations):
        first, last = (int(b) for b in layout.edge_bounds[index][host : host + 2])
        info = relation.info
        sources.append(_homogeneous(graph, layout, info.source, relation.source[first:last]))
        destinations.append(_homogeneous(graph, layout, info.destination, relation.destination[first:last]))
        start = layout.edge_starts[index][host]
        ids.append(np.arange(start, start + last - first))
        relations.append(np.full(last - first, index, dtype=np.int32))
    return (
        np.concatenate(sources),
        np.concatenate(destinations),
        np.concatenate(relations),
        np.concatenate(ids),
    )


def _homogeneous(graph: StoredGraph, layout: _Layout, node_type: str, ids: np.ndarray) -> np.ndarray:
    bounds = graph.numbering.host_bounds(node_type)
    host = np.searchsorted(bounds, ids, side="right") - 1
    shift = np.asarray(layout.node_starts[node_type], dtype=np.int64) - bounds[:-1]
    return np.asarray(ids + shift[host])


def _types_of(manifest: PartitionManifest, layout: _Layout, nodes: np.ndarray) -> np.ndarray:
    """int16, index of each homogeneous id's node type."""
    names = [t.name for t in manifest.node_types]
    starts = [layout.node_starts[name][host] for host in range(manifest.hosts) for name in names]
    return ((np.searchsorted(starts, nodes, side="right") - 1) % len(names)).astype(np.int16)


def _write_node_features(part: Path, manifest: PartitionManifest, graph: StoredGraph, host: int) -> None:
    if (path := part / "node_feat.dgl").exists():
        return
    tensors: dict[str, torch.Tensor] = {}
    for name, table in graph.nodes.items():
        rows = graph.numbering.rows[name][slice(*manifest.host_range(name, host))]
        if table.features is not None:
            tensors[f"{name}/feat"] = torch.from_numpy(table.features[rows])
        if table.labels is not None:
            tensors[f"{name}/label"] = torch.from_numpy(table.labels[rows])
    _save_tensors(path, tensors)


def _write_edge_features(part: Path, graph: StoredGraph, layout: _Layout, host: int) -> None:
    if (path := part / "edge_feat.dgl").exists():
        return
    tensors: dict[str, torch.Tensor] = {}
    for relation, bounds in zip(graph.relations, layout.edge_bounds, strict=True):
        if relation.features is not None:
            features = relation.features[slice(*bounds[host : host + 2].tolist())]
            tensors[f"{_key(relation)}/feat"] = torch.from_numpy(np.ascontiguousarray(features))
    _save_tensors(path, tensors)


def _save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    with _dgl_writing(path):
        save_tensors(str(path), tensors)
        back = load_tensors(str(path))
        if {k: v.shape for k, v in back.items()} != {k: v.shape for k, v in tensors.items()}:
            raise StoreError(f"{path}: DGL reads back other tensors than it wrote")


def _write_tokens(part: Path, manifest: PartitionManifest, graph: StoredGraph, host: int) -> None:
    for name, lists in graph.tokens.items():
        (part / "tokens").mkdir(exist_ok=True)
        first, last = manifest.host_range(name, host)
        offsets = lists.offsets[first : last + 1]
        values = lists.values[offsets[0] : offsets[-1]]
        for kind, array in (("values", values), ("offsets", offsets - offsets[0])):
            path = part / "tokens" / f"{name}.{kind}.npy"
            if not path.exists():
                np.save(path, array)


def _write_ids(part: Path, manifest: PartitionManifest, graph: StoredGraph, host: int) -> None:
    for name, table in graph.nodes.items():
        rows = graph.numbering.rows[name][slice(*manifest.host_range(name, host))]
        original = table.ids.take(pa.array(rows))
        _write_table(part / "ids" / f"{name}.parquet", {"id": original})


def _write_node_targets(part: Path, manifest: PartitionManifest, graph: StoredGraph, host: int) -> None:
    for name, table in graph.nodes.items():
        if table.labels is None or table.splits is None:
            continue
        ids = np.sort(graph.numbering.ids[name][table.targets])
        first, last = np.searchsorted(ids, manifest.host_range(name, host))
        rows = graph.numbering.rows[name][ids[first:last]]
        columns: dict[str, Any] = {
            "id": ids[first:last],
            "split": table.splits[rows],
            "label": table.labels[rows],
        }
        _write_table(part / "targets" / "nodes" / f"{name}.parquet", columns)


def _write_edge_targets(part: Path, manifest: PartitionManifest, graph: StoredGraph, host: int) -> None:
    for name, targets in graph.targets.items():
        destination = manifest.relation(name).destination
        first, last = np.searchsorted(targets.destination, manifest.host_range(destination, host))
        columns: dict[str, Any] = {
            "source": targets.source[first:last],
            "destination": targets.destination[first:last],
            "split": targets.split[first:last],
            "label": targets.label[first:last],
        }
        if targets.features is not None:
            columns["features"] = _lists(targets.features[first:last])
        _write_table(part / "targets" / "edges" / f"{name}.parquet", columns)


def _write_table(path: Path, columns: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        pq.write_table(pa.table(columns), path)


def _lists(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _key(relation: StoredRelation) -> str:
    return f"{relation.info.source}:{relation.info.name}:{relation.info.destination}"


@contextlib.contextmanager
def _dgl_writing(path: Path) -> Iterator[None]:
    """Tell a full disk from other trouble.

    DGL says nothing of the last bytes lost when it closes a file on a full disk, so each file is read back.
    """
    try:
        yield
    except dgl.DGLError as error:
        if shutil.disk_usage(path.parent).free < _FULL_BYTES:
            raise OSError(errno.ENOSPC, "no space left on the device", str(path)) from error
        raise StoreError(f"{path}: DGL cannot write it: {str(error).splitlines()[0]}") from error
