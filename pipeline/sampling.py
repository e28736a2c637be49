"""Targets -> `Batch`: negatives and sampled neighbourhoods.

Every random choice is a hash of (seed, stage, batch number, purpose, id), see hashing.py.
Shape letters: B targets, K negatives, N nodes of one type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.batch import Batch, Edges, Layer, LinkTargets
from pipeline.config import ModelPlan, TaskPlan
from pipeline.csc import NO_EDGES, Excluded, pair_hash
from pipeline.graph import Graph
from pipeline.hashing import key_of
from pipeline.negatives import Fresh, Negatives, link_negatives, no_fresh
from pipeline.targets import Links

Nodes = dict[str, Tensor]


@dataclass(frozen=True)
class Sampler:
    """How neighbourhoods are drawn."""

    fanout: tuple[Tensor, ...] = ()
    """Per layer, from the targets outwards: int64 R, neighbours to draw under each relation. Empty for
    a stage that looks at texts alone."""
    labor: bool = False
    """Whether all nodes and layers of a batch prefer the same neighbours, see csc.draw."""


def sampler_of(graph: Graph, plan: ModelPlan) -> Sampler:
    fanout = tuple(
        torch.tensor([plan.fanout_of.get(name, plan.fanout)[depth] for name in graph.relations])
        for depth in range(plan.gnn_layers)
    )
    return Sampler(fanout, labor=plan.sampler == "labor")


def expand(
    graph: Graph, seeds: Mapping[str, Tensor], sampler: Sampler, *, key: int, excluded: Excluded = NO_EDGES
) -> tuple[Nodes, tuple[Layer, ...]]:
    """Sampled neighbourhoods of the seeds (typed ids, distinct).

    Returns every node of the batch, seeds first, and the layers from the input to the seeds.
    """
    nodes: Nodes = {t: seeds.get(t, torch.zeros(0, dtype=torch.int64)) for t in graph.ids.types}
    layers: list[Layer] = []
    for depth, fan in enumerate(sampler.fanout):
        draw_key = key_of(key, "labor") if sampler.labor else key_of(key, "layer", depth)
        drawn = graph.sample(nodes, fan, key=draw_key, excluded=excluded, labor=sampler.labor)
        before = {t: len(ids) for t, ids in nodes.items()}
        for node_type in graph.ids.types:
            found = [
                n.source for name, n in drawn.items() if graph.manifest.relation(name).source == node_type
            ]
            if found:
                nodes[node_type] = _append_new(nodes[node_type], torch.cat(found))
        edges = {}
        for name, neighbours in drawn.items():
            position = _positions(nodes[graph.manifest.relation(name).source], neighbours.source)
            edges[name] = Edges(position, neighbours.destination, neighbours.scale)
        layers.append(Layer({t: len(ids) for t, ids in nodes.items()}, before, edges))
    return nodes, tuple(reversed(layers))


def _append_new(known: Tensor, found: Tensor) -> Tensor:
    found = torch.unique(found)
    return torch.cat([known, found[~torch.isin(found, known)]])


def _positions(nodes: Tensor, ids: Tensor) -> Tensor:
    """Where each id stands among the (distinct) nodes."""
    order = nodes.argsort()
    return order[torch.searchsorted(nodes[order], ids)]


def excluded_edges(graph: Graph, relations: Sequence[str], links: Links) -> Excluded:
    """Edges that would tell the answer: the targets, their reverses, and under relations within one type
    the same pair the other way round."""
    names, hosts = [NO_EDGES.names], [NO_EDGES.host]

    def exclude(relation: str, source: Tensor, destination: Tensor) -> None:
        names.append(pair_hash(graph.relation_index[relation], source, destination))
        hosts.append(graph.ids.host_of(graph.manifest.relation(relation).destination, destination))

    for number, name in enumerate(relations):
        rows = links.relation == number
        source, destination = links.source[rows], links.destination[rows]
        info = graph.manifest.relation(name)
        exclude(name, source, destination)
        if info.reverse:
            exclude(info.reverse, destination, source)
        if info.source == info.destination:
            exclude(name, destination, source)
            if info.reverse:
                exclude(info.reverse, source, destination)
    found, position = torch.unique(torch.cat(names), return_inverse=True)
    return Excluded(found, torch.zeros_like(found).scatter_(0, position, torch.cat(hosts)))


def link_clusters(graph: Graph, relations: Sequence[str], links: Links) -> Tensor:
    """int64: the cluster of each link's destination."""
    found = torch.zeros(len(links), dtype=torch.int64)
    for number, name in enumerate(relations):
        rows = links.relation == number
        node_type = graph.manifest.relation(name).destination
        found[rows] = graph.ids.cluster_of(node_type, links.destination[rows])
    return found


