"""A request for a partition -> its folder: found in the store, or built there, whole or not at all.

Owns the options, the id (a hash of schema, tables, tokenizer, options and format) and the order of the steps.
All data is checked before the first byte is written, and held in memory; only the graph to cut is in files.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from partition import assign, stored
from partition import store as stores
from partition.errors import DataError, UsageError
from partition.manifest import FORMAT_VERSION, NodeTypeInfo, PartitionManifest
from partition.memory import memory_bytes
from partition.methods import AUTO, check_method
from partition.paths import store_folder
from partition.schema import GraphSchema, parse_schema
from partition.storage import InputFile, InputFolder, locked, publish, reading, writing
from partition.tables import EdgeTable, GraphTables, load_tables, table_files
from partition.tokens import (
    TokenLists,
    check_model,
    load_tokenizer,
    tokenize,
    tokenizer_fingerprint,
    tokenizer_folder,
)

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

    def __post_init__(self) -> None:
        check_method(self.method)
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


@dataclass(frozen=True)
class _Request:
    """All that the id is made of, and the files behind it."""

    schema: GraphSchema
    options: dict[str, Any]
    files: dict[str, list[InputFile]]
    inputs: dict[str, str]
    tokenizer_folder: Path | None
    id: str
    memory: int
    """Bytes that cutting may take."""


def build(folder: str, options: BuildOptions, *, store: str, say: Say) -> Path:
    """The partition's folder in the store; built unless the same request was built before."""
    return find_or_build(folder, options, store=store, say=say).path


def find_or_build(
    folder: str, options: BuildOptions, *, store: str, say: Say, memory: str = ""
) -> BuildResult:
    """Like `build`, and tells whether the partition was found.

    `memory` ("4GiB"; "": most of what there is) decides between methods where the options leave it open. It
    is not part of the id: a partition that another machine has cut is as good.
    Of two processes with the same request one builds, the other waits for it.
    UsageError for a wrong option or graph.toml, DataError for a wrong table, StoreError and DiskFullError
    for trouble where files are read or written.
    """
    root = store_folder(store, key="store")
    request = _request(folder, options, memory_bytes(memory), say)
    if (found := stores.find(root, request.id)) is not None:
        say(f"partition {request.id} found in {root}")
        return BuildResult(request.id, found, found=True)
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)

        def waiting() -> None:
            say(f"partition {request.id} is being built by another process; waiting for it")

        with locked(root / f"{request.id}.lock", waiting=waiting):
            if (found := stores.find(root, request.id)) is not None:
                say(f"partition {request.id} found in {root}")
                return BuildResult(request.id, found, found=True)
            return BuildResult(request.id, _build(request, root, say), found=False)


def _request(folder: str, options: BuildOptions, memory: int, say: Say) -> _Request:
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
    return _Request(schema, chosen, files, inputs, tokenizer, part_id, memory)


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

    for left_over in root.glob(f"{request.id}.building-*"):
        shutil.rmtree(left_over)
    draft = root / f"{request.id}.building-{os.getpid()}"
    manifest, graph = _assemble(request, root, say)
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


def _assemble(request: _Request, root: Path, say: Say) -> tuple[PartitionManifest, stored.StoredGraph]:
    """Everything up to the writing; the manifest has no files yet."""
    options = request.options
    loaded = load_tables(request.schema, request.files)
    if not any(len(table.ids) for table in loaded.nodes.values()):
        raise DataError(f"{request.schema.name}: the graph has no nodes")
    tokens = _tokens(request, loaded, say)
    kept = [
        (table, stored.message_edges(table, keep_eval_edges=options["keep_eval_edges"]))
        for table in loaded.edges.values()
    ]
    numbering, choices = _cut(request, loaded, tokens, kept, root, say)
    graph = stored.stored_graph(
        loaded,
        numbering,
        tokens,
        keep_eval_edges=options["keep_eval_edges"],
        reverse=options["reverse"],
    )
    stats = {**stored.graph_stats(graph, loaded), "methods": [asdict(choice) for choice in choices]}
    return _manifest(request, graph, stored.node_infos(graph), stats), graph


def _cut(
    request: _Request,
    loaded: GraphTables,
    tokens: Mapping[str, TokenLists],
    kept: Sequence[tuple[EdgeTable, np.ndarray]],
    root: Path,
    say: Say,
) -> tuple[assign.Numbering, tuple[assign.LevelChoice, ...]]:
    """The new ids, and which methods they come from; the graph lies in a scratch folder meanwhile."""
    names = list(loaded.nodes)
    counts = [len(loaded.nodes[name].ids) for name in names]
    say(f"cutting {sum(counts):,} nodes and {sum(len(rows) for _, rows in kept):,} edges")
    levels = {key: request.options[key] for key in ("hosts", "trainers")}
    counted = stored.node_weights(loaded, tokens, kept)
    scratch = root / f"{request.id}.building-scratch-{os.getpid()}"
    try:
        found = assign.assign(
            assign.adjacency_of(scratch, counts, [_ends(names, *edges) for edges in kept]),
            assign.combined_weights(counted),
            **levels,
            cluster_size=request.options["cluster_size"],
            method=request.options["method"],
            seed=request.options["seed"],
            memory=request.memory,
            bounds=assign.even_bounds(counted) if request.options["even"] else (),
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for choice in found.choices:
        say(f"{choice.level} cut by {choice.method} ({choice.why})")
    return assign.number(names, counts, found.part, found.cluster, **levels), found.choices


def _ends(
    names: Sequence[str], table: EdgeTable, rows: np.ndarray
) -> tuple[int, np.ndarray, int, np.ndarray]:
    """(source type, rows, destination type, rows) of some edges."""
    schema = table.schema
    return (
        names.index(schema.source),
        table.source[rows],
        names.index(schema.destination),
        table.destination[rows],
    )


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
