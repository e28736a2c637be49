"""The tables' own ids of learnable rows, beside the rows of a stage's model.

Owns their files. By them rows find their nodes again when the partition that they were trained on is gone,
or was built again with other ids. Never looks into a partition.
"""

from __future__ import annotations

import glob
import itertools
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from partition.errors import StoreError
from pipeline.durable import naming_full_disk


def save_row_ids(folder: Path, part: int, node_type: str, ids: pa.Array) -> None:
    """Write the ids (int64 or large_string) of a part's nodes, in the order of its rows."""
    path = folder / _name(part, node_type)
    with naming_full_disk(path):
        pq.write_table(pa.table({"id": ids}), path)


def saved_row_ids(model: Path, node_type: str) -> list[pa.Array]:
    """The ids of each part of a type, of all ranks of a model; empty if it holds none."""
    return list(_each_part(model, node_type))


def _each_part(model: Path, node_type: str) -> Iterator[pa.Array]:
    for part in itertools.count():
        found = sorted(model.glob(f"rank-*/{glob.escape(_name(part, node_type))}"))
        if not found:
            return
        try:
            yield pq.read_table(found[0])["id"].combine_chunks()
        except (OSError, pa.ArrowException, KeyError) as error:
            raise StoreError(f"{found[0]} cannot be read: {error}") from error


def _name(part: int, node_type: str) -> str:
    return f"part-{part}.{node_type}.ids.parquet"
