"""A build for a store at a URL: the partition there that it goes on with, pulled where none here is as good.

Owns when that is worth it. By manifests alone: nothing is pulled of which nothing could be taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from partition import remote
from partition.candidates import Wanted, enough_clusters, extended, kept, near, regrouped, with_tokens
from partition.earlier import Earlier
from partition.errors import FormatError, GoneError, StoreError
from partition.manifest import PartitionManifest
from partition.objects import Objects
from partition.pull import pull
from partition.storage import is_locked

Say = Callable[[str], None]

LOOKED_AT = 50
"""Partitions of the store, the newest ones."""


def with_parent(
    objects: Objects, cache: Path, wanted: Wanted, here: Sequence[Earlier], say: Say
) -> list[Earlier]:
    """`here`, the cache's newest first, after a partition of the store where that is worth more.

    StoreError and DiskFullError as of a pull; one that is gone meanwhile is told, and done without.
    """
    whole = [e for e in here if all((e.folder / name).is_file() for name in e.manifest.files)]
    if kept(wanted, whole):
        return list(here)  # nothing is worth more
    found = better(wanted, whole, published(objects, cache, leave_out={e.id for e in whole}, say=say))
    if found is None:
        return list(here)
    parent, why = found
    megabytes = size_of(parent) / 1e6
    say(f"{parent.id} of {objects.url} {why}; it is not here, and comes first ({megabytes:,.1f} MB)")
    try:
        folder = pull(objects, parent.id, cache, say=say)
    except GoneError as error:
        say(f"{parent.id} is not reused, it is gone meanwhile: {str(error).splitlines()[0]}")
        return list(here)
    others = [e for e in here if e.id != parent.id]
    return [Earlier(folder, PartitionManifest.load(folder)), *others]


def published(objects: Objects, cache: Path, *, leave_out: set[str], say: Say) -> list[Earlier]:
    """The store's partitions as they would lie in the cache, newest first; those of which no use can be made
    are passed over. StoreError where the store cannot be listed."""
    found: dict[str, Earlier] = {}

    def read(part_id: str) -> None:
        try:
            if (there := remote.find(objects, part_id)) is not None:
                found[part_id] = Earlier(cache / part_id, there.manifest)
        except FormatError:
            return
        except (StoreError, ValueError, TypeError, KeyError) as error:
            say(f"warning: {part_id} of {objects.url} is passed over: {str(error).splitlines()[0]}")

    ids = [name for name in remote.newest(objects) if name not in leave_out and not _is_built(cache, name)]
    remote.each(ids[:LOOKED_AT], read)
    return [found[part_id] for part_id in ids if part_id in found]


def better(wanted: Wanted, here: Sequence[Earlier], there: Sequence[Earlier]) -> tuple[Earlier, str] | None:
    """(the best of the partitions elsewhere, what it is good for), None where one here is as good or none is.

    By the rules and in the order of reuse.py.
    """
    for (why, mine), (_, theirs) in zip(_ways(wanted, here), _ways(wanted, there), strict=True):
        if mine:
            return None
        if theirs:
            return theirs[0], why
    return None


def size_of(parent: Earlier) -> int:
    """Bytes of its files."""
    return sum(info.size for info in parent.manifest.files.values())


def _ways(wanted: Wanted, earlier: Sequence[Earlier]) -> Iterator[tuple[str, list[Earlier]]]:
    """(what partitions are good for, which ones), best first."""
    yield "has the same nodes, edges and settings of the cut", kept(wanted, earlier)
    large = [e for e in regrouped(wanted, earlier) if enough_clusters(wanted, e)]
    yield "has the same nodes and edges", large
    close = [e for e in extended(wanted, earlier) if near(wanted, e)]
    yield "may be an earlier state of the graph", close
    yield "has tokens of the same texts", with_tokens(wanted, earlier)


def _is_built(cache: Path, part_id: str) -> bool:
    """Whether a process builds it here now: to wait for one that waits for us would have no end."""
    drafts = any(cache.glob(f"{part_id}.building*"))
    return drafts and is_locked(cache / f"{part_id}.lock")
