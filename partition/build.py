"""A request for a partition -> its folder: found in the store, or built there, whole or not at all.

Owns who builds and who waits. The id is that of the request (request.py): what an earlier partition gave to
the result is in the manifest (reuse.py).
All data is checked before the first byte of a partition is written; until then all is in scratch files: the
tables, the graph to cut, then the stored one.
For a store at a URL it builds in a local cache and pushes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from partition import remote
from partition import store as stores
from partition.assemble import assemble
from partition.candidates import Wanted
from partition.earlier import Earlier, earlier_partitions
from partition.journal import Journal
from partition.links import link_unchanged, linked_words
from partition.manifest import PartitionManifest
from partition.memory import memory_bytes
from partition.moved import write_moved
from partition.objects import Objects
from partition.parents import with_parent
from partition.paths import cache_folder, is_url, store_folder
from partition.pull import pull
from partition.quarantine import quarantine_lines, write_quarantine
from partition.refusals import look_at_room
from partition.request import BuildOptions, Request, afresh, request_of
from partition.retoken import write_text_hashes
from partition.storage import locked, publish, writing
from partition.usage import stamp

Say = Callable[[str], None]


@dataclass(frozen=True)
class BuildResult:
    """Where the partition is, and whether it was there before."""

    id: str
    path: Path
    found: bool


def build(
    folder: str, options: BuildOptions, *, store: str, say: Say, cache: str = "", reuse: bool = True
) -> Path:
    """The partition's folder on this machine; built unless the same request was built before."""
    return find_or_build(folder, options, store=store, say=say, cache=cache, reuse=reuse).path


def find_or_build(
    folder: str,
    options: BuildOptions,
    *,
    store: str,
    say: Say,
    cache: str = "",
    memory: str = "",
    reuse: bool = True,
) -> BuildResult:
    """Like `build`, and tells whether the partition was found.

    `cache` is where partitions of a store at a URL are kept here.
    `memory` ("4GiB"; "": most of what there is) bounds what the build takes above Python and its packages,
    and so decides how the graph is cut where the options leave it open. It is not part of the id: a partition
    that another machine has cut is as good.
    Without `reuse` nothing of other partitions goes into it: one that was made out of another is left alone,
    and the request built afresh under an id of its own.
    Of two processes with the same request one builds, the other waits for it; of two machines with one store
    at a URL both may build, and both end with what the first of them published.
    UsageError for a wrong option or graph.toml, DataError for a wrong table, StoreError and DiskFullError
    for trouble where files are read or written, LockedError where the one that is waited for hangs.
    """
    root = None if is_url(store) else store_folder(store, key="store")
    objects = Objects(store, say=say) if root is None else None
    request = request_of(folder, options, memory_bytes(memory), say)
    if objects is not None:
        return _find_or_push(request, objects, cache_folder(cache), say, reuse=reuse)
    assert root is not None
    return _find_or_build(request, root, say, reuse=reuse)


def _find_or_build(
    request: Request, root: Path, say: Say, *, reuse: bool, objects: Objects | None = None
) -> BuildResult:
    """The partition in a local store, which may be the cache of `objects`; of two processes one builds."""
    if (path := stores.find(root, request.id)) is not None:
        if not reuse and PartitionManifest.load(path).parent:
            return _find_or_build(afresh(request, say), root, say, reuse=False)
        say(f"partition {request.id} found in {root}")
        _say_left_out(PartitionManifest.load(path), say)
        stamp(path)
        return BuildResult(request.id, path, found=True)
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)

        def waiting(holder: str) -> None:
            say(f"partition {request.id} is being built by {holder}; waiting for it")

        with locked(root / f"{request.id}.lock", waiting=waiting):
            if stores.find(root, request.id) is None:
                return _build(request, root, say, reuse=reuse, objects=objects)
    return _find_or_build(request, root, say, reuse=reuse, objects=objects)


def _find_or_push(request: Request, objects: Objects, cache: Path, say: Say, *, reuse: bool) -> BuildResult:
    """The partition in the cache as it is published in a store at a URL."""
    published = remote.find(objects, request.id)
    if published is not None and not reuse and published.manifest.parent:
        return _find_or_push(afresh(request, say), objects, cache, say, reuse=False)
    part_id = request.id
    if published is not None:
        say(f"partition {part_id} found in {objects.url}")
    else:
        remote.stamp(objects, part_id)  # a store that may not be written to is known before the work
        here = _find_or_build(request, cache, say, reuse=reuse, objects=objects)
        part_id = here.id
        remote.push(objects, here.path, say=say)
    # Of the published bytes, whoever built them, so that all hosts have the same.
    path = pull(objects, part_id, cache, say=say, checksums=False)
    return BuildResult(part_id, path, found=published is not None)


def _build(request: Request, root: Path, say: Say, *, reuse: bool, objects: Objects | None) -> BuildResult:
    # Imported here: DGL takes seconds, and a partition that is found needs none of them.
    from partition.writer import write_parts

    def parents(wanted: Wanted) -> Sequence[Earlier]:
        here = earlier_partitions(root) if reuse else []
        return with_parent(objects, root, wanted, here, say) if reuse and objects is not None else here

    journal = Journal(root, request.id)
    journal.begin()
    draft = journal.draft
    look_at_room(request, root, say, reuse=reuse)  # what is done stays, also where it finds none
    try:
        made = assemble(request, parents, journal, say)
        manifest, done = made.manifest, journal.hosts
        linked = link_unchanged(draft, manifest, made.same_as) if made.same_as else {}
        say(f"writing {manifest.hosts} hosts x {manifest.trainers} trainers{linked_words(linked)}")
        finished = partial(journal.keep_part, known=linked)
        write_parts(draft, manifest, made.graph, memory=request.memory, done=done, finished=finished)
        write_text_hashes(draft, manifest, made.graph.numbering, made.text_hashes)
        write_moved(draft, manifest, made.moved)
        write_quarantine(draft, made.quarantine)
        stores.seal(draft, manifest, linked={**linked, **journal.files})
        publish(draft, root / request.id)
    except KeyboardInterrupt:
        journal.end_scratch()
        raise
    except BaseException:
        journal.end()
        raise
    journal.end()
    say(f"partition {request.id} is ready in {root}")
    _say_left_out(manifest, say)
    return BuildResult(request.id, root / request.id, found=False)


def _say_left_out(manifest: PartitionManifest, say: Say) -> None:
    for line in quarantine_lines(manifest.stats.get("quarantine", {})):
        say(f"  {line}")
