"""A stored graph -> DGL 1.1.3's distributed files, token files, id maps and target files, host by host.

Owns the layout inside a partition folder. Never decides where a node lives, and never publishes. In memory:
what each node has a few bytes of, a piece of anything else, and one array of a host's while DGL saves it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from partition import token_lists
from partition.arrays import gathered, pieces, write_npy
from partition.dgl_files import save_features, save_graph
from partition.errors import UsageError
from partition.layout import Layout, graph_json, key_of, layout_of
from partition.local_graph import local_graph
from partition.manifest import PartitionManifest
from partition.memory import size_words
from partition.stored import StoredGraph
from partition.stored_edges import StoredTargets

_LEAST_MEMORY, _HELD = 1 << 26, 100_000_000
"""Bytes that DGL may take in any case, and those that are held beside."""


def write_parts(
    folder: Path,
    manifest: PartitionManifest,
    graph: StoredGraph,
    *,
    memory: int,
    done: Collection[int] = (),
    finished: Callable[[int], None] = lambda host: None,
) -> None:
    """Write all but the manifest and what is there already; OSError with ENOSPC if the disk is full.

    Hosts in `done` are passed over; `finished` is called after each of the others. A file that is there is
    linked from another partition (links.py): to write into it would change both.
    UsageError where what DGL copies at a time takes more than `memory` bytes.
    """
    layout = layout_of(manifest, graph)
    for host in range(manifest.hosts):
        _check_memory(manifest, graph, layout, host, memory)
    (folder / "graph.json").write_text(json.dumps(graph_json(manifest, graph, layout), indent=1))
    for host in range(manifest.hosts):
        if host in done:
            continue
        part = folder / f"part{host}"
        part.mkdir(exist_ok=True)
        _write_graph(part, graph, layout, host)
        _write_node_features(part, graph, layout, host)
        _write_edge_features(part, graph, layout, host)
        _write_tokens(part, graph, layout, host)
        _write_ids(part, graph, layout, host)
        _write_node_targets(part, graph, layout, host)
        _write_edge_targets(part, manifest, graph, layout, host)
        finished(host)


def _check_memory(
    manifest: PartitionManifest, graph: StoredGraph, layout: Layout, host: int, memory: int
) -> None:
    """UsageError for a host too large to be saved: DGL copies each of its arrays meanwhile (dgl_files.py)."""
    edges = [int(bounds[host + 1] - bounds[host]) for bounds in layout.edge_bounds]
    sizes = {f"{sum(edges):,} edges": 8 * sum(edges)}
    for name, (first, last) in layout.node_ranges[host].items():
        width = manifest.node_type(name).feature_width
        sizes[f"features of {last - first:,} nodes {name}"] = 4 * width * (last - first)
    for relation, count in zip(graph.relations, edges, strict=True):
        info = relation.info
        sizes[f"features of {count:,} edges {info.name}"] = 4 * info.feature_width * count
    what = max(sizes, key=lambda name: sizes[name])
    if sizes[what] > max(memory - _HELD, _LEAST_MEMORY):
        raise UsageError(
            f"host {host} of {manifest.hosts} gets {what}: to write them takes {size_words(sizes[what])} "
            f"of memory, more than {size_words(memory)}",
            hint="give a higher --hosts, or a higher --memory",
        )


@contextmanager
def _scratch(graph: StoredGraph) -> Iterator[Path]:
    """A folder for arrays of one file, gone afterwards."""
    folder = graph.folder / "part.scratch"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _write_graph(part: Path, graph: StoredGraph, layout: Layout, host: int) -> None:
    if not (path := part / "graph.dgl").exists():
        with _scratch(graph) as scratch:
            save_graph(path, local_graph(scratch, graph, layout, host))


def _write_node_features(part: Path, graph: StoredGraph, layout: Layout, host: int) -> None:
    if (path := part / "node_feat.dgl").exists():
        return
    features: dict[str, np.ndarray] = {}
    with _scratch(graph) as scratch:
        for name, table in graph.nodes.items():
            rows = _rows(graph, layout, host, name)
            if table.features is not None:
                features[f"{name}/feat"] = gathered(scratch / name, table.features, rows)
            if table.labels is not None:
                features[f"{name}/label"] = table.labels[rows]
        save_features(path, features)


def _write_edge_features(part: Path, graph: StoredGraph, layout: Layout, host: int) -> None:
    if (path := part / "edge_feat.dgl").exists():
        return
    features: dict[str, np.ndarray] = {}
    with _scratch(graph) as scratch:
        for relation, bounds in zip(graph.relations, layout.edge_bounds, strict=True):
            if relation.features is not None and relation.rows is not None:
                rows = relation.rows[slice(*bounds[host : host + 2].tolist())]
                found = gathered(scratch / relation.info.name, relation.features, rows)
                features[f"{key_of(relation.info)}/feat"] = found
        save_features(path, features)


def _rows(graph: StoredGraph, layout: Layout, host: int, node_type: str) -> np.ndarray:
    """int64, row in the tables of each of a host's nodes, by id."""
    return graph.numbering.rows[node_type][slice(*layout.node_ranges[host][node_type])]


