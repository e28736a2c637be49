"""The tables of a benchmark graph, written chunk by chunk, and the parts that our partitioner made of them.

Owns the form in which `partition build` gets a graph that DGL's job gets as tensors: one node type, one
relation in one direction, integer ids, no text.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.stream_graph import CHUNK_EDGES
from partition.manifest import PartitionManifest

GRAPH_TOML = """
name = "stream"
[nodes.node]
path = "nodes.parquet"
[edges.joined]
path = "edges.parquet"
source = "node"
destination = "node"
reverse = false
"""


def write_tables(folder: Path, nodes: int, edges: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """`folder`/tables; ids are 0 to `nodes`, `edges` chunks of both ends."""
    tables = folder / "tables"
    shutil.rmtree(tables, ignore_errors=True)  # of a run that was stopped
    tables.mkdir()
    (tables / "graph.toml").write_text(GRAPH_TOML)
    ids = pa.schema([("id", pa.int64())])
    with pq.ParquetWriter(tables / "nodes.parquet", ids) as writer:
        for start in range(0, nodes, CHUNK_EDGES):
            some = np.arange(start, min(start + CHUNK_EDGES, nodes))
            writer.write_table(pa.table([some], schema=ids))
    ends = pa.schema([("src_id", pa.int64()), ("dst_id", pa.int64())])
    with pq.ParquetWriter(tables / "edges.parquet", ends) as writer:
        for chunk in edges:
            writer.write_table(pa.table([pa.array(end.astype(np.int64)) for end in chunk], schema=ends))


def part_of_nodes(partition: Path) -> np.ndarray:
    """int64, part (host and trainer) of each node of the tables."""
    manifest = PartitionManifest.load(partition)
    part = np.empty(manifest.node_type("node").count, dtype=np.int64)
    for host in range(manifest.hosts):
        ids = pq.read_table(partition / f"part{host}" / "ids" / "node.parquet")["id"].to_numpy()
        parts = np.arange(host * manifest.trainers, (host + 1) * manifest.trainers)
        sizes = [last - first for first, last in (manifest.part_range("node", int(p)) for p in parts)]
        part[ids] = np.repeat(parts, sizes)
    return part
