"""What a build of a request would make and take, told before it begins.

Owns what is known beforehand and how far it is trusted. Never reads a table whole, never writes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from partition.earlier import Earlier
from partition.likely import Likely, likely
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
from partition.request import Request
from partition.survey import TableSurvey, survey
from partition.tokens import load_tokenizer

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
    pulled_bytes: int = 0
    """Of the files of an earlier partition that is not on this machine."""

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
        scratch = {**self.scratch, "writing": self.scratch["writing"] + new}
        return self.pulled_bytes + max(scratch.values())


def forecast(request: Request, earlier: Sequence[Earlier], *, try_texts: bool) -> Forecast:
    """By footers and samples of the tables, and the manifests of partitions that may be reused, newest first.

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
    found = likely(request, counts, earlier)
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
