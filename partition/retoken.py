"""Tokens of today's texts: an earlier partition's where node and text are the same, else the tokenizer's.

Owns `partH/tokens/TYPE.hashes.npy`, by which a text is known again without being stored. Never decides what
a tokenizer does.
Shape letters: N nodes of a type.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from partition.assign import Numbering
from partition.earlier import Earlier, read_tokens
from partition.errors import StoreError
from partition.manifest import PartitionManifest
from partition.room import IN_MEMORY, Room
from partition.storage import disk_is_full
from partition.tables import GraphTables
from partition.token_lists import TokenLists, joined
from partition.tokens import load_tokenizer, tokenize

Say = Callable[[str], None]


@dataclass(frozen=True)
class Tokenizer:
    """What turns texts into tokens."""

    folder: Path
    max_length: int

    @cached_property
    def loaded(self) -> Any:
        """transformers' object; it takes a while, and only new texts need it."""
        return load_tokenizer(self.folder)


@dataclass(frozen=True)
class Tokenized:
    """One node type's texts, by row."""

    lists: TokenLists
    hashes: np.ndarray
    """uint64 N, of each text."""
    seconds: float
    """What tokenizing took, here and where the tokens come from."""


def tokenize_all(
    tables: GraphTables,
    tokenizer: Tokenizer,
    keys: Mapping[str, str],
    earlier: Sequence[Earlier],
    say: Say,
    room: Room = IN_MEMORY,
) -> dict[str, Tokenized]:
    """Every type with texts; `earlier` partitions, newest first, may have some of the tokens.

    From a room with a folder tokens and hashes are mapped.
    """
    found = {}
    for name, table in tables.nodes.items():
        if table.texts is not None:
            own = room.inner(name)
            hashes = text_hashes(table.texts, own)
            known = _known(name, table.ids, hashes, keys, earlier, say, own)
            found[name] = _completed(name, table.texts, hashes, known, tokenizer, say, own)
    return found


def text_hashes(texts: pa.Array, room: Room = IN_MEMORY) -> np.ndarray:
    """uint64 N. With 64 bits, one in 10^19 changed texts would be taken for the old one of its node."""
    return room.numbers(np.uint64, _hashes(texts))


def write_text_hashes(
    folder: Path, manifest: PartitionManifest, numbering: Numbering, hashes: Mapping[str, np.ndarray]
) -> None:
    """Beside the tokens, in the order of ids; `hashes` are by row. Files that are there are left alone."""
    for name, values in hashes.items():
        for host in range(manifest.hosts):
            first, last = manifest.host_range(name, host)
            path = folder / f"part{host}" / "tokens" / f"{name}.hashes.npy"
            if not path.exists():
                np.save(path, values[numbering.rows[name][first:last]])


def _hashes(texts: pa.Array) -> Iterator[np.ndarray]:
    yield np.zeros(0, dtype=np.uint64)
    for start in range(0, len(texts), 1 << 14):
        digests = bytearray()  # a list of digests would take 50 bytes each
        for text in texts.slice(start, 1 << 14).to_pylist():
            digests += hashlib.blake2b(text.encode(), digest_size=8).digest()
        yield np.frombuffer(digests, dtype=np.uint64)


@dataclass(frozen=True)
class _Known:
    """Tokens that an earlier partition has."""

    rows: np.ndarray
    """bool N, which of today's rows."""
    lists: TokenLists
    """Of those rows, in their order."""
    source: str
    seconds: float


def _known(
    name: str,
    ids: pa.Array,
    hashes: np.ndarray,
    keys: Mapping[str, str],
    earlier: Sequence[Earlier],
    say: Say,
    room: Room,
) -> _Known | None:
    """Of the newest partition with the same tokenizer, but one that has all the texts comes first."""
    same = [
        e
        for e in earlier
        if e.manifest.keys.get(f"nodes/{name}/tokenizer") == keys[f"nodes/{name}/tokenizer"]
    ]
    same.sort(key=lambda e: e.manifest.keys.get(f"nodes/{name}/tokens") != keys[f"nodes/{name}/tokens"])
    for source in same:
        try:
            stored = read_tokens(source, name, ids, room)
        except (StoreError, OSError) as error:
            if disk_is_full(error):  # by what is copied: the tokenizer's would need as much
                raise
            say(f"{source.id} gives no tokens: {str(error).splitlines()[0]}")
            continue
        rows = stored.place >= 0
        rows[rows] = stored.hashes[stored.place[rows]] == hashes[rows]
        if rows.any():
            seconds = source.manifest.seconds.get(f"tokens of {name}", 0.0)
            lists = stored.lists.select(stored.place[rows], room)
            return _Known(rows, lists, source.id, seconds)
    return None


def _completed(
    name: str,
    texts: pa.Array,
    hashes: np.ndarray,
    known: _Known | None,
    tokenizer: Tokenizer,
    say: Say,
    room: Room,
) -> Tokenized:
    if known is not None:
        count = int(known.rows.sum())
        then = f"tokenizing took {known.seconds:.1f} s"
        say(f"tokens of {count:,} texts of {name} come from {known.source}: {then}")
        if count == len(texts):
            return Tokenized(known.lists, hashes, known.seconds)
    missing = np.arange(len(texts)) if known is None else np.flatnonzero(~known.rows)
    say(f"tokenizing {len(missing):,} texts of {name}")
    start = time.monotonic()
    column = texts if known is None else texts.take(pa.array(missing))
    longest = tokenizer.max_length
    lists = tokenize(column, tokenizer.loaded, max_length=longest, what=name, say=say, room=room)
    seconds = time.monotonic() - start
    if known is None:
        return Tokenized(lists, hashes, seconds)
    order = np.argsort(np.concatenate([np.flatnonzero(known.rows), missing]))
    every = joined([known.lists, lists], room).select(order, room)
    return Tokenized(every, hashes, known.seconds + seconds)
