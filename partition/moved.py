"""The map from the ids in a partition's parent to its own, for embeddings that go along.

Owns `partH/moved/TYPE.parquet`, and how nodes are found again over several such maps. Never decides where a
node lives. Shape letter: N nodes of a type on a host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from partition.earlier import Earlier, places
from partition.errors import StoreError
from partition.manifest import PartitionManifest
from partition.reader import read_ids
from partition.store import check_files


@dataclass(frozen=True)
class Trace:
    """How the nodes of a partition are found in an earlier one of the same graph."""

    chain: tuple[Earlier, ...]
    """The partition, its parent and so on to the earlier one; one alone if both are the same."""
    by_own_ids: bool = False
    """No maps lead there: nodes are looked for by the tables' ids."""

    @property
    def now(self) -> Earlier:
        return self.chain[0]

    @property
    def before(self) -> Earlier:
        return self.chain[-1]


def write_moved(folder: Path, manifest: PartitionManifest, moved: Mapping[str, np.ndarray]) -> None:
    """`partH/moved/TYPE.parquet`: what id each node of a host has here and had in the parent.

    `moved` is type -> int32, old ids by new ones; nodes that the parent does not know (-1) are left out.
    """
    for name, by_id in moved.items():
        for host in range(manifest.hosts):
            first, last = manifest.host_range(name, host)
            old = by_id[first:last].astype(np.int64)
            known = np.flatnonzero(old >= 0)
            path = folder / f"part{host}" / "moved" / f"{name}.parquet"
            path.parent.mkdir(exist_ok=True)
            pq.write_table(pa.table({"old": old[known], "new": first + known}), path)


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


def trace(folder: Path, earlier_id: str, numbering: str = "") -> Trace:
    """The way from the partition in a folder to an earlier one that lies beside it.

    By the maps if that is its parent, or its parent's parent and so on; else, and where one between them was
    removed or built again with other ids, by the ids of the tables, which reads all of them.
    `numbering` is the earlier one's as it is known from then; empty if it is not.
    StoreError, saying what to do, without a way.
    """
    chain = [Earlier(folder, PartitionManifest.load(folder))]
    while not _is(chain[-1], earlier_id, numbering) and (parent := _parent(chain)) is not None:
        chain.append(parent)
    if _is(chain[-1], earlier_id, numbering):
        return Trace(tuple(chain))
    now, before = chain[0], _beside(folder, earlier_id)
    names = [place.manifest.schema_name for place in (now, before)]
    if names[0] != names[1] or not names[0]:
        raise StoreError(
            f"{earlier_id} is of another graph, {names[1]!r}, and this one of {names[0]!r}",
            hint="keep `name` in graph.toml as long as ids mean the same nodes",
        )
    if not _is(before, earlier_id, numbering):
        raise StoreError(
            f"{before.folder} has been built again since, and its nodes have other ids now",
            hint="bring back the partition as it was, if a store at a URL or a cache still has it",
        )
    return Trace((now, before), by_own_ids=True)


def ids_before(way: Trace, node_type: str, host: int) -> np.ndarray:
    """int64 N, id in the earlier partition of each node of a host of this one, by id here; -1 for a node that
    it does not have. StoreError where files are missing or not as they were written."""
    if way.by_own_ids:
        if node_type not in way.before.manifest.offsets:
            first, last = way.now.manifest.host_range(node_type, host)
            return np.full(last - first, -1, dtype=np.int64)
        own = read_ids(way.now.folder, host, node_type)
        return places(way.before, node_type, own).old.astype(np.int64)
    ids = np.arange(*way.now.manifest.host_range(node_type, host), dtype=np.int64)
    for child in way.chain[:-1]:
        ids = ids if child.manifest.reuse.how == "kept" else _in_parent(child, node_type, ids)
    return ids


def _is(place: Earlier, part_id: str, numbering: str) -> bool:
    return place.id == part_id and numbering in ("", place.manifest.numbering)


def _parent(chain: Sequence[Earlier]) -> Earlier | None:
    """The parent of the last of some partitions, None where it has none, or none that its maps lead to.

    One that was lost and built again may have become a child of its own children.
    """
    child = chain[-1]
    if not child.manifest.parent or child.manifest.parent in [place.id for place in chain]:
        return None
    try:
        parent = _beside(child.folder, child.manifest.parent)
    except StoreError:
        return None
    return parent if _is(parent, parent.id, child.manifest.parent_numbering) else None


def _beside(folder: Path, part_id: str) -> Earlier:
    path = folder.parent / part_id
    try:
        return Earlier(path, PartitionManifest.load(path))
    except StoreError as error:
        raise StoreError(
            error.args[0],
            hint="nodes are found again while the partitions of both runs lie in one store: "
            "`lmgnn partition pull` brings one back, `gc --unused-days` spares those in use",
        ) from None


def _in_parent(child: Earlier, node_type: str, ids: np.ndarray) -> np.ndarray:
    """int64, id in the parent of each of a partition's ids, -1 where there is none, and for -1."""
    found = np.full(len(ids), -1, dtype=np.int64)
    for host in range(child.manifest.hosts):
        here, rows = _on_host(child.manifest, node_type, host, ids)
        if len(here):
            check_files(child.folder, [f"part{host}/moved/{node_type}.parquet"])
            old, new = read_moved(child.folder, host, node_type)
            first, last = child.manifest.host_range(node_type, host)
            of_row = np.full(last - first, -1, dtype=np.int64)
            of_row[new - first] = old
            found[here] = of_row[rows]
    return found


def _on_host(
    manifest: PartitionManifest, node_type: str, host: int, ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(positions among the ids of those on a host, their rows there), both int64."""
    first, last = manifest.host_range(node_type, host)
    here = np.flatnonzero((ids >= first) & (ids < last))
    return here, ids[here] - first
