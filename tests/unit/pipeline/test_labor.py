"""LABOR sampling: fewer distinct neighbours, each edge as likely as under uniform sampling."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toy import build_partition

from partition.manifest import PartitionManifest
from pipeline.cost.offline import OfflineGraph
from pipeline.csc import Drawn, PartCSC, draw, pair_hash
from pipeline.sampling import Sampler, excluded_edges, expand
from pipeline.targets import Links

NOTHING = torch.zeros(0, dtype=torch.int64)
TYPES = torch.tensor([0, 0, 1])
"""Of the sources of three relations: two share a type."""
Edge = tuple[int, int, int]
"""(destination, relation, source)."""


def part_of(edges: list[Edge], ids: list[int]) -> PartCSC:
    """A part of nodes with these typed ids; ends of edges are typed ids too."""
    place = {node: position for position, node in enumerate(ids)}
    ordered = torch.tensor(sorted((place[d], r, place[s]) for d, r, s in edges), dtype=torch.int64).reshape(
        -1, 3
    )
    indptr = torch.zeros(len(ids) + 1, dtype=torch.int64)
    indptr[1:] = torch.bincount(ordered[:, 0], minlength=len(ids)).cumsum(0)
    return PartCSC(indptr, ordered[:, 2], ordered[:, 1], torch.tensor(ids))


def labor(part: PartCSC, seeds: Tensor, fanout: list[int], *, key: int, excluded: Tensor = NOTHING) -> Drawn:
    return draw(part, seeds, torch.tensor(fanout), key=key, excluded=excluded, source_type=TYPES)


def drawn_edges(part: PartCSC, seeds: Tensor, drawn: Drawn) -> list[Edge]:
    ids = part.node_id[seeds[drawn.seed]].tolist()
    return sorted(zip(ids, drawn.relation.tolist(), drawn.source.tolist(), strict=True))


EDGES = [(0, 0, s) for s in (3, 4, 5, 6, 7)] + [(1, 0, s) for s in (4, 4, 4, 6, 8, 9)]
EDGES += [(0, 1, s) for s in (5, 6, 7, 8)] + [(1, 2, s) for s in (3, 4, 5)]


def test_sums_over_drawn_edges_are_right_on_average() -> None:
    part, value = part_of(EDGES, list(range(10))), torch.arange(10, dtype=torch.float64) ** 2
    keys, seeds = 6000, torch.tensor([0, 1])
    sums = torch.zeros(keys, 2, 3, dtype=torch.float64)
    for key in range(keys):
        drawn = labor(part, seeds, [2, 3, 1], key=key)
        sums[key].index_put_((drawn.seed, drawn.relation), drawn.scale * value[drawn.source], accumulate=True)
    expected = torch.zeros(2, 3, dtype=torch.float64)
    for destination, relation, source in EDGES:
        expected[destination, relation] += value[source]
    error = 4 * sums.std(0) / keys**0.5
    assert bool(((sums.mean(0) - expected).abs() <= error).all())
    assert bool((sums.std(0)[expected > 0] > 0).all())


def test_parallel_edges_are_each_as_likely_as_any_other() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    part, seeds = part_of([(0, 0, 1)] * 3 + [(0, 0, 2), (0, 0, 3)], [0, 1, 2, 3]), torch.tensor([0])
    counts = torch.zeros(4)
    for key in range(3000):
        counts += torch.bincount(labor(part, seeds, [1, 0, 0], key=key).source, minlength=4)
    assert scipy_stats.chisquare(counts[1:].numpy(), [1800, 600, 600]).pvalue > 1e-3


def test_all_destinations_and_relations_from_one_type_prefer_the_same_sources() -> None:
    sources = range(10, 40)
    edges = [(d, r, s) for d in range(5) for r in (0, 1, 2) for s in sources]
    part, seeds = part_of(edges, [*range(5), *sources]), torch.arange(5)
    drawn = labor(part, seeds, [4, 4, 4], key=3)
    chosen = {r: set(drawn.source[drawn.relation == r].tolist()) for r in (0, 1, 2)}
    assert len(chosen[0]) == 4
    assert chosen[0] == chosen[1]
    assert chosen[0] != chosen[2]  # another node type under the same numbers


def test_nodes_with_common_neighbours_draw_fewer_distinct_ones_than_uniformly() -> None:
    generator = torch.Generator().manual_seed(0)
    edges = sorted(
        {(d, 0, 100 + int(s)) for d in range(50) for s in torch.randperm(60, generator=generator)[:20]}
    )
    part, seeds = part_of(edges, [*range(50), *range(100, 160)]), torch.arange(50)
    distinct = torch.zeros(2)
    for key in range(20):
        for which, types in enumerate((None, TYPES)):
            drawn = draw(part, seeds, torch.tensor([3, 0, 0]), key=key, excluded=NOTHING, source_type=types)
            assert len(drawn.source) == 150
            distinct[which] += len(drawn.source.unique())
    uniform, shared = (distinct / 20).tolist()
    assert shared < 0.75 * uniform


edge_lists = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 2), st.integers(0, 7)), max_size=60)


@given(edge_lists, st.lists(st.integers(0, 59), max_size=10))
@settings(max_examples=60, deadline=None)
def test_excluded_edges_are_never_drawn_nor_counted(edges: list[Edge], rows: list[int]) -> None:
    out = {edges[i] for i in rows if i < len(edges)}
    names = [pair_hash(r, torch.tensor([s]), torch.tensor([d])) for d, r, s in sorted(out)]
    excluded = torch.cat([NOTHING, *names]).sort().values
    left = [e for e in edges if e not in out]
    part, seeds = part_of(edges, list(range(8))), torch.arange(8)
    drawn = labor(part, seeds, [2, 2, 2], key=3, excluded=excluded)
    alone = labor(part_of(left, list(range(8))), seeds, [2, 2, 2], key=3)
    assert drawn_edges(part, seeds, drawn) == drawn_edges(part, seeds, alone)
    assert torch.equal(drawn.scale, alone.scale)
    assert not set(drawn_edges(part, seeds, drawn)) & out


@given(edge_lists, st.integers(0, 8))
@settings(max_examples=60, deadline=None)
def test_parts_draw_what_the_whole_graph_draws(edges: list[Edge], border: int) -> None:
    everyone = list(range(8))
    whole = part_of(edges, everyone)
    expected = drawn_edges(whole, torch.arange(8), labor(whole, torch.arange(8), [1, 2, 3], key=5))
    found = []
    for own in (everyone[:border], everyone[border:]):
        halo = [node for node in everyone if node not in own]
        part = part_of([e for e in edges if e[0] in own], [*own, *halo])
        seeds = torch.arange(len(own))
        found += drawn_edges(part, seeds, labor(part, seeds, [1, 2, 3], key=5))
    assert sorted(found) == expected


def test_two_hosts_draw_the_batch_of_one(toy: tuple[Path, Path, Path]) -> None:
    graph, lm, store = toy
    batches = []
    for hosts in (1, 2):
        folder = build_partition(graph, lm, store, hosts=hosts, trainers=2 // hosts)
        offline = OfflineGraph(folder, PartitionManifest.load(folder))
        sampler = Sampler((torch.full((len(offline.relations),), 2),) * 2, labor=True)
        seeds = {"paper": torch.arange(0, 240, 7)}
        batches.append((offline.manifest.offsets, *expand(offline, seeds, sampler, key=5)))
    (offsets, nodes, layers), (other_offsets, other_nodes, other_layers) = batches
    assert offsets == other_offsets
    assert all(torch.equal(ids, other_nodes[name]) for name, ids in nodes.items())
    for layer, other in zip(layers, other_layers, strict=True):
        assert layer.sources == other.sources
        assert layer.edges.keys() == other.edges.keys()
        for name, edges in layer.edges.items():
            assert torch.equal(edges.source, other.edges[name].source)
            assert torch.equal(edges.destination, other.edges[name].destination)
            assert torch.equal(edges.scale, other.edges[name].scale)


def test_a_node_met_in_two_layers_draws_the_same_neighbours_in_both(toy: tuple[Path, Path, Path]) -> None:
    graph, lm, store = toy
    folder = build_partition(graph, lm, store, hosts=1, trainers=2)
    offline = OfflineGraph(folder, PartitionManifest.load(folder))
    sampler = Sampler((torch.full((len(offline.relations),), 2),) * 2, labor=True)
    _, (outer, inner) = expand(offline, {"paper": torch.arange(10)}, sampler, key=5)
    for name, edges in inner.edges.items():
        seeds = outer.edges[name].destination < 10
        again = outer.edges[name].source[seeds]
        assert torch.equal(edges.source, again)
        assert torch.equal(edges.destination, outer.edges[name].destination[seeds])


def test_a_host_is_told_of_the_excluded_edges_into_its_own_nodes_and_no_others(
    toy: tuple[Path, Path, Path],
) -> None:
    graph, lm, store = toy
    folder = build_partition(graph, lm, store, hosts=2, trainers=1)
    offline = OfflineGraph(folder, PartitionManifest.load(folder))
    ids = torch.arange(40)
    links = Links(torch.zeros_like(ids), 5 * ids + 2, 199 - 4 * ids)
    excluded = excluded_edges(offline, ["cites"], links)
    told = [excluded.into(host) for host in range(2)]
    assert torch.cat(told).sort().values.tolist() == excluded.names.tolist()
    number, pairs = offline.relation_index["cites"], torch.stack([links.source, links.destination])
    for source, destination in (pairs, pairs.flip(0)):
        owner = offline.ids.host_of("paper", destination)
        assert 0 < int(owner.sum()) < len(ids)
        for host in range(2):
            names = pair_hash(number, source[owner == host], destination[owner == host])
            assert bool(torch.isin(names, told[host]).all())
