"""A request for a partition: its options, checked against graph.toml, and its id.

Owns the options and the id, a hash of schema, tables, tokenizer, options and format. Every table is read once
for it. Never looks into a store.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from partition.errors import DataError, UsageError
from partition.manifest import FORMAT_VERSION
from partition.methods import AUTO, check_method
from partition.quarantine import CAP, FAIL, cap_of, check_policy
from partition.schema import GraphSchema, parse_schema
from partition.storage import InputFile, InputFolder, reading
from partition.tables import table_files
from partition.tokens import check_model, tokenizer_fingerprint, tokenizer_folder

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
    memory: int
    """Bytes that each step may take, above Python and its packages."""


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
