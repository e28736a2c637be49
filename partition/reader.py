"""What a trainer or server opens of a finished partition besides DGL's own files.

Owns the paths and shapes of token, id and target files on the reading side. Never checks checksums (that is
store.verify) and never needs DGL.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from partition.errors import StoreError


@dataclass(frozen=True)
class NodeTargets:
    """Labelled nodes of one type on one host, by id."""

    id: np.ndarray
    """int64, new id."""
    split: np.ndarray
    """int8: 0 train, 1 valid, 2 test."""
    label: np.ndarray
    """int32."""


@dataclass(frozen=True)
class EdgeTargets:
    """Target edges of one relation whose destinations live on one host, by (destination, source, split)."""

    source: np.ndarray
    """int64, new id in the source type."""
    destination: np.ndarray
    split: np.ndarray
    label: np.ndarray
    """int32, -1 without one."""
    features: np.ndarray | None
    """float32 rows x width."""


def graph_config(folder: str | Path) -> Path:
    """The JSON file that DGL's load_partition and DistGraph take."""
    return Path(folder) / "graph.json"


def open_tokens(folder: str | Path, host: int, node_type: str) -> tuple[np.ndarray, np.ndarray]:
    """(values int16 or int32, offsets int64) of a host's nodes in id order, mapped into memory, not read."""
    stem = Path(folder) / f"part{host}" / "tokens" / node_type
    return _mapped(Path(f"{stem}.values.npy")), _mapped(Path(f"{stem}.offsets.npy"))


def read_ids(folder: str | Path, host: int, node_type: str) -> pa.Array:
    """Original ids (int64 or large_string) of a host's nodes in id order."""
    table = _table(Path(folder) / f"part{host}" / "ids" / f"{node_type}.parquet")
    return _column(table, "id")


def read_node_targets(folder: str | Path, host: int, node_type: str) -> NodeTargets:
    """Targets of a type with labels and splits; StoreError for a type without."""
    table = _table(Path(folder) / f"part{host}" / "targets" / "nodes" / f"{node_type}.parquet")
    return NodeTargets(*(_column(table, name).to_numpy() for name in ("id", "split", "label")))


def read_edge_targets(folder: str | Path, host: int, relation: str) -> EdgeTargets:
    """Targets of a relation that has some on any host; StoreError for a relation without."""
    table = _table(Path(folder) / f"part{host}" / "targets" / "edges" / f"{relation}.parquet")
    names = ("source", "destination", "split", "label")
    source, destination, split, label = (_column(table, name).to_numpy() for name in names)
    features = None
    if "features" in table.column_names:
        lists = _column(table, "features")
        features = lists.flatten().to_numpy().reshape(len(lists), lists.type.list_size)
    return EdgeTargets(source, destination, split, label, features)


def _mapped(path: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise StoreError(f"{path}: no such file", hint="does the node type have text?") from None
    return array


def _table(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except FileNotFoundError:
        raise StoreError(f"{path}: no such file", hint="the manifest says what a partition has") from None


def _column(table: pa.Table, name: str) -> pa.Array:
    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return column
