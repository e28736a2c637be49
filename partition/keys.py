"""Content keys: what of a request's input is the same as an earlier one's, part by part.

Owns which parts there are and what goes into their hashes. Never reads a table, never decides what to reuse.

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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from partition.manifest import FORMAT_VERSION
from partition.room import Room
from partition.spill import Records, in_order
from partition.stored import MessageEdges
from partition.tables import GraphTables, NodeTable

CUT_OPTIONS = ("cluster_size", "method", "seed", "even")
"""Besides hosts and trainers."""
_ROWS = 1 << 16
"""Of a column of ids or texts, hashed at once."""


def content_keys(
    tables: GraphTables,
    edges: Sequence[MessageEdges],
    options: Mapping[str, Any],
    *,
    tokenizer: str,
    room: Room,
) -> dict[str, str]:
    """Name -> sha256; `edges` are those that messages may use, sorted in the folder of `room`.

    `tokenizer` is the fingerprint of its files, empty where texts are left out.
    """
    keys = {"graph": _graph(tables, edges, room)}
    keys["structure"] = _hash(keys["graph"], levels(options), [options[name] for name in CUT_OPTIONS])
    relations = [
        [edge.table.schema.name, edge.table.schema.reverse_name(default=options["reverse"])] for edge in edges
    ]
    keys["layout"] = _hash(keys["structure"], FORMAT_VERSION, options["hosts"], relations)
    for name, node in tables.nodes.items():
        if tokenizer and node.texts is not None:
            keys[f"nodes/{name}/tokenizer"] = tokenizer_key(tokenizer, options["max_length"])
            keys[f"nodes/{name}/tokens"] = _hash(node.ids, node.texts, tokenizer, options["max_length"])
        for what, values in _node_columns(node).items():
            keys[f"nodes/{name}/{what}"] = _hash(*values)
    for edge in edges:
        for what, streams in _edge_columns(edge).items():
            keys[f"edges/{edge.table.schema.name}/{what}"] = _hash(*streams)
    return keys


def tokenizer_key(fingerprint: str, max_length: int) -> str:
    """Of a node type whose texts become tokens."""
    return _hash(fingerprint, max_length)


def levels(options: Mapping[str, Any]) -> list[int]:
    """Blocks of the levels above clusters; one of one block changes nothing, so it is left out."""
    return [blocks for blocks in (options["hosts"], options["trainers"]) if blocks > 1]


@dataclass(frozen=True)
class _Stream:
    """An array that comes in chunks and is hashed like a whole one."""

    dtype: Any
    shape: tuple[int, ...]
    chunks: Iterable[np.ndarray]


def _graph(tables: GraphTables, edges: Sequence[MessageEdges], room: Room) -> str:
    parts: list[Any] = []
    for name, node in tables.nodes.items():
        parts += [name, node.ids]
    for edge in edges:
        schema = edge.table.schema
        # In the order of their ends: that of the table changes neither the cut nor what is stored.
        ends = _sorted_ends(tables, edge, room)
        parts += [
            schema.name,
            schema.source,
            schema.destination,
            _Stream(np.dtype(np.int64), (edge.count,), ends),
        ]
    return _hash(*parts)


def _sorted_ends(tables: GraphTables, edge: MessageEdges, room: Room) -> Iterator[np.ndarray]:
    """int64, ascending: source x nodes of the destination's type + destination."""
    schema = edge.table.schema
    width = len(tables.nodes[schema.destination].ids)

    def records() -> Iterator[Records]:
        return (Records(source, destination) for source, destination in edge.ends())

    assert room.folder is not None
    count = len(tables.nodes[schema.source].ids)
    for _, _, keys, counts in in_order(room.folder, count, records, range_records=room.spilled):
        ends = (keys >> 32) * width + (keys & 0xFFFFFFFF)
        yield np.repeat(ends, counts)


def _node_columns(node: NodeTable) -> dict[str, list[np.ndarray]]:
    columns = {}
    if node.features is not None:
        columns["features"] = [node.features]
    if node.labels is not None:
        columns["labels"] = [node.labels]
        if node.splits is not None:
            columns["targets"] = [node.labels, node.splits]
    return columns


def _edge_columns(edge: MessageEdges) -> dict[str, list[_Stream]]:
    table = edge.table
    columns = {}
    if table.features is not None:
        every = (table.source, table.destination, table.features)
        columns["features"] = [_chosen(values, edge.rows, edge.count) for values in every]
    if (splits := table.splits) is not None:

        def asked() -> Iterator[np.ndarray]:
            return (rows[splits[rows] >= 0] for rows in table.rows(held_out=True))

        count = sum(len(rows) for rows in asked())
        given = (table.source, table.destination, splits, table.labels, table.features)
        columns["targets"] = [_chosen(values, asked, count) for values in given if values is not None]
    return columns


def _chosen(values: np.ndarray, rows: Callable[[], Iterator[np.ndarray]], count: int) -> _Stream:
    return _Stream(values.dtype, (count, *values.shape[1:]), (values[some] for some in rows()))


def _hash(*parts: Any) -> str:
    """sha256 over arrays (with their types and shapes) and whatever JSON can hold."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}\n".encode())
            digest.update(np.ascontiguousarray(part).data)
        elif isinstance(part, _Stream):
            digest.update(f"{part.dtype}{part.shape}\n".encode())
            for chunk in part.chunks:
                digest.update(np.ascontiguousarray(chunk).data)
        elif isinstance(part, pa.Array):
            digest.update(f"{part.type} {len(part)}\n".encode())
            for start in range(0, len(part), _ROWS):
                rows = part.slice(start, _ROWS)
                digest.update(pa.RecordBatch.from_arrays([rows], ["values"]).serialize())
        else:
            digest.update(json.dumps(part).encode() + b"\n")
    return digest.hexdigest()
