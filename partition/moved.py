"""The map from the ids in a partition's parent to its own, for caches, embeddings and models that go along.

Owns `partH/moved/TYPE.parquet`. Never decides where a node lives.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from partition.errors import StoreError
from partition.manifest import PartitionManifest


def write_moved(
    folder: Path, manifest: PartitionManifest, moved: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    """`partH/moved/TYPE.parquet`: what id each node of a host has here and had in the parent.

    `moved` is type -> (old, new), int64 each, by new id; nodes that the parent does not know are left out.
    """
    for name, (old, new) in moved.items():
        for host in range(manifest.hosts):
            first, last = np.searchsorted(new, manifest.host_range(name, host))
            path = folder / f"part{host}" / "moved" / f"{name}.parquet"
            path.parent.mkdir(exist_ok=True)
            pq.write_table(pa.table({"old": old[first:last], "new": new[first:last]}), path)


def read_moved(folder: str | Path, host: int, node_type: str) -> tuple[np.ndarray, np.ndarray]:
    """(old, new) ids, int64, of a host's nodes that the parent knows, by new id.

    Only of partitions whose ids are not the parent's: those extended or regrouped.
    """
    path = Path(folder) / f"part{host}" / "moved" / f"{node_type}.parquet"
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise StoreError(
            f"{path}: no such file",
            hint="a partition cut afresh has none; one that was kept has the ids of its parent",
        ) from None
    return table["old"].to_numpy(), table["new"].to_numpy()
