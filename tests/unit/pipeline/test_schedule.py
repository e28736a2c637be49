"""Schedules: every target once per epoch, equal numbers of steps, few clusters a batch."""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toy import build_partition, plan_of

from partition.manifest import PartitionManifest
from pipeline.cost.offline import OfflineGraph
from pipeline.cost.trial import Trials
from pipeline.model import LMGNN
from pipeline.schedule import Schedule
from pipeline.stages import STAGES

sizes_of_parts = st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) > 0)


def some_clusters(size: int, count: int, part: int) -> Tensor:
    """A cluster for each of `size` targets, of `count` of uneven sizes."""
    generator = torch.Generator().manual_seed(part)
    return (torch.rand(size, generator=generator) ** 2 * count).long() + 100 * part


@given(
    sizes_of_parts,
    st.integers(1, 20),
    st.integers(0, 12),
    st.integers(1, 12),
    st.sampled_from([0.0, 0.1, 0.5, 0.99]),
)
@settings(deadline=None)
def test_each_target_comes_once_in_every_epoch_whatever_its_parts_share(
    sizes: list[int], batch_size: int, clusters: int, of: int, elsewhere: float
) -> None:
    homes = {part: some_clusters(size, of, part) for part, size in enumerate(sizes)}
    schedule = Schedule(
        tuple(sizes), batch_size, epochs=2, accumulate=1, key=5,
        clusters=clusters, elsewhere=elsewhere, cluster_of=homes,
    )  # fmt: skip
    per_epoch = schedule.batches_per_epoch
    for part, size in enumerate(sizes):
        for epoch in range(2):
            batches = [schedule.rows(epoch * per_epoch + i, part) for i in range(per_epoch)]
            assert torch.cat(batches).sort().values.tolist() == list(range(size))
            assert max(len(b) for b in batches) <= batch_size
            assert max(len(b) for b in batches) - min(len(b) for b in batches) <= 1


@given(st.integers(1, 400), st.integers(1, 50), st.integers(1, 9), st.integers(2, 40))
@settings(deadline=None)
def test_batches_touch_so_many_clusters_and_those_that_end_in_them(
    size: int, batch_size: int, clusters: int, of: int
) -> None:
    homes = some_clusters(size, of, 0)
    schedule = Schedule((size,), batch_size, 1, 1, 5, clusters=clusters, cluster_of={0: homes})
    batches = [homes[schedule.rows(i, 0)].unique() for i in range(schedule.batches_per_epoch)]
    present = len(homes.unique())
    if clusters < present:
        touched = sum(len(found) for found in batches)
        assert touched <= len(batches) * clusters + present + clusters


def test_batches_smaller_than_their_clusters_touch_twice_as_many_at_most() -> None:
    homes = torch.arange(32).repeat_interleave(25)
    schedule = Schedule((800,), 40, 1, 1, 5, clusters=4, cluster_of={0: homes})
    touched = [len(homes[schedule.rows(i, 0)].unique()) for i in range(20)]
    assert min(touched) == 4
    assert max(touched) <= 8
    everywhere = Schedule((800,), 40, 1, 1, 5)
    assert min(len(homes[everywhere.rows(i, 0)].unique()) for i in range(20)) > 16


def test_elsewhere_brings_its_share_of_targets_from_other_clusters() -> None:
    homes = torch.arange(64).repeat_interleave(50)
    schedule = Schedule((3200,), 100, 1, 1, 5, clusters=2, elsewhere=0.2, cluster_of={0: homes})
    for number in range(32):
        counts = torch.bincount(homes[schedule.rows(number, 0)], minlength=64).sort().values
        near = int(counts[-6:].sum())  # two clusters, and four that follow them
        assert 80 <= near < 100
        assert 10 <= int((counts > 0).sum()) <= 24


def test_clusters_meet_in_other_groups_in_every_epoch() -> None:
    homes = torch.arange(16).repeat_interleave(20)
    schedule = Schedule((320,), 40, 2, 1, 5, clusters=4, cluster_of={0: homes})
    groups = [
        {tuple(homes[schedule.rows(8 * epoch + i, 0)].unique().tolist()) for i in range(8)}
        for epoch in range(2)
    ]
    assert not groups[0] & groups[1]


