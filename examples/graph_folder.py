"""Writes a graph's folder, whole or not at all: tables, then graph.toml, then one rename.

Shared by the builders of the example graphs. Owns no graph.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def write_graph(
    out: Path, *, nodes: Mapping[str, pa.Table], edges: Mapping[str, pa.Table], toml: str
) -> None:
    """Make the folder `out` with nodes/NAME.parquet, edges/NAME.parquet and graph.toml."""
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}.{os.getpid()}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    try:
        for kind, tables in (("nodes", nodes), ("edges", edges)):
            (fresh / kind).mkdir()
            for name, table in tables.items():
                pq.write_table(table, fresh / kind / f"{name}.parquet")
        (fresh / "graph.toml").write_text(toml)
        for path in [*fresh.rglob("*"), fresh]:
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
        fresh.rename(out)  # fails if somebody filled `out` meanwhile
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def check_free(out: Path) -> None:
    """FileExistsError if something is in the folder to make."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is there already: remove it or name another folder")


def draw(key: str) -> float:
    """Number in [0, 1) that depends on the key alone: splits do not change with the order or with
    what else is in the graph."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def split_of(key: str, *, train: float, valid: float) -> str:
    """train, valid or test (the rest) with these shares."""
    drawn = draw(key)
    return "train" if drawn < train else "valid" if drawn < train + valid else "test"


def pair_split(source: str, destination: str, *, train: float, valid: float) -> str:
    """The same for an edge; both directions of a pair fall into the same split."""
    return split_of("\0".join(sorted((source, destination))), train=train, valid=valid)
