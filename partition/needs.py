"""What a build takes by what its tables hold: memory, disk and seconds, by measured constants.

Owns those constants and the arithmetic. Never opens a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial

from partition.choose import PROPAGATION, choose, choose_clusters, held_bytes, need_of, room_to_cut
from partition.lookup import lookup_bytes
from partition.room import Room
from partition.survey import TableSurvey


@dataclass(frozen=True)
class Sizes:
    """A graph as it will be built. The fields of `Costs` are of the same names."""

    largest_bytes: float
    """Of all columns that are read of the largest table."""
    text_bytes: float
    nodes: float
    edges: float
    """Rows of the relations that messages may use."""
    stored_edges: float
    """With reverses."""
    host_edges: float
    """Of the fullest host, if edges are spread evenly."""
    host_nodes: float
    """With those that edges come from, at most."""
    tokens: float
    feature_bytes: float
    """Of nodes and of relations' rows, as float32."""


@dataclass(frozen=True)
class Costs:
    """Bytes, or seconds, for one of each of `Sizes`."""

    largest_bytes: float = 0
    text_bytes: float = 0
    nodes: float = 0
    edges: float = 0
    stored_edges: float = 0
    host_edges: float = 0
    host_nodes: float = 0
    tokens: float = 0
    feature_bytes: float = 0

    def of(self, sizes: Sizes) -> float:
        mine, theirs = asdict(self), asdict(sizes)
        return float(sum(mine[name] * theirs[name] for name in mine))


# Above what Python and its packages take. Ingest: 16 million edges between 1.6 million ids of 17 letters took
# 9.5 CPU seconds. Writing: 16 million edges and reverses, 8 hosts, 5 CPU seconds; 100 million, 37.
# Scratch by the widths of what is kept. Where ingest or writing changes, measure again.
RECORD_BYTES = 50
"""Of a record that is sorted (room.py)."""
MEMORY = {
    "ingest": 40_000_000,
    # Beside the cut, whose own need, and what is held meanwhile, are choose.py's.
    "cut": 10_000_000,
    "writing": 90_000_000,
}
"""Pieces of tables, of edges and of parts, and what earlier steps have had that the allocator keeps."""
WRITING = Costs(nodes=5, host_nodes=30, host_edges=9)
# What tables were read into: features, texts, ids and rows in their order are there until the end,
_KEPT = {"nodes": 16.0, "feature_bytes": 1.0, "text_bytes": 1.0}
# rows of both ends until edges are sorted.
_READ = {"edges": 16.0, **_KEPT}
SCRATCH = {
    # One table as it came.
    "ingest": Costs(**_READ, largest_bytes=1),
    # Rows of neighbours, their weights, and both again while they are sorted or a piece of them is cut.
    "cut": Costs(**{**_READ, "edges": 56.0, "nodes": 32.0}),
    # Sorted edges, and a relation of them once more.
    "sorting": Costs(**_READ, stored_edges=16),
    # The same without that, and one host's, beside the partition.
    "writing": Costs(**_KEPT, stored_edges=8, host_edges=18),
}
SECONDS = {
    "ingest": Costs(edges=0.5e-6, nodes=1.5e-6, text_bytes=5e-9, feature_bytes=4e-9),
    "writing": Costs(stored_edges=0.2e-6, nodes=0.3e-6, feature_bytes=4e-9, tokens=1e-8),
}
CUT_SECONDS = {
    "metis": 1.5e-6,
    "kaminpar": 1.6e-6,
    "semi-external": 0.9e-6,
    "random": 0.1e-6,
    PROPAGATION: 0.25e-6,
}
"""Of an edge, for each level; docs/partitioning.md."""
TEXT_SECONDS = 0.2e-3
"""Of a text where none was tried; Debian's descriptions: 11 s for 61,000."""
BYTES_A_TOKEN = 4
"""Of English text, where none was tried."""


@dataclass(frozen=True)
class Options:
    """What of a request decides its size."""

    hosts: int
    trainers: int
    cluster_size: int
    method: str
    even: bool
    keep_eval_edges: bool
    max_length: int
    memory: int
    """Bytes that each step may take."""


@dataclass(frozen=True)
class Relation:
    """A relation of the survey, and whether its edges are stored turned round as well."""

    table: TableSurvey
    reversed: bool


@dataclass(frozen=True)
class Level:
    """A level of the partition and the method that would cut it."""

    level: str
    method: str
    why: str
    bytes: int
    """Memory that it takes at most."""
    edges: int
    """Of all its pieces together."""


def sizes_of(
    nodes: Sequence[TableSurvey], relations: Sequence[Relation], tokens: float, options: Options
) -> Sizes:
    """`tokens`: of all texts; 0 where they are left out."""
    kept = {r.table.name: _kept(r.table, options) for r in relations}
    stored = sum(kept[r.table.name] * (2 if r.reversed else 1) for r in relations)
    tables = [*nodes, *(r.table for r in relations)]
    every = [table.rows * table.row_bytes for table in tables]
    count = sum(table.rows for table in nodes)
    return Sizes(
        largest_bytes=max(every, default=0.0),
        text_bytes=sum(table.rows * table.text_bytes for table in nodes),
        nodes=count,
        edges=sum(kept.values()),
        stored_edges=stored,
        host_edges=stored / options.hosts,
        host_nodes=(own := count / options.hosts) + min(count - own, 0.2 * stored / options.hosts),
        tokens=tokens,
        feature_bytes=sum(4.0 * table.features * table.rows for table in tables),
    )


