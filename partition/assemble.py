"""A checked request -> the graph as it will be stored and its manifest, cut afresh or out of an earlier one.

Owns the order of the steps in memory and what is told of reuse. Never writes; the manifest has no files yet.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from partition import assign, stored
from partition.candidates import Wanted
from partition.drift import drift_lines, reuse_info
from partition.earlier import Earlier
from partition.errors import DataError
from partition.journal import Journal, KeptCut
from partition.keys import content_keys
from partition.manifest import PartitionManifest
from partition.quarantine import Quarantine, cap_of, quarantine_stats
from partition.request import Request
from partition.retoken import Tokenized, Tokenizer, tokenize_all
from partition.reuse import Inherited, inherit
from partition.room import Room, give_back
from partition.sought import Sought
from partition.stored_stats import graph_stats
from partition.tables import GraphTables, load_tables

Say = Callable[[str], None]
Parents = Callable[[Wanted], Sequence[Earlier]]
"""Partitions that may be reused for a graph, newest first."""


@dataclass(frozen=True)
class Assembled:
    """All that is written."""

    manifest: PartitionManifest
    graph: stored.StoredGraph
    text_hashes: Mapping[str, np.ndarray]
    """Type -> uint64, by row; only types whose tokens are stored."""
    same_as: Earlier | None
    """Partition with the same assignment, whose files may be linked."""
    moved: Mapping[str, np.ndarray]
    """Type -> int32, id in the parent by id here, or -1; empty where ids are its, or without a parent."""
    quarantine: Mapping[str, Quarantine]
    """Table -> the rows that are not in the graph."""


def assemble(request: Request, parents: Parents, journal: Journal, say: Say) -> Assembled:
    """Everything up to the writing; `parents` are asked for what may be reused once the tables are read.

    The journal's scratch folder is made. It holds the tables and the graph to cut meanwhile, and the stored
    graph's edges until they are written.
    """
    scratch = journal.scratch
    scratch.mkdir()
    sought, texts, earlier = _sought(request, parents, scratch / "cut", say)
    hashes = {name: text.hashes for name, text in texts.items()}
    inherited, numbering, choices, seconds = _numbered(sought, earlier, journal, say)
    give_back()
    # Nothing is cut any more, and the files need their room; what is mapped stays until `sought` is gone.
    shutil.rmtree(sought.scratch, ignore_errors=True)
    graph = stored.stored_graph(
        scratch / "stored",
        sought.tables,
        numbering,
        sought.tokens,
        keep_eval_edges=request.options["keep_eval_edges"],
        reverse=request.options["reverse"],
        memory=request.memory,
    )
    times = {f"tokens of {name}": text.seconds for name, text in texts.items()}
    quarantine = sought.tables.quarantine
    stats = {**graph_stats(graph, sought.tables), "methods": [asdict(choice) for choice in choices]}
    if cap_of(request.options) is not None:
        stats["quarantine"] = quarantine_stats(quarantine)
    manifest = _manifest(request, sought, graph, inherited, stats, {**times, "cut": seconds})
    if inherited is None:
        return Assembled(manifest, graph, hashes, None, {}, quarantine)
    for line in drift_lines(manifest.reuse, manifest.stats):
        say(f"  {line}")
    if inherited.how == "kept":
        return Assembled(manifest, graph, hashes, inherited.parent, {}, quarantine)
    return Assembled(manifest, graph, hashes, None, _moved(inherited, numbering), quarantine)


def _numbered(
    sought: Sought, earlier: Sequence[Earlier], journal: Journal, say: Say
) -> tuple[Inherited | None, assign.Numbering, tuple[assign.LevelChoice, ...], float]:
    """(what is reused, the id space, what cut now, seconds that cutting afresh took, now or then)."""
    start = time.monotonic()
    kept = journal.cut(sought.keys)
    inherited = None if kept is not None and not kept.parent else inherit(sought, earlier, say)
    before = inherited.parent.manifest if inherited is not None else None
    parent = (before.id, before.numbering) if before is not None else ("", "")
    if kept is not None and (kept.parent, kept.parent_numbering) != parent:
        kept = None  # another partition is gone on with than then
    if kept is not None:
        say(f"going on with a build that was stopped: cut, and {len(journal.hosts)} hosts written")
        found = kept.assignment
    elif inherited is not None:
        found = assign.Assignment(inherited.part, inherited.cluster, inherited.choices)
    else:
        edges = sum(relation.count for relation in sought.edges)
        say(f"cutting {sum(sought.counts):,} nodes and {edges:,} edges")
        found = sought.cut()
    for choice in found.choices:
        say(f"{choice.level} cut by {choice.method} ({choice.why})")
    seconds = time.monotonic() - start
    if kept is not None:
        seconds = kept.seconds
    else:
        journal.keep_cut(sought.keys, KeptCut(found, *parent, seconds))
    numbering = sought.number(found.part, found.cluster)
    if before is not None and (afresh := before.seconds.get("cut")) is not None:
        say(f"  cutting afresh took {afresh:.1f} s, this {seconds:.1f} s")
        seconds = afresh
    return inherited, numbering, found.choices, seconds


def _sought(
    request: Request, parents: Parents, scratch: Path, say: Say
) -> tuple[Sought, Mapping[str, Tokenized], Sequence[Earlier]]:
    """(the graph to cut, its texts as tokens, what may be reused)."""
    options = request.options
    room = Room(scratch / "tables", request.memory)
    loaded = load_tables(request.schema, request.files, cap=cap_of(options), room=room)
    give_back()
    if not any(len(table.ids) for table in loaded.nodes.values()):
        raise DataError(f"{request.schema.name}: the graph has no nodes")
    edges = tuple(stored.MessageEdges(table, options["keep_eval_edges"]) for table in loaded.edges.values())
    keys = content_keys(
        loaded, edges, options, tokenizer=request.tokenizer_key, room=Room(scratch, request.memory)
    )
    give_back()
    sought = Sought(request.schema.name, loaded, edges, {}, options, keys, scratch, request.memory)
    earlier = parents(sought.wanted)
    texts = _tokenized(request, loaded, keys, earlier, Room(scratch / "tokens", request.memory), say)
    return replace(sought, tokens={name: text.lists for name, text in texts.items()}), texts, earlier


def _tokenized(
    request: Request,
    loaded: GraphTables,
    keys: Mapping[str, str],
    earlier: Sequence[Earlier],
    room: Room,
    say: Say,
) -> dict[str, Tokenized]:
    if request.tokenizer_folder is None:
        if texts := [name for name, table in loaded.nodes.items() if table.texts is not None]:
            say(f"no tokenizer chosen: the texts of {', '.join(texts)} are left out")
        return {}
    tokenizer = Tokenizer(request.tokenizer_folder, request.options["max_length"])
    return tokenize_all(loaded, tokenizer, keys, earlier, say, room)


def _manifest(
    request: Request,
    sought: Sought,
    graph: stored.StoredGraph,
    inherited: Inherited | None,
    stats: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> PartitionManifest:
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
        parent_numbering="" if inherited is None else inherited.parent.manifest.numbering,
        reuse=reuse_info(inherited, request.id, stats),
        keys=sought.keys,
        seconds={name: round(value, 3) for name, value in seconds.items()},
    )


def _moved(inherited: Inherited, numbering: assign.Numbering) -> dict[str, np.ndarray]:
    return {name: old[numbering.rows[name]] for name, old in inherited.old.items()}
