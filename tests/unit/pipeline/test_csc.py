"""Neighbour drawing against brute force over edge lists."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.csc import Drawn, PartCSC, among, draw, pair_hash

NOTHING = torch.zeros(0, dtype=torch.int64)
RELATIONS = 3


def part_of(edges: list[tuple[int, int, int]], nodes: int) -> PartCSC:
    """A part of `nodes` nodes with typed id = 10 * position; edges are (destination, relation, source)."""
    ordered = torch.tensor(sorted(edges), dtype=torch.int64).reshape(-1, 3)
    indptr = torch.zeros(nodes + 1, dtype=torch.int64)
    indptr[1:] = torch.bincount(ordered[:, 0], minlength=nodes).cumsum(0)
    return PartCSC(indptr, ordered[:, 2], ordered[:, 1].to(torch.int32), torch.arange(nodes) * 10)


def as_counter(drawn: Drawn, seeds: Tensor) -> Counter[tuple[int, int, int]]:
    rows = zip(seeds[drawn.seed].tolist(), drawn.relation.tolist(), drawn.source.tolist(), strict=True)
    return Counter((seed, relation, source // 10) for seed, relation, source in rows)


edge_lists = st.lists(
    st.tuples(st.integers(0, 7), st.integers(0, RELATIONS - 1), st.integers(0, 7)), max_size=60
)


@given(edge_lists, st.lists(st.integers(0, 7), unique=True, max_size=8))
@settings(max_examples=60, deadline=None)
def test_full_fanout_returns_every_in_edge_of_the_seeds(
    edges: list[tuple[int, int, int]], chosen: list[int]
) -> None:
    seeds = torch.tensor(chosen, dtype=torch.int64)
    drawn = draw(part_of(edges, 8), seeds, torch.full((RELATIONS,), -1), key=1, excluded=NOTHING)
    assert as_counter(drawn, seeds) == Counter(e for e in edges if e[0] in chosen)
    assert torch.equal(drawn.scale, torch.ones(len(drawn.seed)))


@given(edge_lists, st.lists(st.integers(0, 3), min_size=RELATIONS, max_size=RELATIONS))
@settings(max_examples=60, deadline=None)
def test_fanout_limits_each_relation_of_each_seed_and_the_scale_restores_the_degree(
    edges: list[tuple[int, int, int]], fanout: list[int]
) -> None:
    seeds = torch.arange(8)
    drawn = draw(part_of(edges, 8), seeds, torch.tensor(fanout), key=1, excluded=NOTHING)
    degree = Counter((d, r) for d, r, _ in edges)
    taken: Counter[tuple[int, int]] = Counter()
    restored: Counter[tuple[int, int]] = Counter()
    for seed, relation, scale in zip(
        drawn.seed.tolist(), drawn.relation.tolist(), drawn.scale.tolist(), strict=True
    ):
        taken[seed, relation] += 1
        restored[seed, relation] += scale
    for (seed, relation), count in degree.items():
        expected = min(count, fanout[relation])
        assert taken[seed, relation] == expected
        if expected:
            assert restored[seed, relation] == pytest.approx(count)
    assert not as_counter(drawn, seeds) - Counter(edges)


@given(edge_lists, st.lists(st.integers(0, 59), max_size=10))
@settings(max_examples=60, deadline=None)
def test_excluded_edges_are_never_drawn_nor_counted(
    edges: list[tuple[int, int, int]], rows: list[int]
) -> None:
    out = {edges[i] for i in rows if i < len(edges)}
    names = [pair_hash(r, torch.tensor([s * 10]), torch.tensor([d * 10])) for d, r, s in sorted(out)]
    excluded = torch.cat([NOTHING, *names]).sort().values
    seeds = torch.arange(8)
    drawn = draw(part_of(edges, 8), seeds, torch.full((RELATIONS,), 2), key=3, excluded=excluded)
    left = [e for e in edges if e not in out]
    assert not as_counter(drawn, seeds) - Counter(left)
    degree = Counter((d, r) for d, r, _ in left)
    for seed, relation, scale in zip(
        drawn.seed.tolist(), drawn.relation.tolist(), drawn.scale.tolist(), strict=True
    ):
        assert scale == pytest.approx(degree[seed, relation] / min(2, degree[seed, relation]))


def test_a_draw_depends_on_ids_alone_and_not_on_who_asks_together() -> None:
    edges = [(d, r, s) for d in range(8) for r in range(2) for s in range(8)]
    part, fanout = part_of(edges, 8), torch.tensor([3, 2, 0])
    together = draw(part, torch.arange(8), fanout, key=9, excluded=NOTHING)
    alone = draw(part, torch.tensor([5]), fanout, key=9, excluded=NOTHING)
    five = together.seed == 5
    assert torch.equal(together.source[five], alone.source)
    backwards = torch.arange(8).flip(0)
    turned = draw(part, backwards, fanout, key=9, excluded=NOTHING)
    assert as_counter(turned, backwards) == as_counter(together, torch.arange(8))


def test_every_neighbour_is_drawn_equally_often_over_many_keys() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    part = part_of([(0, 0, s) for s in range(1, 8)], 8)
    drawn = [
        draw(part, torch.tensor([0]), torch.tensor([2, 0, 0]), key=k, excluded=NOTHING).source
        for k in range(3500)
    ]
    counts = torch.bincount(torch.cat(drawn) // 10, minlength=8)[1:]
    assert int(counts.sum()) == 7000
    assert scipy_stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_parallel_edges_are_drawn_as_edges_of_their_own() -> None:
    part = part_of([(0, 0, 1)] * 5 + [(0, 0, 2)], 3)
    drawn = draw(part, torch.tensor([0]), torch.tensor([4, 0, 0]), key=2, excluded=NOTHING)
    assert len(drawn.source) == 4
    assert float(drawn.scale.sum()) == pytest.approx(6.0)


@given(edge_lists, st.integers(0, RELATIONS - 1), st.lists(st.integers(0, 7), unique=True))
@settings(max_examples=60, deadline=None)
def test_among_finds_exactly_the_stored_edges_between_two_sets(
    edges: list[tuple[int, int, int]], relation: int, sources: list[int]
) -> None:
    seeds, wanted = torch.tensor([1, 4, 6]), torch.tensor(sorted(sources), dtype=torch.int64) * 10
    seed, source = among(part_of(edges, 8), seeds, relation, wanted)
    found = Counter(zip(seeds[seed].tolist(), (wanted[source] // 10).tolist(), strict=True))
    expected = Counter((d, s) for d, r, s in edges if r == relation and d in (1, 4, 6) and s in sources)
    assert found == expected
