"""Content keys: what of a request's input is the same as an earlier one's, part by part.

Owns which parts there are and what goes into their hashes. Never reads a file, never decides what to reuse.

    graph                  ids of all nodes and edges that messages may use
    structure              graph, and the options that steer the cut
    layout                 structure, number of hosts, relations that are stored: what graph.dgl is made of
    nodes/TYPE/tokenizer   its files, and the length that texts are cut at
    nodes/TYPE/tokens      tokenizer, ids and texts
    nodes/TYPE/features    and nodes/TYPE/labels, nodes/TYPE/targets (labels and splits)
    edges/RELATION/features, edges/RELATION/targets (ends, splits, labels and features of the targets)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from partition.manifest import FORMAT_VERSION
from partition.tables import EdgeTable, GraphTables, NodeTable

CUT_OPTIONS = ("cluster_size", "method", "seed", "even")
"""Besides hosts and trainers."""
_ROWS = 1 << 16
"""Of a column of ids or texts, hashed at once."""


def content_keys(
    tables: GraphTables,
    edges: Sequence[tuple[EdgeTable, np.ndarray]],
    options: Mapping[str, Any],
    *,
    tokenizer: str,
) -> dict[str, str]:
    """Name -> sha256; `edges` are relations with their rows that messages may use.

    `tokenizer` is the fingerprint of its files, empty where texts are left out.
    """
    keys = {"graph": _graph(tables, edges)}
    keys["structure"] = _hash(keys["graph"], levels(options), [options[name] for name in CUT_OPTIONS])
    relations = [
        [edge.schema.name, edge.schema.reverse_name(default=options["reverse"])] for edge, _ in edges
    ]
    keys["layout"] = _hash(keys["structure"], FORMAT_VERSION, options["hosts"], relations)
    for name, node in tables.nodes.items():
        if tokenizer and node.texts is not None:
            keys[f"nodes/{name}/tokenizer"] = tokenizer_key(tokenizer, options["max_length"])
            keys[f"nodes/{name}/tokens"] = _hash(node.ids, node.texts, tokenizer, options["max_length"])
        for what, values in _node_columns(node).items():
            keys[f"nodes/{name}/{what}"] = _hash(*values)
    for edge, rows in edges:
        for what, values in _edge_columns(edge, rows).items():
            keys[f"edges/{edge.schema.name}/{what}"] = _hash(*values)
    return keys


def tokenizer_key(fingerprint: str, max_length: int) -> str:
    """Of a node type whose texts become tokens."""
    return _hash(fingerprint, max_length)


def levels(options: Mapping[str, Any]) -> list[int]:
    """Blocks of the levels above clusters; one of one block changes nothing, so it is left out."""
    return [blocks for blocks in (options["hosts"], options["trainers"]) if blocks > 1]


def _graph(tables: GraphTables, edges: Sequence[tuple[EdgeTable, np.ndarray]]) -> str:
    parts: list[Any] = []
    for name, node in tables.nodes.items():
        parts += [name, node.ids]
    for edge, rows in edges:
        # In the order of their ends: that of the table changes neither the cut nor what is stored.
        ends = edge.source[rows] * len(tables.nodes[edge.schema.destination].ids) + edge.destination[rows]
        parts += [edge.schema.name, edge.schema.source, edge.schema.destination, np.sort(ends)]
    return _hash(*parts)


def _node_columns(node: NodeTable) -> dict[str, list[np.ndarray]]:
    columns = {}
    if node.features is not None:
        columns["features"] = [node.features]
    if node.labels is not None:
        columns["labels"] = [node.labels]
        if node.splits is not None:
            columns["targets"] = [node.labels, node.splits]
    return columns


def _edge_columns(edge: EdgeTable, rows: np.ndarray) -> dict[str, list[np.ndarray]]:
    columns = {}
    if edge.features is not None:
        columns["features"] = [edge.source[rows], edge.destination[rows], edge.features[rows]]
    if edge.splits is not None:
        asked = np.flatnonzero(edge.splits >= 0)
        every = (edge.source, edge.destination, edge.splits, edge.labels, edge.features)
        columns["targets"] = [values[asked] for values in every if values is not None]
    return columns


def _hash(*parts: Any) -> str:
    """sha256 over arrays (with their types and shapes) and whatever JSON can hold."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}\n".encode())
            digest.update(np.ascontiguousarray(part).data)
        elif isinstance(part, pa.Array):
            digest.update(f"{part.type} {len(part)}\n".encode())
            for start in range(0, len(part), _ROWS):
                rows = part.slice(start, _ROWS)
                digest.update(pa.RecordBatch.from_arrays([rows], ["values"]).serialize())
        else:
            digest.update(json.dumps(part).encode() + b"\n")
    return digest.hexdigest()
