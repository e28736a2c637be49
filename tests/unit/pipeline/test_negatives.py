"""Mixtures of negatives: what is drawn, how often, and what the correction makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toy import build_partition, plan_of

from partition.manifest import PartitionManifest
from pipeline.batch import LinkTargets
from pipeline.config import TaskPlan
from pipeline.cost.offline import OfflineGraph
from pipeline.model import stage_task
from pipeline.negatives import Mixture, mixture_of
from pipeline.sampling import LinkBatches, Sampler, link_clusters
from pipeline.targets import Links, read_links

PART = 1
MIXES: list[dict[str, float]] = [
    {"anywhere": 1.0},
    {"anywhere": 0.5, "part": 0.5},
    {"anywhere": 1, "part": 2, "clusters": 3, "batch": 2},
    {"batch": 1.0},
    {"clusters": 2.0},
    {"part": 0.3, "clusters": 0.3, "batch": 0.4},
    {"fresh": 1.0},
    {"fresh": 1.0, "anywhere": 1.0, "batch": 1.0},
]
FRESH = torch.arange(3, 150, 4)
"""Papers whose embedding is in the cache."""


@pytest.fixture(scope="module")
def graph(toy: tuple[Path, Path, Path]) -> OfflineGraph:
    tables, lm, store = toy
    folder = build_partition(tables, lm, store, hosts=2, trainers=2)
    return OfflineGraph(folder, PartitionManifest.load(folder))


@pytest.fixture(scope="module")
def links(graph: OfflineGraph) -> Links:
    found = read_links(graph.folder, graph.manifest, part=PART, relations=["cites"], split="train")
    return found.select(torch.arange(6))


def mixture(graph: OfflineGraph, links: Links, mix: Mapping[str, float], node_type: str = "paper") -> Mixture:
    clusters = torch.unique(link_clusters(graph, ["cites"], links))
    ends = links.destination
    return mixture_of(
        graph, node_type, mix, part=PART, clusters=clusters, ends=ends, fresh=lambda name: FRESH
    )


def probabilities(graph: OfflineGraph, links: Links, mix: Mapping[str, float]) -> Tensor:
    """float64 N, pool by pool from the manifest."""
    count, offsets = graph.ids.count["paper"], graph.manifest.offsets["paper"]
    q = torch.zeros(count, dtype=torch.float64)
    first, last = graph.manifest.part_range("paper", PART)
    near = [c for c in range(len(offsets) - 1) for d in links.destination if offsets[c] <= d < offsets[c + 1]]
    pools = {
        "anywhere": list(range(count)),
        "part": list(range(first, last)),
        "clusters": [i for c in sorted(set(near)) for i in range(offsets[c], offsets[c + 1])],
        "batch": links.destination.tolist(),
        "fresh": FRESH.tolist(),
    }
    for name, weight in mix.items():
        for node in pools[name]:
            q[node] += weight / sum(mix.values()) / len(pools[name])
    return q


@pytest.mark.parametrize("mix", MIXES)
def test_the_probability_of_a_node_is_that_of_its_pools(
    graph: OfflineGraph, links: Links, mix: dict[str, float]
) -> None:
    q = probabilities(graph, links, mix)
    found = mixture(graph, links, mix).log_q(torch.arange(len(q))).double().exp() / len(q)
    assert torch.allclose(found, q, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("mix", MIXES)
def test_nodes_are_drawn_as_often_as_their_probability_says(
    graph: OfflineGraph, links: Links, mix: dict[str, float]
) -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    q = probabilities(graph, links, mix)
    drawn = mixture(graph, links, mix).draw(torch.arange(2000), columns=10, key=3).flatten()
    counts = torch.bincount(drawn, minlength=len(q))
    assert int(counts[q == 0].sum()) == 0
    chance = scipy_stats.chisquare(counts[q > 0].numpy(), (20000 * q[q > 0]).numpy())
    assert chance.pvalue > 1e-3


def test_a_pool_without_nodes_of_the_type_leaves_its_share_to_anywhere(
    graph: OfflineGraph, links: Links
) -> None:
    nobody = links.select(torch.zeros(0, dtype=torch.int64))
    found = mixture(graph, nobody, {"batch": 1.0, "clusters": 1.0})
    everyone = torch.arange(graph.ids.count["paper"])
    assert torch.equal(found.log_q(everyone), torch.zeros(len(everyone)))
    assert len(found.draw(torch.arange(500), columns=1, key=1).unique()) > 150


def batch_links(graph: OfflineGraph, links: Links, task: TaskPlan, key: int) -> tuple[Tensor, LinkTargets]:
    batches = LinkBatches(graph, task, ["cites"], sampler=Sampler(), fresh=lambda name: FRESH)
    batch = batches.make(links, part=PART, key=key)
    return batch.nodes["paper"], batch.links["cites"]


@pytest.mark.parametrize("negatives", ["joint", "independent"])
@pytest.mark.parametrize("mix", [MIXES[1], MIXES[2]])
def test_corrected_sums_over_negatives_are_those_over_all_nodes_on_average(
    graph: OfflineGraph, links: Links, negatives: str, mix: dict[str, float]
) -> None:
    """exp(score) is larger in the part, as it is where near negatives are hard."""
    count = graph.ids.count["paper"]
    first, last = graph.manifest.part_range("paper", PART)
    scores = torch.rand(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores[first:last] += 1.5
    task = TaskPlan(
        relations=("cites",), negatives=negatives, negatives_per_edge=8, negative_mix=mix, log_q=True
    )
    heads = links.source[:, None].expand(-1, count)
    known = torch.zeros(len(links), count, dtype=torch.bool)
    row, column = graph.among("cites", torch.arange(count), links.source.unique())
    for node, place in zip(row.tolist(), column.tolist(), strict=True):
        known[heads[:, 0] == links.source.unique()[place], node] = True
    known[torch.arange(len(links)), links.destination] = True
    expected = (scores.exp() * ~known).mean(1)
    means, plain = [], []
    for key in range(400):
        nodes, made = batch_links(graph, links, task, key)
        assert made.tail_log_q is not None
        assert made.tail_log_q.shape == made.negative_tail.shape
        score = scores[nodes[made.negative_tail]]
        means.append(((score - made.tail_log_q).exp() * made.tail_mask).mean(1))
        plain.append((score.exp() * made.tail_mask).mean(1))
    found, uncorrected = torch.stack(means), torch.stack(plain)
    error = found.std(0) / 20
    assert bool(((found.mean(0) - expected).abs() < 4 * error).all())
    assert bool((uncorrected.mean(0) - expected > 6 * uncorrected.std(0) / 20).all())


def test_corrected_sums_over_fresh_negatives_are_those_over_all_fresh_nodes_on_average(
    graph: OfflineGraph, links: Links
) -> None:
    count = graph.ids.count["paper"]
    scores = torch.rand(count, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3
    task = TaskPlan(relations=("cites",), negative_mix={"fresh": 1.0}, log_q=True)
    usable = torch.zeros(len(links), count, dtype=torch.bool)
    usable[:, FRESH] = True
    for row in range(len(links)):
        heads, _ = graph.among("cites", torch.arange(count), links.source[row : row + 1])
        usable[row, heads] = False
        usable[row, links.destination[row]] = False
    expected = (scores.exp() * usable).sum(1) / count
    found = []
    for key in range(400):
        nodes, made = batch_links(graph, links, task, key)
        assert made.tail_log_q is not None
        drawn = nodes[made.negative_tail]
        assert bool(torch.isin(drawn, FRESH).all())
        found.append(((scores[drawn] - made.tail_log_q).exp() * made.tail_mask).mean(1))
    sums = torch.stack(found)
    assert bool(((sums.mean(0) - expected).abs() < 4 * sums.std(0) / 20).all())


def test_without_log_q_nothing_is_corrected(graph: OfflineGraph, links: Links) -> None:
    _, made = batch_links(graph, links, TaskPlan(relations=("cites",)), 1)
    assert made.tail_log_q is None
    assert made.head_log_q is None


def test_heads_are_corrected_among_nodes_of_their_own_type(graph: OfflineGraph) -> None:
    """Of writes: authors are drawn as heads, papers as tails."""
    source, destination = graph.stored_edges("writes", PART)
    chosen = Links(torch.zeros(8, dtype=torch.int64), source[:8], destination[:8])
    mix = {"anywhere": 1.0, "batch": 1.0}
    task = TaskPlan(relations=("writes",), negative_mix=mix, log_q=True)
    batch = LinkBatches(graph, task, ["writes"], sampler=Sampler()).make(chosen, part=PART, key=2)
    made = batch.links["writes"]
    sides = (
        ("author", chosen.source, made.negative_head, made.head_log_q),
        ("paper", chosen.destination, made.negative_tail, made.tail_log_q),
    )
    for node_type, ends, negative, log_q in sides:
        assert log_q is not None
        drawn, count = batch.nodes[node_type][negative], graph.ids.count[node_type]
        often = (drawn[:, None] == ends[None, :]).sum(1).double()
        q = 0.5 / count + 0.5 * often / len(ends)
        assert torch.allclose(log_q.double(), (q * count).log(), rtol=1e-5)


def test_a_stage_whose_negatives_are_its_batch_corrects_nothing(toy: tuple[Path, Path, Path]) -> None:
    tables, lm, store = toy
    manifest = PartitionManifest.load(build_partition(tables, lm, store, hosts=2, trainers=2))
    stages = [
        {"name": "lm", "kind": "graph_lm", "task": "cites", "negatives": "batch"},
        {"name": "warm", "kind": "gnn_warm", "task": "cites"},
    ]
    plan = plan_of(tables, lm, stages=stages, tasks={"cites": {"relations": ["cites"], "log_q": True}})
    assert [stage_task(stage, plan, manifest).log_q for stage in plan.stages] == [False, True]
