"""What a build of a request would make and take, told before it begins.

Owns what is known beforehand and how far it is trusted. Never reads a table whole, never writes.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from partition.assemble import Request
from partition.errors import DataError, DiskFullError
from partition.likely import Likely, likely
from partition.memory import size_words
from partition.needs import (
    BYTES_A_TOKEN,
    TEXT_SECONDS,
    Level,
    Options,
    Relation,
    Sizes,
    disk_of,
    levels_of,
    memory_of,
    scratch_of,
    seconds_of,
    sizes_of,
)
from partition.survey import TableSurvey, survey
from partition.tokens import load_tokenizer

DISK_FACTOR = 1.5
"""The partition's size on disk is within this of what is told, from thousands of nodes on and as far as the
tables' samples are like the rest (tests/unit/partition/test_partition_dry_run.py)."""
_TRIED_TEXTS = 500
"""Of a node type."""


@dataclass(frozen=True)
class Tokens:
    """Of the texts of one node type."""

    count: float
    seconds: float
    tried: int
    """Texts of the sample that were tokenized; 0: guessed by length."""


@dataclass(frozen=True)
class Forecast:
    """All that is told. Bytes, and CPU seconds, by phase (ingest, cut, writing) or kind of file."""

    hosts: int
    nodes: tuple[TableSurvey, ...]
    relations: tuple[Relation, ...]
    sizes: Sizes
    levels: tuple[Level, ...]
    """Empty where an earlier partition's cut is kept."""
    tokens: Mapping[str, Tokens]
    memory: Mapping[str, int]
    disk: Mapping[str, int]
    scratch: Mapping[str, int]
    seconds: Mapping[str, float]
    likely: Likely

    @property
    def tables(self) -> tuple[TableSurvey, ...]:
        return (*self.nodes, *(relation.table for relation in self.relations))

    @property
    def disk_bytes(self) -> int:
        """Of the partition's files."""
        return sum(self.disk.values())

    @property
    def peak_disk(self) -> int:
        """What has to be free where it is built, less what would be links to an earlier partition's files."""
        new = self.disk_bytes - (self.disk["graph"] + self.disk["ids"] if self.likely.how == "kept" else 0)
        return max(self.scratch["ingest"], self.scratch["cut"], self.scratch["writing"] + new)


def forecast(request: Request, root: Path, *, reuse: bool, try_texts: bool) -> Forecast:
    """By footers and samples of the tables, and the manifests of the store `root`.

    With `try_texts` the tokenizer is loaded, which takes seconds. DataError for a table that is missing or
    cannot be read.
    """
    names = {field.name for field in fields(Options)}
    options = Options(**{k: v for k, v in request.options.items() if k in names}, memory=request.memory)
    tables = survey(request.schema, request.files)
    nodes = tables[: len(request.schema.nodes)]
    reverse = request.options["reverse"]
    relations = tuple(
        Relation(table, bool(edge.reverse_name(default=reverse)))
        for table, edge in zip(tables[len(nodes) :], request.schema.edges, strict=True)
    )
    tokens = _tokens(request, nodes, options, try_texts=try_texts)
    sizes = sizes_of(nodes, relations, sum(t.count for t in tokens.values()), options)
    counts = {table.name: table.rows for table in tables}
    found = likely(request, counts, root) if reuse else Likely()
    levels = () if found.how == "kept" else levels_of(sizes, options)
    new_texts = [t.seconds for name, t in tokens.items() if name not in found.tokens]
    return Forecast(
        hosts=options.hosts,
        nodes=nodes,
        relations=relations,
        sizes=sizes,
        levels=levels,
        tokens=tokens,
        memory=memory_of(nodes, sizes, levels, options.memory),
        disk=disk_of(nodes, relations, sizes, options),
        scratch=scratch_of(sizes),
        seconds=seconds_of(sizes, levels, sum(new_texts)),
        likely=found,
    )


def too_little(told: Forecast, memory: int) -> str:
    """What is said where a build needs more than `memory` bytes; empty where it does not."""
    phase, need = max(told.memory.items(), key=lambda item: item[1])
    words = f"{phase} needs about {size_words(need)} of memory, more than {size_words(memory)}"
    return words if need > memory else ""


def look_at_room(request: Request, root: Path, say: Callable[[str], None], *, reuse: bool) -> None:
    """DiskFullError where the disk of `root` cannot hold a build however far the forecast is off.

    Too little memory is warned of: a build takes what it needs, and the forecast may be wrong. What is wrong
    with a table is left to the build, which says it of every one.
    """
    try:
        told = forecast(request, root, reuse=reuse, try_texts=False)
    except DataError:
        return
    if words := too_little(told, request.memory):
        say(f"warning: {words}")
    if (least := told.peak_disk / DISK_FACTOR) > (free := free_bytes(root)):
        raise no_room(root, f"at least {size_words(least)} are", free)


def no_room(root: Path, need: str, free: int) -> DiskFullError:
    return DiskFullError(
        f"{root}: {need} needed, {size_words(free)} of the disk are free",
        hint="free some space, or choose another --store (of a store at a URL: another --cache)",
    )


def free_bytes(root: Path) -> int:
    """Of the disk that a folder is on, or will be."""
    there = root.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def _tokens(
    request: Request, nodes: Sequence[TableSurvey], options: Options, *, try_texts: bool
) -> dict[str, Tokens]:
    """Type -> what becomes of its texts."""
    if request.tokenizer_folder is None:
        return {}
    texts = {table.name.removeprefix("nodes."): table for table in nodes if table.texts}
    tokenizer = load_tokenizer(request.tokenizer_folder) if try_texts and texts else None
    found = {}
    for name, table in texts.items():
        if tokenizer is None:
            mean = min(table.text_bytes / BYTES_A_TOKEN + 2, options.max_length)
            found[name] = Tokens(mean * table.rows, TEXT_SECONDS * table.rows, 0)
            continue
        tried = table.texts[:: -(-len(table.texts) // _TRIED_TEXTS)]
        start = time.process_time()
        lists = tokenizer(list(tried), truncation=True, max_length=options.max_length)["input_ids"]
        seconds = (time.process_time() - start) / len(tried)
        mean = sum(map(len, lists)) / len(tried)
        found[name] = Tokens(mean * table.rows, seconds * table.rows, len(tried))
    return found
