"""A checked request -> the graph as it will be stored and its manifest, cut afresh or out of an earlier one.

Owns the order of the steps in memory and what is told of reuse. Never writes; the manifest has no files yet.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from partition import assign, stored
from partition.drift import drift_lines, reuse_info
from partition.earlier import Earlier, tokens_of
from partition.errors import DataError, StoreError
from partition.keys import content_keys
from partition.manifest import PartitionManifest
from partition.reuse import Inherited, inherit
from partition.schema import GraphSchema
from partition.sought import Sought
from partition.storage import InputFile
from partition.tables import GraphTables, load_tables
from partition.tokens import TokenLists, load_tokenizer, tokenize

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """All that the id is made of, and the files behind it."""

    schema: GraphSchema
    options: dict[str, Any]
    files: dict[str, list[InputFile]]
    inputs: dict[str, str]
    tokenizer_folder: Path | None
    tokenizer_key: str
    """Fingerprint of the tokenizer's files, empty without one."""
    id: str


@dataclass(frozen=True)
class Assembled:
    """All that is written."""

    manifest: PartitionManifest
    graph: stored.StoredGraph
    same_as: Earlier | None
    """Partition with the same assignment, whose files may be linked."""
    moved: Mapping[str, tuple[np.ndarray, np.ndarray]]
    """Type -> (id in the parent, id here), int64, by id here; empty without a parent or where ids are its."""


def assemble(request: Request, earlier: Sequence[Earlier], say: Say) -> Assembled:
    """Everything up to the writing; `earlier` partitions, newest first, are what may be reused."""
    options, seconds = request.options, dict[str, float]()
    assign.find_method(options["method"])
    sought = _sought(request, earlier, seconds, say)
    with _timed(seconds, "cut"):
        inherited = inherit(sought, earlier, say)
        if inherited is None:
            edges = sum(len(rows) for _, rows in sought.edges)
            say(f"cutting {sum(sought.counts):,} nodes and {edges:,} edges")
        part, cluster = sought.cut() if inherited is None else (inherited.part, inherited.cluster)
    if inherited is not None and (before := inherited.parent.manifest.seconds.get("cut")) is not None:
        say(f"  cutting afresh took {before:.1f} s, this {seconds['cut']:.1f} s")
        seconds["cut"] = before
    numbering = sought.number(part, cluster)
    graph = stored.stored_graph(
        sought.tables,
        numbering,
        sought.tokens,
        keep_eval_edges=options["keep_eval_edges"],
        reverse=options["reverse"],
    )
    manifest = _manifest(request, sought, graph, inherited, seconds)
    if inherited is None:
        return Assembled(manifest, graph, None, {})
    for line in drift_lines(manifest.reuse, manifest.stats):
        say(f"  {line}")
    if inherited.how == "kept":
        return Assembled(manifest, graph, inherited.parent, {})
    return Assembled(manifest, graph, None, _moved(inherited, numbering))


def _sought(request: Request, earlier: Sequence[Earlier], seconds: dict[str, float], say: Say) -> Sought:
    options = request.options
    loaded = load_tables(request.schema, request.files)
    if not any(len(table.ids) for table in loaded.nodes.values()):
        raise DataError(f"{request.schema.name}: the graph has no nodes")
    edges = tuple(
        (table, stored.message_edges(table, keep_eval_edges=options["keep_eval_edges"]))
        for table in loaded.edges.values()
    )
    keys = content_keys(loaded, edges, options, tokenizer=request.tokenizer_key)
    tokens = _tokens(request, loaded, keys, earlier, seconds, say)
    return Sought(request.schema.name, loaded, edges, tokens, options, keys)


def _tokens(
    request: Request,
    loaded: GraphTables,
    keys: Mapping[str, str],
    earlier: Sequence[Earlier],
    seconds: dict[str, float],
    say: Say,
) -> dict[str, TokenLists]:
    texts = {name: table.texts for name, table in loaded.nodes.items() if table.texts is not None}
    if not texts or request.tokenizer_folder is None:
        if texts:
            say(f"no tokenizer chosen: the texts of {', '.join(texts)} are left out")
        return {}
    tokenizer = None
    lists = {}
    for name, column in texts.items():
        key, step = f"nodes/{name}/tokens", f"tokens of {name}"
        found = _tokens_again(name, loaded, keys[key], earlier, say)
        if found is not None:
            lists[name], then = found
            seconds[step] = then
            continue
        tokenizer = tokenizer or load_tokenizer(request.tokenizer_folder)
        say(f"tokenizing {len(column):,} texts of {name}")
        length = request.options["max_length"]
        with _timed(seconds, step):
            lists[name] = tokenize(column, tokenizer, max_length=length, what=name, say=say)
    return lists


def _tokens_again(
    name: str, loaded: GraphTables, key: str, earlier: Sequence[Earlier], say: Say
) -> tuple[TokenLists, float] | None:
    """Tokens that an earlier partition has of the same texts, and the seconds they took."""
    for source in earlier:
        if source.manifest.keys.get(f"nodes/{name}/tokens") != key:
            continue
        try:
            lists = tokens_of(source, name, loaded.nodes[name].ids)
        except (StoreError, OSError) as error:
            say(f"{source.id} gives no tokens: {str(error).splitlines()[0]}")
            continue
        then = source.manifest.seconds.get(f"tokens of {name}", 0.0)
        say(f"tokens of {name} come from {source.id}, {then:.1f} s of work: texts and tokenizer are the same")
        return lists, then
    return None


def _manifest(
    request: Request,
    sought: Sought,
    graph: stored.StoredGraph,
    inherited: Inherited | None,
    seconds: Mapping[str, float],
) -> PartitionManifest:
    stats = stored.graph_stats(graph, sought.tables)
    return PartitionManifest(
        id=request.id,
        graph_name=f"g{request.id}",
        hosts=request.options["hosts"],
        trainers=request.options["trainers"],
        node_types=stored.node_infos(graph),
        relations=tuple(relation.info for relation in graph.relations),
        clusters=graph.numbering.clusters,
        offsets={name: tuple(values.tolist()) for name, values in graph.numbering.offsets.items()},
        options=request.options,
        inputs=request.inputs,
        stats=stats,
        files={},
        schema_name=request.schema.name,
        parent="" if inherited is None else inherited.parent.id,
        reuse=reuse_info(inherited, request.id, stats),
        keys=sought.keys,
        seconds={name: round(value, 3) for name, value in seconds.items()},
    )


def _moved(inherited: Inherited, numbering: assign.Numbering) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    moved = {}
    for name, old in inherited.old.items():
        by_id = old[numbering.rows[name]]
        new = np.flatnonzero(by_id >= 0)
        moved[name] = by_id[new], new
    return moved


@contextlib.contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[step] = time.monotonic() - start
