"""Which texts get gradients, against rankings in plain Python and against chance."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from partition.manifest import NodeTypeInfo, PartitionManifest, RelationInfo
from pipeline.batch import Batch, ClassTargets, Edges, Layer, LinkTargets
from pipeline.trainrows import TrainRows, choose_train_rows

MANIFEST = PartitionManifest(
    id="p",
    graph_name="g",
    hosts=1,
    trainers=1,
    node_types=(NodeTypeInfo("paper", 40, text=True), NodeTypeInfo("note", 40, text=True),
                NodeTypeInfo("author", 40)),
    relations=(
        RelationInfo("cites", "paper", "paper", 1),
        RelationInfo("about", "note", "paper", 1),
        RelationInfo("by", "paper", "author", 1),
    ),
    clusters=(1,),
    offsets={"paper": (0, 40), "note": (0, 40), "author": (0, 40)},
    options={},
    inputs={},
    stats={},
    files={},
)  # fmt: skip
TEXTS = ("paper", "note")
SEEDS, MIDDLE, ALL = {"paper": 10}, {"paper": 16, "note": 6}, {"paper": 24, "note": 14, "author": 3}
USABLE = torch.ones(2, 2, dtype=torch.bool)


def edges(seed: int, sources: int, destinations: int) -> Edges:
    generator = torch.Generator().manual_seed(seed)
    source, destination = (torch.randint(n, (30,), generator=generator) for n in (sources, destinations))
    return Edges(source, destination.sort().values, torch.ones(30))


def links_batch(seed: int) -> Batch:
    """Targets 3, 4 -> 4, 7 of ten seeds; the other seeds are negatives."""
    positions = torch.arange(10)
    layers = (
        Layer(ALL, MIDDLE, {"cites": edges(seed, 24, 16), "about": edges(seed + 1, 14, 16)}),
        Layer(MIDDLE, SEEDS, {"cites": edges(seed + 2, 16, 10), "about": edges(seed + 3, 6, 10)}),
    )
    nodes = {t: torch.randperm(40, generator=torch.Generator().manual_seed(seed))[:n] for t, n in ALL.items()}
    links = LinkTargets(torch.tensor([3, 4]), torch.tensor([4, 7]), positions, positions, USABLE, USABLE)
    return Batch(nodes=nodes, layers=layers, links={"cites": links}, key=seed)


def authors_batch() -> Batch:
    """Classes of three authors; papers at one hop and at two. The farther ones have more edges."""
    near = Edges(torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, 2]), torch.ones(4))
    far = Edges(torch.tensor([4, 4, 4, 5, 2]), torch.tensor([0, 1, 2, 3, 3]), torch.ones(5))
    layers = (
        Layer({"paper": 6, "author": 3}, {"paper": 4, "author": 3}, {"cites": far}),
        Layer({"paper": 4, "author": 3}, {"author": 3}, {"by": near}),
    )
    targets = ClassTargets(torch.arange(3), torch.zeros(0, dtype=torch.int64), torch.zeros(3).long())
    nodes = {"paper": torch.arange(6), "author": torch.arange(3)}
    return Batch(nodes=nodes, layers=layers, classes={"author": targets}, key=3)


def chosen(found: TrainRows) -> set[tuple[str, int]]:
    return {(t, row) for t, rows in found.rows.items() for row in rows.tolist()}


@given(st.integers(0, 50), st.integers(0, 45))
@settings(max_examples=60, deadline=None)
def test_targets_come_first_then_negatives_then_neighbours_with_most_edges(seed: int, budget: int) -> None:
    batch = links_batch(seed)
    degree: Counter[tuple[str, int]] = Counter()
    for layer in batch.layers:
        for name, some in layer.edges.items():
            degree.update((MANIFEST.relation(name).source, row) for row in some.source.tolist())
    everyone = [(t, row) for t in TEXTS for row in range(ALL[t])]

    def rank(node: tuple[str, int]) -> tuple[int, int]:
        is_seed = node[0] == "paper" and node[1] < 10
        level = 0 if node in (("paper", 3), ("paper", 4), ("paper", 7)) else 1 if is_seed else 2
        return level, -degree[node] if level == 2 else 0

    found = choose_train_rows(batch, MANIFEST, TEXTS, budget=budget, choice="degree")
    assert len(chosen(found)) == sum(map(len, found.rows.values())) == min(budget, len(everyone))
    assert all(torch.equal(rows, rows.sort().values) for rows in found.rows.values())
    assert found.scale == 1.0
    ranks = sorted(map(rank, everyone))[:budget]
    assert sorted(map(rank, chosen(found))) == ranks


def test_around_targets_without_text_near_texts_come_before_far_ones() -> None:
    def rows(budget: int) -> list[int]:
        found = choose_train_rows(authors_batch(), MANIFEST, ["paper"], budget=budget, choice="degree")
        return found.rows["paper"].tolist()

    assert rows(1) == [2]  # one hop away, two edges
    assert rows(4) == [0, 1, 2, 3]
    assert rows(5) == [0, 1, 2, 3, 4]  # two hops away, three edges


def test_equals_change_places_from_batch_to_batch() -> None:
    seen = set()
    for key in range(20):
        batch = replace(authors_batch(), key=key)
        found = choose_train_rows(batch, MANIFEST, ["paper"], budget=2, choice="degree")
        seen |= chosen(found)
    assert seen == {("paper", row) for row in range(4)}


def test_a_classified_node_is_a_target_and_not_a_relation_of_its_name() -> None:
    targets = ClassTargets(torch.tensor([1]), torch.zeros(0, dtype=torch.int64), torch.zeros(1).long())
    twin = RelationInfo("paper", "note", "note", 1)
    manifest = replace(MANIFEST, relations=(*MANIFEST.relations, twin))
    batch = Batch(nodes={"paper": torch.arange(3), "note": torch.arange(9)}, classes={"paper": targets})
    found = choose_train_rows(batch, manifest, TEXTS, budget=1, choice="degree")
    assert chosen(found) == {("paper", 1)}


def test_both_ends_of_a_classified_edge_are_targets() -> None:
    targets = ClassTargets(torch.tensor([5]), torch.tensor([1]), torch.zeros(1).long())
    batch = Batch(nodes={"paper": torch.arange(8), "note": torch.arange(9)}, classes={"about": targets})
    found = choose_train_rows(batch, MANIFEST, TEXTS, budget=2, choice="degree")
    assert chosen(found) == {("note", 5), ("paper", 1)}


def test_a_batch_without_texts_trains_none() -> None:
    found = choose_train_rows(Batch(nodes={}), MANIFEST, [], budget=4, choice="degree")
    assert found.rows == {}


def test_uniformly_each_text_is_as_likely_as_any_other() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    batch, counts = links_batch(1), Counter()
    for key in range(1500):
        found = choose_train_rows(replace(batch, key=key), MANIFEST, TEXTS, budget=10, choice="uniform")
        assert found.scale == 38 / 10
        counts.update(chosen(found))
    assert sum(counts.values()) == 15000
    assert scipy_stats.chisquare([counts[t, row] for t in TEXTS for row in range(ALL[t])]).pvalue > 1e-3


def test_a_budget_that_covers_all_texts_scales_nothing() -> None:
    found = choose_train_rows(links_batch(1), MANIFEST, TEXTS, budget=100, choice="uniform")
    assert len(chosen(found)) == 38
    assert found.scale == 1.0


def test_scaled_gradients_of_a_linear_encoder_are_right_on_average() -> None:
    """Texts weigh differently and their gradients point in one direction: a choice by degree is far off."""
    batch, generator = links_batch(2), torch.Generator().manual_seed(0)
    given_, reaching = (
        {t: torch.rand(ALL[t], 3, generator=generator, dtype=torch.float64) for t in TEXTS} for _ in range(2)
    )

    def gradient(found: TrainRows) -> Tensor:
        parts = [given_[t][rows].T @ reaching[t][rows] for t, rows in found.rows.items()]
        return found.scale * torch.stack(parts).sum(0)

    def over_keys(choice: str) -> Tensor:
        return torch.stack([
            gradient(choose_train_rows(replace(batch, key=k), MANIFEST, TEXTS, budget=6, choice=choice))
            for k in range(2000)
        ])  # fmt: skip

    whole = gradient(TrainRows({t: torch.arange(ALL[t]) for t in TEXTS}, 1.0))
    uniform = over_keys("uniform")
    assert bool(((uniform.mean(0) - whole).abs() < 4 * uniform.std(0) / 2000**0.5).all())
    assert not torch.allclose(over_keys("degree").mean(0), whole, rtol=0.5)
