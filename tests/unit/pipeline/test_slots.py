"""Places of embeddings where there is no room for all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy import build_partition, plan_of

from partition.errors import UsageError
from partition.manifest import NodeTypeInfo, PartitionManifest
from pipeline.cost.trial import Trials
from pipeline.model import LMGNN
from pipeline.room import host_bytes, text_share
from pipeline.slots import Slots

PARTS = (40, 60, 1, 99)
"""Nodes of the parts of two hosts with two trainers each."""


@pytest.fixture
def manifest() -> PartitionManifest:
    ends = torch.tensor([0, *PARTS]).cumsum(0).tolist()
    return PartitionManifest(
        id="x",
        graph_name="gx",
        hosts=2,
        trainers=2,
        node_types=(NodeTypeInfo("note", sum(PARTS), text=True),),
        relations=(),
        clusters=(1, 1, 1, 1),
        offsets={"note": tuple(ends)},
        options={},
        inputs={},
        stats={},
        files={},
    )


def test_with_room_for_all_a_node_s_place_is_its_id(manifest: PartitionManifest) -> None:
    ids = torch.arange(sum(PARTS))
    slots = Slots(manifest, "note")
    assert slots.of(ids).tolist() == ids.tolist() == slots.winners(ids).tolist()
    assert [slots.part_range(part) for part in range(4)] == [(0, 40), (40, 100), (100, 101), (101, 200)]


def test_places_lie_on_the_node_s_host_side_by_side_and_apart_by_part(manifest: PartitionManifest) -> None:
    slots = Slots(manifest, "note", 0.5)
    ranges = [slots.part_range(part) for part in range(4)]
    assert ranges == [(0, 20), (20, 50), (100, 101), (101, 150)]
    assert (slots.count, slots.of_host(0), slots.of_host(1)) == (100, 50, 50)
    for part, (first, last) in enumerate([(0, 40), (40, 100), (100, 101), (101, 200)]):
        places = slots.of(torch.arange(first, last))
        assert int(places.min()) >= ranges[part][0]
        assert int(places.max()) < ranges[part][1]


def test_half_of_the_places_leave_room_for_most_of_them_at_once(manifest: PartitionManifest) -> None:
    ids = torch.arange(101, 200)
    stay = Slots(manifest, "note", 0.5).winners(ids)
    expected = 49 * (1 - (1 - 1 / 49) ** 99)
    assert abs(len(stay) - expected) < 6


def test_the_first_of_a_place_stays(manifest: PartitionManifest) -> None:
    slots, ids = Slots(manifest, "note", 0.2), torch.arange(200)
    kept: dict[int, int] = {}
    for node, place in zip(ids.tolist(), slots.of(ids).tolist(), strict=True):
        kept.setdefault(place, node)
    assert slots.winners(ids).tolist() == sorted(kept.values())


def test_the_share_is_that_of_the_fullest_host(manifest: PartitionManifest) -> None:
    stage = {"name": "joint", "kind": "joint", "task": "cites"}
    plan = plan_of(Path("tables"), Path("lm"), stages=[stage], cache={"host_gib": 26 * 80 / 2**30})
    # Width 32 takes ten words of eight bytes; both hosts hold 100 nodes.
    assert text_share(plan, manifest, {"note": 32}) == pytest.approx(0.26)
    assert text_share(plan, manifest, {}) == 1.0


def test_a_stage_that_needs_every_embedding_is_refused_without_the_room(manifest: PartitionManifest) -> None:
    stage = {"name": "warm", "kind": "gnn_warm", "task": "cites"}
    plan = plan_of(Path("tables"), Path("lm"), stages=[stage], cache={"host_gib": 1e-6})
    with pytest.raises(UsageError, match=r"'warm'.*every text.*cache\.host_gib"):
        text_share(plan, manifest, {"note": 32})


def test_less_room_makes_more_lm_tokens(toy: tuple[Path, Path, Path]) -> None:
    tables, lm, store = toy
    folder = build_partition(tables, lm, store, hosts=2, trainers=2)
    manifest = PartitionManifest.load(folder)
    stage = {
        "name": "joint",
        "kind": "joint",
        "task": "cites",
        "batch_size": 8,
        "train_nodes": 4,
        "epochs": 4.0,
    }
    found = []
    for room in (1.0, 0.3, 0.1):
        cache = {"max_age": 8, "refresh": 0.0, "budget": 0.0}
        plan = plan_of(tables, lm, stages=[stage], cache=cache)
        model = LMGNN(plan, manifest)
        widths = {t.name: model.text.of(t.name).width for t in manifest.node_types if t.text}
        if room < 1:
            cache["host_gib"] = room * host_bytes(manifest, widths) / 2**30
            plan = plan_of(tables, lm, stages=[stage], cache=cache)
        replay = Trials(plan, manifest, folder, model).replay(plan.stages[0])
        found.append(sum(cost.found for costs in replay.steps(range(8)) for cost in costs))
    assert found[0] > 1.5 * found[1] > 2 * found[2] > 0
