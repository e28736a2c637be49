"""Earlier partitions of a store, as a new one may take from them: where each node was, its tokens, figures.

Owns what is trusted: only files that still have their checksum. Never writes and never chooses.
Shape letters: N nodes of a type in the tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from partition.arrays import pieces as rows_in_pieces
from partition.errors import StoreError
from partition.lookup import pieces, rows_of
from partition.manifest import MANIFEST_NAME, PartitionManifest
from partition.reader import open_tokens, read_ids
from partition.room import IN_MEMORY, Room
from partition.store import check_files
from partition.token_lists import TokenLists, joined

WEIGHT = "weight"
"""Figure of a partition, see `figures`."""


@dataclass(frozen=True)
class Earlier:
    """A finished partition."""

    folder: Path
    manifest: PartitionManifest

    @property
    def id(self) -> str:
        return self.manifest.id


@dataclass(frozen=True)
class Places:
    """Where an earlier partition had the nodes of one type, by their rows in today's tables."""

    old: np.ndarray
    """int32 N, id there; -1 for a node that it does not know."""
    part: np.ndarray
    """int32 N, -1 likewise."""
    cluster: np.ndarray
    """int32 N, counted through all parts; -1 likewise."""
    gone: int
    """Nodes there that are in no table any more."""


@dataclass(frozen=True)
class StoredTokens:
    """Tokens of one type in an earlier partition, by id there."""

    lists: TokenLists
    hashes: np.ndarray
    """uint64, of the texts (retoken.py)."""
    place: np.ndarray
    """int32 N, id there of today's rows; -1 for a node that it does not know."""


def earlier_partitions(store: Path) -> list[Earlier]:
    """All that can be read, newest first; what cannot is no reason to stop."""
    found: list[tuple[float, Earlier]] = []
    for path in store.glob(f"*/{MANIFEST_NAME}"):
        if "." in path.parent.name:
            continue
        try:
            found.append((path.stat().st_mtime, Earlier(path.parent, PartitionManifest.load(path.parent))))
        except (StoreError, OSError, ValueError, TypeError, KeyError):
            continue
    return [earlier for _, earlier in sorted(found, key=lambda item: (-item[0], item[1].id))]


def places(earlier: Earlier, node_type: str, ids: pa.Array, room: Room = IN_MEMORY) -> Places:
    """Find today's nodes of a type by their own ids; StoreError where the files are not as written."""
    manifest = earlier.manifest
    there = _ids(earlier, node_type)
    old = rows_among(ids, there, room)
    offsets = np.asarray(manifest.offsets[node_type], dtype=np.int64)
    bounds = [0, *accumulate(manifest.clusters)]
    part, cluster = np.empty(len(old), dtype=np.int32), np.empty(len(old), dtype=np.int32)
    for mine in rows_in_pieces(0, len(old)):
        # Below the first id and the first cluster there is place -1, which is right for a node that is new.
        cluster[mine] = np.searchsorted(offsets, old[mine], side="right") - 1
        part[mine] = np.searchsorted(bounds, cluster[mine], side="right") - 1
    return Places(old, part, cluster, gone=len(there) - int((old >= 0).sum()))


def read_tokens(earlier: Earlier, node_type: str, ids: pa.Array, room: Room = IN_MEMORY) -> StoredTokens:
    """What it has of a type's texts; StoreError where the files are not as written."""
    hosts = range(earlier.manifest.hosts)
    stems = [f"part{host}/tokens/{node_type}" for host in hosts]
    kinds = ("values", "offsets", "hashes")
    check_files(earlier.folder, [f"{stem}.{kind}.npy" for stem in stems for kind in kinds])
    opened = [open_tokens(earlier.folder, host, node_type) for host in hosts]
    lists = joined([TokenLists(*arrays) for arrays in opened], room)
    hashes = np.concatenate([np.load(earlier.folder / f"{stem}.hashes.npy") for stem in stems])
    return StoredTokens(lists, hashes, rows_among(ids, _ids(earlier, node_type), room))


def figures(stats: Mapping[str, Any]) -> dict[str, float]:
    """Shares of edges cut between hosts and parts, and the heaviest part of each kind over the mean.

    `weight` is all kinds together, each worth the same: what the cut balances.
    """
    found = {f"{level} cut": float(share) for level, share in stats["cut"].items()}
    counted = {name: np.array(c) / np.mean(c) for name, c in stats["balance"]["parts"].items() if sum(c)}
    found |= {name: float(shares.max()) for name, shares in counted.items()}
    return {**found, WEIGHT: float(np.mean(list(counted.values()), axis=0).max())}


def rows_among(wanted: pa.Array, known: pa.Array, room: Room = IN_MEMORY) -> np.ndarray:
    """int32, place of each wanted id among the known ones (each once), -1 where it is none of them."""
    found, end = np.full(len(wanted), -1, dtype=np.int32), 0
    if wanted.type == known.type:
        for rows in rows_of(known, pieces(wanted), room):
            found[end : end + len(rows)] = rows
            end += len(rows)
    return found


def _ids(earlier: Earlier, node_type: str) -> pa.Array:
    hosts = range(earlier.manifest.hosts)
    check_files(earlier.folder, [f"part{host}/ids/{node_type}.parquet" for host in hosts])
    return pa.concat_arrays([read_ids(earlier.folder, host, node_type) for host in hosts])