def test_an_order_does_not_depend_on_what_was_asked_before() -> None:
    homes = some_clusters(100, 10, 0)

    def fresh() -> Schedule:
        return Schedule((100,), 7, 3, 1, 5, clusters=2, elsewhere=0.1, cluster_of={0: homes})

    used = fresh()
    for number in (0, 40, 16, 3, 44):
        assert torch.equal(used.rows(number, 0), fresh().rows(number, 0))


def test_as_many_clusters_as_there_are_mean_the_whole_part() -> None:
    homes = some_clusters(200, 10, 0)
    whole = Schedule((200,), 20, 1, 1, 5)
    many = Schedule((200,), 20, 1, 1, 5, clusters=10, cluster_of={0: homes})
    assert torch.equal(many.rows(3, 0), whole.rows(3, 0))


def test_epochs_differ_in_their_order() -> None:
    schedule = Schedule((40,), 40, epochs=2, accumulate=1, key=5)
    assert schedule.rows(0, 0).tolist() != schedule.rows(1, 0).tolist()


def test_accumulated_batches_make_fewer_steps() -> None:
    schedule = Schedule((100, 60), 10, epochs=1.5, accumulate=4, key=5)
    assert schedule.batches_per_epoch == 10
    assert schedule.steps == 4  # 15 batches, four to a step


KINDS = [
    {"name": "mlm", "kind": "mlm"},
    {"name": "lm", "kind": "graph_lm"},
    {"name": "cites", "kind": "gnn_warm", "task": "cites"},
    {"name": "field", "kind": "joint", "task": "field"},
    {"name": "kind", "kind": "task_lm", "task": "kind"},
]
TASKS = {
    "cites": {"relations": ["cites", "writes", "appears_in"]},
    "field": {"kind": "node_classification", "node_type": "author"},
    "kind": {"kind": "edge_classification", "relations": ["cites"]},
}


@pytest.mark.parametrize("name", [stage["name"] for stage in KINDS])
def test_targets_of_every_kind_lie_in_their_nodes_cluster(toy: tuple[Path, Path, Path], name: str) -> None:
    graph, lm, store = toy
    folder = build_partition(graph, lm, store, hosts=2, trainers=2)
    manifest = PartitionManifest.load(folder)
    plan = plan_of(graph, lm, stages=KINDS, tasks=TASKS)
    trainer = SimpleNamespace(
        plan=plan, graph=OfflineGraph(folder, manifest), model=LMGNN(plan, manifest), texts={"paper": None}
    )
    stage = next(s for s in plan.stages if s.name == name)
    rule = STAGES[stage.kind](trainer, stage)
    ends = {
        "mlm": lambda t: [("paper", i) for i in t.id.tolist()],
        "lm": lambda t: [("paper", i) for i in t.destination.tolist()],
        "cites": lambda t: [
            ("venue" if r == 2 else "paper", i)
            for r, i in zip(t.relation.tolist(), t.destination.tolist(), strict=True)
        ],
        "field": lambda t: [("author", i) for i in t.id.tolist()],
        "kind": lambda t: [("paper", i) for i in t.destination.tolist()],
    }[name]
    first = 0
    for part in range(4):
        targets = rule.targets(part)
        expected = [bisect_right(manifest.offsets[of], i) - 1 for of, i in ends(targets)]
        found = rule.clusters(targets).tolist()
        assert found == expected
        assert all(first <= cluster < first + manifest.clusters[part] for cluster in found)
        first += manifest.clusters[part]


def test_the_estimate_draws_from_few_clusters_as_the_run_does(toy: tuple[Path, Path, Path]) -> None:
    graph, lm, store = toy
    folder = build_partition(graph, lm, store, hosts=1, trainers=1)
    manifest, nodes = PartitionManifest.load(folder), []
    for clusters in (0, 1):
        stage = {"name": "j", "kind": "gnn_warm", "task": "field", "batch_size": 8, "clusters": clusters}
        plan = plan_of(graph, lm, stages=[stage], tasks={"field": TASKS["field"]})
        nodes.append(Trials(plan, manifest, folder, LMGNN(plan, manifest)).of(plan.stages[0]).nodes)
    assert nodes[1] < 0.95 * nodes[0]