def levels_of(sizes: Sizes, options: Options) -> tuple[Level, ...]:
    """Which method cuts which level; every edge counts as one that differs in weight from others."""
    parts = options.hosts * options.trainers
    clusters = round(sizes.nodes / parts / options.cluster_size)
    found = []
    for level, pieces, blocks in (
        ("hosts", 1, options.hosts),
        ("trainers", options.hosts, options.trainers),
        ("clusters", parts, clusters),
    ):
        if blocks <= 1:
            continue
        nodes, edges = round(sizes.nodes / pieces), round(sizes.edges / pieces)
        choose_level = choose
        if level == "clusters":
            choose_level = partial(choose_clusters, all_edges=round(sizes.edges))
        memory = room_to_cut(options.memory, round(sizes.nodes))
        choice = choose_level(options.method, nodes=nodes, edges=edges, weighted=True, memory=memory)
        even = options.even and level != "clusters"
        need = need_of(choice.method, nodes=nodes, edges=edges, weighted=True, memory=memory, even=even)
        found.append(Level(level, choice.method, choice.why, need, round(sizes.edges)))
    return tuple(found)


def memory_of(
    nodes: Sequence[TableSurvey], sizes: Sizes, levels: Sequence[Level], memory: int
) -> dict[str, int]:
    """Bytes at the peak of each phase, above what Python and its packages take, within a limit."""
    sorting = RECORD_BYTES * min(Room(memory=memory).records, round(sizes.stored_edges))
    lookups = (
        lookup_bytes(round(t.rows), t.stored_id_bytes, texts=t.ids != "integers", memory=memory)
        for t in nodes
    )
    cutting = max((level.bytes for level in levels), default=0)
    return {
        "ingest": MEMORY["ingest"] + max(sorting, *lookups, 0),
        "cut": MEMORY["cut"] + held_bytes(round(sizes.nodes)) + max(cutting, sorting),
        "writing": MEMORY["writing"] + max(round(WRITING.of(sizes)), sorting),
    }


def disk_of(
    nodes: Sequence[TableSurvey], relations: Sequence[Relation], sizes: Sizes, options: Options
) -> dict[str, int]:
    """Bytes of the partition's files by what they hold (docs/partition-format.md)."""
    # A host has a copy of each outer end of its edges. In graphs with communities a fifth of the edges at
    # most has one of its own, and no host has more than all nodes of the others.
    halo = min(0.2 * sizes.stored_edges, sizes.nodes * (options.hosts - 1)) if options.hosts > 1 else 0
    edge_features = sum(
        4.0 * r.table.features * _kept(r.table, options) * (2 if r.reversed else 1) for r in relations
    )
    texts = sum(table.rows for table in nodes if table.text_bytes or table.texts) if sizes.tokens else 0
    tables = len(nodes) + 2 * len(relations)
    return {
        "graph": round(18 * sizes.stored_edges + 19 * (sizes.nodes + halo)),
        "features": round(
            sum((4.0 * table.features + 4 * table.label) * table.rows for table in nodes) + edge_features
        ),
        "tokens": round(2 * sizes.tokens + 16 * texts),
        "ids": round(sum(table.stored_id_bytes * table.rows for table in nodes)),
        "targets": round(
            sum(9 * table.targets * table.rows for table in nodes if table.label)
            + sum((10 + 4.0 * r.table.features) * r.table.targets * r.table.rows for r in relations)
        ),
        # Headers of each host's files and lines of the manifest: 1 KB a table, 12 bytes a cluster and type.
        "rest": round(
            4000
            + 1000 * tables * options.hosts
            + 24 * len(nodes) * (options.hosts * options.trainers + sizes.nodes / options.cluster_size)
        ),
    }


def scratch_of(sizes: Sizes) -> dict[str, int]:
    """Bytes of files beside the partition that a phase needs and none keeps."""
    return {phase: round(costs.of(sizes)) for phase, costs in SCRATCH.items()}


def seconds_of(sizes: Sizes, levels: Sequence[Level], tokenizing_s: float) -> dict[str, float]:
    """CPU seconds of each phase."""
    found = {phase: costs.of(sizes) for phase, costs in SECONDS.items()}
    cut = sum(CUT_SECONDS.get(level.method, CUT_SECONDS["metis"]) * level.edges for level in levels)
    return {"ingest": found["ingest"], "tokens": tokenizing_s, "cut": cut, "writing": found["writing"]}


def _kept(table: TableSurvey, options: Options) -> float:
    """Edges of a relation that messages may use."""
    return table.rows * (1.0 if options.keep_eval_edges else 1 - table.held_out)
