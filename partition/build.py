"""A request for a partition -> its folder: found in the store, or built there, whole or not at all.

Owns the options, the id (a hash of schema, tables, tokenizer, options and format) and the order of the steps.
All data is checked before the first byte is written. In memory for now. For a store at a URL it builds in a
local cache and pushes.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from partition import assign, remote, stored
from partition import store as stores
from partition.errors import DataError, UsageError
from partition.manifest import FORMAT_VERSION, NodeTypeInfo, PartitionManifest
from partition.objects import Objects
from partition.paths import cache_folder, is_url, store_folder
from partition.pull import pull
from partition.schema import GraphSchema, parse_schema
from partition.storage import InputFile, InputFolder, locked, publish, reading, writing
from partition.tables import GraphTables, load_tables, table_files
from partition.tokens import (
    TokenLists,
    check_model,
    load_tokenizer,
    tokenize,
    tokenizer_fingerprint,
    tokenizer_folder,
)
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
    method: str = "metis"
    """metis or random."""
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

    def __post_init__(self) -> None:
        limits = (("hosts", 1), ("trainers", 1), ("cluster_size", 2), ("max_length", 3), ("seed", 0))
        for name, least in limits:
            if getattr(self, name) < least:
                raise UsageError(f"{name} = {getattr(self, name)}: expected at least {least}")


@dataclass(frozen=True)
class BuildResult:
    """Where the partition is on this machine, and whether it (or its original) was there before."""

    id: str
    path: Path
    found: bool


@dataclass(frozen=True)
class _Request:
    """All that the id is made of, and the files behind it."""

    schema: GraphSchema
    options: dict[str, Any]
    files: dict[str, list[InputFile]]
    inputs: dict[str, str]
    tokenizer_folder: Path | None
    id: str


def build(folder: str, options: BuildOptions, *, store: str, say: Say, cache: str = "") -> Path:
    """The partition's folder on this machine; built unless the same request was built before."""
    return find_or_build(folder, options, store=store, say=say, cache=cache).path


def find_or_build(
    folder: str, options: BuildOptions, *, store: str, say: Say, cache: str = ""
) -> BuildResult:
    """Like `build`, and tells whether the partition was found.

    Of two processes with the same request one builds, the other waits for it; of two machines with one store
    at a URL both may build, and both end with what the first of them published. `cache` is where such a
    store's partitions are kept here.
    UsageError for a wrong option or graph.toml, DataError for a wrong table, StoreError and DiskFullError
    for trouble where files are read or written.
    """
    if is_url(store):
        objects = Objects(store, say=say)
        return _find_or_push(_request(folder, options, say), objects, cache_folder(cache), say)
    root = store_folder(store, key="store")
    return _find_or_build(_request(folder, options, say), root, say)


def _find(request: _Request, root: Path, say: Say) -> BuildResult | None:
    if (found := stores.find(root, request.id)) is None:
        return None
    say(f"partition {request.id} found in {root}")
    stamp(found)
    return BuildResult(request.id, found, found=True)


def _find_or_build(request: _Request, root: Path, say: Say) -> BuildResult:
    """The partition in a local store; of two processes one builds."""
    if (found := _find(request, root, say)) is not None:
        return found
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)

        def waiting() -> None:
            say(f"partition {request.id} is being built by another process; waiting for it")

        with locked(root / f"{request.id}.lock", waiting=waiting):
            if (found := _find(request, root, say)) is not None:
                return found
            return BuildResult(request.id, _build(request, root, say), found=False)


def _find_or_push(request: _Request, objects: Objects, cache: Path, say: Say) -> BuildResult:
    """The partition in the cache as it is published in a store at a URL."""
    found = remote.find(objects, request.id) is not None
    if found:
        say(f"partition {request.id} found in {objects.url}")
    else:
        remote.stamp(objects, request.id)  # a store that may not be written to is known before the work
        here = _find_or_build(request, cache, say)
        remote.push(objects, here.path, say=say)
    # Of the published bytes, whoever built them, so that all hosts have the same.
    path = pull(objects, request.id, cache, say=say, checksums=False)
    return BuildResult(request.id, path, found=found)


