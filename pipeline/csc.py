"""Neighbour sampling over the in-edges of one host's part, in plain torch. No DGL, no sockets.

The same functions answer a trainer on the spot (the part lies in shared memory) and another
host's trainer through graph.py's request. Which edges are drawn depends on hashes of typed ids
only, so a sample repeats whatever the number of threads, servers or trainers. There are two rules:
uniform, where each edge has a hash of its own, and LABOR (Balin & Catalyurek, NeurIPS 2023, LABOR-0
with a fixed number of neighbours), where an edge has its source node's, the same for all who ask.
Shape letters: M seeds, E candidate or drawn edges, R relations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.hashing import hash_ids

_PAIR_KEY = 0


@dataclass(frozen=True)
class PartCSC:
    """In-edges of a host's nodes, ordered by (destination, relation, source)."""

    indptr: Tensor
    """int64, one longer than the part has nodes, halo included."""
    source: Tensor
    """Per edge: position of the source among the part's nodes."""
    relation: Tensor
    """Per edge: index of the relation."""
    node_id: Tensor
    """int64 per node of the part: typed id."""


@dataclass(frozen=True)
class Drawn:
    """Drawn edges, ordered by (seed, relation, source)."""

    seed: Tensor
    """int64 E: position among the seeds."""
    relation: Tensor
    """int64 E."""
    source: Tensor
    """int64 E: typed id; its type is the relation's source type."""
    scale: Tensor
    """float32 E: in-degree under the relation, without excluded edges, over edges drawn."""


@dataclass(frozen=True)
class Excluded:
    """Edges that must not be seen."""

    names: Tensor
    """int64, ascending and distinct: what `pair_hash` calls them."""
    host: Tensor
    """int64: the host that each one's destination lies on, where all edges into it lie."""

    def into(self, host: int) -> Tensor:
        """int64: names of those that a host has to know."""
        return self.names[self.host == host]


NO_EDGES = Excluded(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))


def pair_hash(relation: Tensor | int, source: Tensor, destination: Tensor) -> Tensor:
    """int64 names of edges (relation index, typed source, typed destination), for exclusion."""
    return hash_ids(_PAIR_KEY, relation, source, destination)


def draw(
    csc: PartCSC,
    seeds: Tensor,
    fanout: Tensor,
    *,
    key: int,
    excluded: Tensor,
    source_type: Tensor | None = None,
) -> Drawn:
    """At most fanout[r] in-edges of each seed under relation r, each of them equally likely.

    `seeds` (int64 M) are positions in the part, `fanout` (int64 R) may hold -1 for all and 0 for
    none, `excluded` (int64, sorted) holds `pair_hash` names of edges that must not be seen.
    Drawn are those whose hash of (key, destination, relation, source, repeat) is lowest. With
    `source_type` (int64 R, of each relation) LABOR's: the hash is that of (key, type, source), so
    that seeds with common neighbours draw the same ones.
    """
    edge, seed = _expand(csc, seeds)
    relation = csc.relation[edge].to(torch.int64)
    source = csc.node_id[csc.source[edge].to(torch.int64)]
    destination = csc.node_id[seeds][seed]
    keep = fanout[relation] != 0
    if excluded.numel():
        keep &= ~_contains(excluded, pair_hash(relation, source, destination))
    seed, relation, source, destination = seed[keep], relation[keep], source[keep], destination[keep]
    groups, counts = torch.unique_consecutive(seed * len(fanout) + relation, return_counts=True)
    limit = fanout[groups % len(fanout)] if groups.numel() else groups
    limit = torch.where(limit < 0, counts, torch.minimum(limit, counts))
    group = torch.repeat_interleave(torch.arange(len(counts)), counts)
    crowded = (limit < counts)[group]
    chosen = torch.ones_like(crowded)
    if bool(crowded.any()):
        rows = crowded.nonzero().squeeze(1)
        repeat = _repeat_number(seed, relation, source)[rows]
        hashes = hash_ids(key, destination[rows], relation[rows], source[rows], repeat)
        if source_type is not None:
            # Parallel edges beyond the first keep hashes of their own: each must be drawn for itself.
            shared = hash_ids(key, source_type[relation[rows]], source[rows])
            hashes = torch.where(repeat == 0, shared, hashes)
        chosen[rows] = _rank_in_group(hashes, group[rows]) < limit[group[rows]]
    scale = counts.to(torch.float32) / limit
    return Drawn(seed[chosen], relation[chosen], source[chosen], scale[group[chosen]])


def among(csc: PartCSC, seeds: Tensor, relation: int, sources: Tensor) -> tuple[Tensor, Tensor]:
    """Stored edges of one relation from `sources` (typed ids, sorted, distinct) to the seeds.

    Returns (position among the seeds, position among the sources), int64, an entry per edge.
    """
    edge, seed = _expand(csc, seeds)
    right = csc.relation[edge] == relation
    edge, seed = edge[right], seed[right]
    found = csc.node_id[csc.source[edge].to(torch.int64)]
    if not sources.numel():
        return seed[:0], seed[:0]
    position = torch.searchsorted(sources, found).clamp_(max=len(sources) - 1)
    match = sources[position] == found
    return seed[match], position[match]


def _expand(csc: PartCSC, seeds: Tensor) -> tuple[Tensor, Tensor]:
    """All in-edges of the seeds: (edge number, position of its seed)."""
    first = csc.indptr[seeds]
    degree = csc.indptr[seeds + 1] - first
    seed = torch.repeat_interleave(torch.arange(len(seeds)), degree)
    before = degree.cumsum(0) - degree
    return torch.arange(len(seed)) + (first - before)[seed], seed


def _contains(ordered: Tensor, values: Tensor) -> Tensor:
    position = torch.searchsorted(ordered, values).clamp_(max=len(ordered) - 1)
    return ordered[position] == values


def _repeat_number(seed: Tensor, relation: Tensor, source: Tensor) -> Tensor:
    """0, 1, ... along each run of parallel edges, so that each draws a hash of its own."""
    changed = torch.ones(len(seed), dtype=torch.bool)
    changed[1:] = (seed.diff() != 0) | (relation.diff() != 0) | (source.diff() != 0)
    position = torch.arange(len(seed))
    return position - torch.where(changed, position, 0).cummax(0).values


def _rank_in_group(hashes: Tensor, group: Tensor) -> Tensor:
    """Rank of each hash among those of its group; groups are ascending."""
    order = hashes.argsort(stable=True)
    order = order[group[order].argsort(stable=True)]
    _, counts = torch.unique_consecutive(group, return_counts=True)
    first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order)) - first
    return rank


def edges_into(csc: PartCSC, seeds: Tensor, ids: Tensor, relation: int) -> tuple[Tensor, Tensor]:
    """(sources, destinations), typed ids, of all edges of a relation into consecutive seeds.

    `seeds` are positions in the part, `ids` their typed ids.
    """
    if not len(seeds):
        return ids, ids
    first, last = int(seeds[0]), int(seeds[-1]) + 1
    edges = slice(int(csc.indptr[first]), int(csc.indptr[last]))
    chosen = csc.relation[edges] == relation
    destination = torch.repeat_interleave(ids, csc.indptr[first + 1 : last + 1] - csc.indptr[first:last])
    return csc.node_id[csc.source[edges][chosen]], destination[chosen]
