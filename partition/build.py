"""A request for a partition -> its folder: found in the store, or built there, whole or not at all.

Owns the options and the id, a hash of schema, tables, tokenizer, options and format. The id is that of the
request: what an earlier partition gave to the result is in the manifest (reuse.py).
All data is checked before the first byte of a partition is written; until then all is in scratch files: the
tables, the graph to cut, then the stored one.
For a store at a URL it builds in a local cache and pushes.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from partition import remote
from partition import store as stores
from partition.assemble import Request, assemble
from partition.earlier import earlier_partitions
from partition.errors import DataError, UsageError
from partition.forecast import look_at_room
from partition.journal import Journal
from partition.links import link_unchanged, linked_words
from partition.manifest import FORMAT_VERSION, PartitionManifest
from partition.memory import memory_bytes
from partition.methods import AUTO, check_method
from partition.moved import write_moved
from partition.objects import Objects
from partition.paths import cache_folder, is_url, store_folder
from partition.pull import pull
from partition.quarantine import CAP, FAIL, cap_of, check_policy, quarantine_lines, write_quarantine
from partition.retoken import write_text_hashes
from partition.schema import GraphSchema, parse_schema
from partition.storage import InputFolder, locked, publish, reading, writing
from partition.tables import table_files
from partition.tokens import check_model, tokenizer_fingerprint, tokenizer_folder
from partition.usage import stamp

GRAPH_FILE = "graph.toml"
Say = Callable[[str], None]


@dataclass(frozen=True)
class BuildOptions:
    """How the graph is cut and what is stored; all of it goes into the id."""

    hosts: int = 1
    """Graph servers, one part of the graph each."""
    trainers: int = 1
    """Trainers of a host."""
    cluster_size: int = 500
    """Nodes of a cluster, the smallest level of the hierarchy."""
    method: str = AUTO
    """auto (the first of these that fits into memory), metis, kaminpar, semi-external, or random."""
    even: bool = False
    """Move nodes until nodes, edges and training targets are each spread evenly over hosts and trainers."""
    seed: int = 0
    keep_eval_edges: bool = False
    """Leave validation and test edges in the stored graph."""
    reverse: bool = True
    """Store relations turned round as well, where graph.toml does not say."""
    relations: tuple[str, ...] = ()
    """Relations to load; empty = all. Node types stay."""
    tokenizer: str = ""
    """Hub name, folder or package:NAME/FOLDER of a model; empty = leave the texts out."""
    max_length: int = 64
    """Tokens kept of a text, special ones included."""
    bad_rows: str = FAIL
    """fail: a wrong row ends the build; quarantine: it is left out of the graph and kept beside it."""
    bad_rows_cap: float = CAP
    """Share of a table's rows that quarantine may leave out (one row always); more end the build."""

    def __post_init__(self) -> None:
        check_method(self.method)
        check_policy(self.bad_rows, self.bad_rows_cap)
        limits = (("hosts", 1), ("trainers", 1), ("cluster_size", 2), ("max_length", 3), ("seed", 0))
        for name, least in limits:
            if getattr(self, name) < least:
                raise UsageError(f"{name} = {getattr(self, name)}: expected at least {least}")


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


def _find_or_build(request: Request, root: Path, say: Say, *, reuse: bool) -> BuildResult:
    """The partition in a local store; of two processes one builds."""
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
                return _build(request, root, say, reuse=reuse)
    return _find_or_build(request, root, say, reuse=reuse)


def _find_or_push(request: Request, objects: Objects, cache: Path, say: Say, *, reuse: bool) -> BuildResult:
    """The partition in the cache as it is published in a store at a URL; what is reused is the cache's."""
    published = remote.find(objects, request.id)
    if published is not None and not reuse and published.manifest.parent:
        return _find_or_push(afresh(request, say), objects, cache, say, reuse=False)
    part_id = request.id
    if published is not None:
        say(f"partition {part_id} found in {objects.url}")
    else:
        remote.stamp(objects, part_id)  # a store that may not be written to is known before the work
        here = _find_or_build(request, cache, say, reuse=reuse)
        part_id = here.id
        remote.push(objects, here.path, say=say)
    # Of the published bytes, whoever built them, so that all hosts have the same.
    path = pull(objects, part_id, cache, say=say, checksums=False)
    return BuildResult(part_id, path, found=published is not None)


def afresh(request: Request, say: Say) -> Request:
    """The same without anything reused, where its own id is taken by a partition with a parent."""
    say(f"partition {request.id} was made out of another one; one cut afresh has another id")
    return replace(request, id=hashlib.sha256(f"{request.id} no-reuse".encode()).hexdigest()[:20])


def request_of(folder: str, options: BuildOptions, memory: int, say: Say) -> Request:
    """The options checked against graph.toml, and the id, for which every table is read once."""
    inputs_folder = InputFolder(folder)
    schema = _schema(inputs_folder).select(options.relations)
    schema.check_names(reverse=options.reverse)
    tokenizer = tokenizer_folder(options.tokenizer) if options.tokenizer else None
    if tokenizer and any(node.text for node in schema.nodes):
        check_model(tokenizer, name=options.tokenizer, max_length=options.max_length)
    fingerprint = tokenizer_fingerprint(tokenizer) if tokenizer else ""
    files = table_files(schema, inputs_folder)
    say(f"reading {sum(len(group) for group in files.values())} tables of {schema.name}")
    inputs = {file.name: file.sha256() for group in files.values() for file in group}
    chosen = {**asdict(options), "relations": [edge.name for edge in schema.edges]}
    if cap_of(chosen) is None:
        # A cap of nothing makes no difference, and partitions from before there was one are found.
        del chosen["bad_rows"], chosen["bad_rows_cap"]
    identity = {
        "schema": schema.to_dict(),
        "inputs": inputs,
        "tokenizer": fingerprint,
        "options": chosen,
        "version": FORMAT_VERSION,
    }
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    part_id = hashlib.sha256(canonical.encode()).hexdigest()[:20]
    return Request(schema, chosen, files, inputs, tokenizer, fingerprint, part_id, memory)


def _schema(folder: InputFolder) -> GraphSchema:
    """What graph.toml of a folder says; errors name it with its folder."""
    file = folder.file(GRAPH_FILE)
    where = posixpath.join(folder.url, GRAPH_FILE)
    with reading(GRAPH_FILE, hint=f"looked in {folder.url}; a plan names its folder in graph.path"):
        raw = file.fs.cat_file(file.path)
    try:
        return parse_schema(raw.decode("utf-8"), where=where)
    except UnicodeDecodeError:
        raise DataError(f"{where}: not valid UTF-8", hint="save it as UTF-8") from None


def _build(request: Request, root: Path, say: Say, *, reuse: bool) -> BuildResult:
    # Imported here: DGL takes seconds, and a partition that is found needs none of them.
    from partition.writer import write_parts

    journal = Journal(root, request.id)
    journal.begin()
    draft = journal.draft
    look_at_room(request, root, say, reuse=reuse)  # what is done stays, also where it finds none
    try:
        made = assemble(request, earlier_partitions(root) if reuse else (), journal, say)
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