class LinkBatches:
    """Makes link-prediction batches of one task: true edges, negatives, neighbourhoods."""

    def __init__(
        self,
        graph: Graph,
        task: TaskPlan,
        relations: Sequence[str],
        *,
        sampler: Sampler,
        fresh: Fresh = no_fresh,
    ) -> None:
        """`fresh`: asked when a batch is made."""
        self._graph, self._task, self._relations, self._sampler = graph, task, tuple(relations), sampler
        self._fresh = fresh

    def make(self, links: Links, *, part: int, key: int) -> Batch:
        """A batch without inputs (see inputs.py); `key` names stage and batch number."""
        groups: dict[str, tuple[Links, Negatives, Negatives]] = {}
        seeds: dict[str, list[Tensor]] = {}
        clusters = torch.unique(link_clusters(self._graph, self._relations, links))
        for number, name in enumerate(self._relations):
            chosen = links.select((links.relation == number).nonzero().squeeze(1))
            if not len(chosen):
                continue
            tails, heads = link_negatives(
                self._graph,
                self._task,
                name,
                chosen,
                part=part,
                clusters=clusters,
                fresh=self._fresh,
                key=key_of(key, "negatives", name, part),
            )
            groups[name] = (chosen, tails, heads)
            info = self._graph.manifest.relation(name)
            seeds.setdefault(info.source, []).extend([chosen.source, heads.ids.flatten()])
            seeds.setdefault(info.destination, []).extend([chosen.destination, tails.ids.flatten()])
        distinct = {t: torch.unique(torch.cat(ids)) for t, ids in seeds.items()}
        targets = {name: self._link_targets(name, *group, distinct) for name, group in groups.items()}
        excluded = excluded_edges(self._graph, self._relations, links)
        nodes, layers = expand(self._graph, distinct, self._sampler, key=key, excluded=excluded)
        return Batch(nodes=nodes, layers=layers, links=targets, key=key)

    def _link_targets(
        self, relation: str, links: Links, tails: Negatives, heads: Negatives, seeds: Nodes
    ) -> LinkTargets:
        info = self._graph.manifest.relation(relation)
        source, destination = seeds[info.source], seeds[info.destination]
        head, tail = links.source, links.destination
        return LinkTargets(
            head=torch.searchsorted(source, head),
            tail=torch.searchsorted(destination, tail),
            negative_tail=torch.searchsorted(destination, tails.ids),
            negative_head=torch.searchsorted(source, heads.ids),
            tail_mask=~self._known(relation, head, tails.ids, tail, turned=False),
            head_mask=~self._known(relation, tail, heads.ids, head, turned=True),
            tail_log_q=tails.log_q,
            head_log_q=heads.log_q,
        )

    def _known(self, relation: str, end: Tensor, others: Tensor, truth: Tensor, *, turned: bool) -> Tensor:
        """bool B x K: whether `others` would make a true edge of the relation with `end`.

        Not turned: the ends are heads and the others tails; turned: the other way round.
        """
        shared = others.dim() == 1
        ends, end_row = torch.unique(end, return_inverse=True)
        candidates, other_row = torch.unique(others, return_inverse=True)
        exists = torch.zeros(len(ends), len(candidates), dtype=torch.bool)
        if candidates.numel():
            if turned:
                row, column = self._graph.among(relation, ends, candidates)
            else:
                column, row = self._graph.among(relation, candidates, ends)
            exists[row, column] = True
        other_row = other_row[None, :] if shared else other_row
        grid = others[None, :] if shared else others
        return exists[end_row[:, None], other_row] | (grid == truth[:, None])
