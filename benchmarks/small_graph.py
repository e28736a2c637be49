"""A small graph cut out of a large one for runs on few cores: nodes around a few random ones, without the
test rows of the large one.

Owns which nodes and rows stay. Reads and writes Parquet tables in local folders; never changes the large
graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from partition.request import GRAPH_FILE
from partition.schema import EdgeSchema, GraphSchema, NodeSchema, parse_schema

_STARTS = 20
_TAKEN = 8
"""Neighbours that a node brings along: those of a few hubs would else be most of the graph."""
_KEYS = ("id", "text", "label", "split", "source", "destination", "source_id", "destination_id")

Ids = np.ndarray
"""int64 N."""


@dataclass(frozen=True)
class Cut:
    """What to keep of a large graph."""

    core: str
    """Node type with integer ids; nodes of other types stay where a core node touches them."""
    size: int
    """Core nodes."""
    around: tuple[str, ...]
    """Relations within the core along which neighbours are taken."""
    relations: tuple[str, ...]
    """That stay."""
    valid: int
    """Validation edges of each relation, and validation nodes, at most."""


def cut_out(graph: Path, folder: Path, cut: Cut) -> None:
    """Write a part of a graph as tables and, last, graph.toml into `folder`.

    Surplus validation targets and all test rows are left out (of edges the row, of nodes the split), so that
    no figure of a test split can come of it.
    """
    schema = parse_schema((graph / GRAPH_FILE).read_text(), where=str(graph / GRAPH_FILE))
    schema = schema.select(cut.relations)
    core = next(node for node in schema.nodes if node.name == cut.core)
    edges = [(edge, _read(graph, edge)) for edge in schema.edges]
    ids = _read(graph, core)[core.id].to_numpy()
    around = [pair for pair in edges if pair[0].name in cut.around]
    kept = {cut.core: pa.array(_snowball(ids, around, cut.size))}
    for edge, table in edges:
        for near, far in (("source", "destination"), ("destination", "source")):
            if getattr(edge, near) == cut.core and (other := getattr(edge, far)) != cut.core:
                touched = _among(table, getattr(edge, f"{near}_id"), kept[cut.core])
                found = touched[getattr(edge, f"{far}_id")].unique()
                kept[other] = pa.concat_arrays([kept[other], found]) if other in kept else found
    nodes = tuple(node for node in schema.nodes if node.name in kept)
    for node in nodes:
        table = _among(_read(graph, node), node.id, kept[node.name]).select(list(node.columns))
        _write(folder / "nodes" / f"{node.name}.parquet", _without_splits(table, node.split, cut.valid))
    for edge, table in edges:
        table = _among(table, edge.source_id, kept[edge.source])
        table = _among(table, edge.destination_id, kept[edge.destination]).select(list(edge.columns))
        _write(folder / "edges" / f"{edge.name}.parquet", _without_rows(table, edge.split, cut.valid))
    (folder / GRAPH_FILE).write_text(_toml(GraphSchema(schema.name, nodes, schema.edges)))


def _read(graph: Path, table: NodeSchema | EdgeSchema) -> pa.Table:
    return pa.concat_tables([pq.read_table(graph / path) for path in table.path])


def _among(table: pa.Table, column: str, ids: pa.Array) -> pa.Table:
    return table.filter(pc.is_in(table[column], ids))


def _snowball(ids: Ids, edges: Sequence[tuple[EdgeSchema, pa.Table]], size: int) -> Ids:
    """Of integer ids: random nodes, up to _TAKEN random neighbours of each, theirs, and so on; sorted."""
    ids, draws = np.sort(ids), np.random.default_rng(0)
    sources = np.concatenate([np.searchsorted(ids, table[e.source_id].to_numpy()) for e, table in edges])
    others = np.concatenate([np.searchsorted(ids, table[e.destination_id].to_numpy()) for e, table in edges])
    near, far = np.concatenate([sources, others]), np.concatenate([others, sources])
    far = far[np.argsort(near, kind="stable")]
    first = np.searchsorted(np.sort(near), np.arange(len(ids) + 1))
    chosen: dict[int, None] = {}
    fresh: list[int] = []
    while len(chosen) < min(size, len(ids)):
        fresh = fresh or draws.permutation(len(ids))[:_STARTS].tolist()
        chosen.update(dict.fromkeys(fresh))
        found = [draws.permutation(np.unique(far[first[n] : first[n + 1]]))[:_TAKEN] for n in fresh]
        fresh = [n for n in dict.fromkeys(np.concatenate(found).tolist()) if n not in chosen]
    return ids[np.sort(np.array(list(chosen)[:size]))]


def _without_splits(nodes: pa.Table, split: str, valid: int) -> pa.Table:
    if not split:
        return nodes
    values = nodes[split].to_pylist()
    for row in _unwanted(values, valid):
        values[row] = ""
    return nodes.set_column(nodes.schema.get_field_index(split), split, pa.array(values, pa.string()))


def _without_rows(edges: pa.Table, split: str, valid: int) -> pa.Table:
    if not split:
        return edges
    unwanted = _unwanted(edges[split].to_pylist(), valid)
    return edges.take(pa.array([row for row in range(len(edges)) if row not in unwanted], pa.int64()))


def _unwanted(splits: Sequence[str | None], valid: int) -> set[int]:
    """Rows of test targets and, drawn at random, of validation targets beyond `valid`."""
    held_out = [row for row, value in enumerate(splits) if value == "valid"]
    surplus = np.random.default_rng(1).permutation(held_out)[valid:].tolist()
    return {row for row, value in enumerate(splits) if value == "test"} | set(surplus)


def _write(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def _toml(schema: GraphSchema) -> str:
    lines = [f'name = "{schema.name}"']
    for kind, tables in (("nodes", schema.nodes), ("edges", schema.edges)):
        for table in tables:
            lines += ["", f"[{kind}.{table.name}]", f'path = "{kind}/{table.name}.parquet"']
            given: Mapping[str, object] = vars(table)
            lines += [f'{key} = "{given[key]}"' for key in _KEYS if given.get(key)]
    return "\n".join(lines) + "\n"