def _request(folder: str, options: BuildOptions, say: Say) -> _Request:
    inputs_folder = InputFolder(folder)
    schema = _schema(inputs_folder).select(options.relations)
    schema.check_names(reverse=options.reverse)
    tokenizer = tokenizer_folder(options.tokenizer) if options.tokenizer else None
    if tokenizer and any(node.text for node in schema.nodes):
        check_model(tokenizer, name=options.tokenizer, max_length=options.max_length)
    files = table_files(schema, inputs_folder)
    say(f"reading {sum(len(group) for group in files.values())} tables of {schema.name}")
    inputs = {file.name: file.sha256() for group in files.values() for file in group}
    chosen = {**asdict(options), "relations": [edge.name for edge in schema.edges]}
    identity = {
        "schema": schema.to_dict(),
        "inputs": inputs,
        "tokenizer": tokenizer_fingerprint(tokenizer) if tokenizer else "",
        "options": chosen,
        "version": FORMAT_VERSION,
    }
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    part_id = hashlib.sha256(canonical.encode()).hexdigest()[:20]
    return _Request(schema, chosen, files, inputs, tokenizer, part_id)


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


def _build(request: _Request, root: Path, say: Say) -> Path:
    # Imported here: DGL takes seconds, and a partition that is found needs none of them.
    from partition.writer import write_parts

    manifest, graph = _assemble(request, say)
    for left_over in root.glob(f"{request.id}.building-*"):
        shutil.rmtree(left_over)
    draft = root / f"{request.id}.building-{os.getpid()}"
    draft.mkdir()
    try:
        say(f"writing {manifest.hosts} hosts x {manifest.trainers} trainers")
        write_parts(draft, manifest, graph)
        stores.seal(draft, manifest)
        publish(draft, root / request.id)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    say(f"partition {request.id} is ready in {root}")
    return root / request.id


def _assemble(request: _Request, say: Say) -> tuple[PartitionManifest, stored.StoredGraph]:
    """Everything up to the writing; the manifest has no files yet."""
    options = request.options
    assign.find_method(options["method"])
    loaded = load_tables(request.schema, request.files)
    names = list(loaded.nodes)
    counts = [len(loaded.nodes[name].ids) for name in names]
    if not sum(counts):
        raise DataError(f"{request.schema.name}: the graph has no nodes")
    tokens = _tokens(request, loaded, say)
    kept = [
        (table, stored.message_edges(table, keep_eval_edges=options["keep_eval_edges"]))
        for table in loaded.edges.values()
    ]
    say(f"cutting {sum(counts):,} nodes and {sum(len(rows) for _, rows in kept):,} edges")
    adjacency = assign.adjacency_of(
        counts,
        (
            (
                names.index(table.schema.source),
                table.source[rows],
                names.index(table.schema.destination),
                table.destination[rows],
            )
            for table, rows in kept
        ),
    )
    weights = assign.combined_weights(stored.node_weights(loaded, tokens, kept))
    levels = {"hosts": options["hosts"], "trainers": options["trainers"]}
    part, cluster = assign.assign(
        adjacency,
        weights,
        **levels,
        cluster_size=options["cluster_size"],
        method=options["method"],
        seed=options["seed"],
    )
    numbering = assign.number(names, counts, part, cluster, **levels)
    graph = stored.stored_graph(
        loaded,
        numbering,
        tokens,
        keep_eval_edges=options["keep_eval_edges"],
        reverse=options["reverse"],
    )
    return _manifest(request, graph, stored.node_infos(graph), stored.graph_stats(graph, loaded)), graph


def _manifest(
    request: _Request,
    graph: stored.StoredGraph,
    node_types: tuple[NodeTypeInfo, ...],
    stats: Mapping[str, Any],
) -> PartitionManifest:
    return PartitionManifest(
        id=request.id,
        graph_name=f"g{request.id}",
        hosts=request.options["hosts"],
        trainers=request.options["trainers"],
        node_types=node_types,
        relations=tuple(relation.info for relation in graph.relations),
        clusters=graph.numbering.clusters,
        offsets={name: tuple(values.tolist()) for name, values in graph.numbering.offsets.items()},
        options=request.options,
        inputs=request.inputs,
        stats=stats,
        files={},
    )


def _tokens(request: _Request, loaded: GraphTables, say: Say) -> dict[str, TokenLists]:
    texts = {name: table.texts for name, table in loaded.nodes.items() if table.texts is not None}
    if not texts or request.tokenizer_folder is None:
        if texts:
            say(f"no tokenizer chosen: the texts of {', '.join(texts)} are left out")
        return {}
    tokenizer = load_tokenizer(request.tokenizer_folder)
    lists = {}
    for name, column in texts.items():
        say(f"tokenizing {len(column):,} texts of {name}")
        length = request.options["max_length"]
        lists[name] = tokenize(column, tokenizer, max_length=length, what=name, say=say)
    return lists