def _write_tokens(part: Path, graph: StoredGraph, layout: Layout, host: int) -> None:
    for name, lists in graph.tokens.items():
        (part / "tokens").mkdir(exist_ok=True)
        rows = _rows(graph, layout, host, name)
        offsets = np.concatenate([[0], np.cumsum(lists.lengths(rows))]).astype(np.int64)
        if not (path := part / "tokens" / f"{name}.offsets.npy").exists():
            np.save(path, offsets)
        if (path := part / "tokens" / f"{name}.values.npy").exists():
            continue
        blocks = (lists.of(rows[mine]) for mine in pieces(0, len(rows), token_lists.TEXTS))
        write_npy(path, lists.values.dtype, (int(offsets[-1]),), blocks)


def _write_ids(part: Path, graph: StoredGraph, layout: Layout, host: int) -> None:
    for name, table in graph.nodes.items():
        rows = _rows(graph, layout, host, name)

        def columns(mine: slice, ids: pa.Array = table.ids, rows: np.ndarray = rows) -> dict[str, Any]:
            return {"id": ids.take(pa.array(rows[mine]))}

        _write_table(part / "ids" / f"{name}.parquet", 0, len(rows), columns)


def _write_node_targets(part: Path, graph: StoredGraph, layout: Layout, host: int) -> None:
    for name, table in graph.nodes.items():
        splits, labels = table.splits, table.labels
        if labels is None or splits is None:
            continue
        first = layout.node_ranges[host][name][0]
        rows = _rows(graph, layout, host, name)
        ids = first + np.flatnonzero((splits[rows] >= 0) & (labels[rows] >= 0))
        rows = rows[ids - first]
        values = {"id": ids, "split": splits[rows], "label": labels[rows]}

        def columns(mine: slice, values: Mapping[str, np.ndarray] = values) -> dict[str, Any]:
            return {key: of[mine] for key, of in values.items()}

        _write_table(part / "targets" / "nodes" / f"{name}.parquet", 0, len(ids), columns)


def _write_edge_targets(
    part: Path, manifest: PartitionManifest, graph: StoredGraph, layout: Layout, host: int
) -> None:
    for name, targets in graph.targets.items():
        node_type = manifest.relation(name).destination

        def columns(mine: slice, targets: StoredTargets = targets) -> dict[str, Any]:
            some = targets.between(mine.start, mine.stop)
            values: dict[str, Any] = {
                "source": some.source,
                "destination": some.destination,
                "split": some.split,
                "label": some.label,
            }
            if some.features is not None:
                values["features"] = _lists(some.features)
            return values

        first, last = targets.bounds(np.array(layout.node_ranges[host][node_type])).tolist()
        _write_table(part / "targets" / "edges" / f"{name}.parquet", first, last, columns)


def _write_table(path: Path, first: int, last: int, columns: Callable[[slice], Mapping[str, Any]]) -> None:
    """Some rows of a table, a row group at a time, as pyarrow parts a whole table by itself."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        return
    schema = pa.table(columns(slice(first, first))).schema
    with pq.ParquetWriter(path, schema) as writer:
        for mine in pieces(first, last):
            writer.write_table(pa.table(columns(mine)))


def _lists(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
