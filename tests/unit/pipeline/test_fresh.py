"""Negatives from the cache: which nodes are fresh, and that they cost the language model nothing."""

from __future__ import annotations

from pathlib import Path

import torch
from toy import build_partition, plan_of

from partition.manifest import NodeTypeInfo, PartitionManifest
from pipeline.aging import lifetimes
from pipeline.cost.replay import BatchCost
from pipeline.cost.trial import Trials
from pipeline.fresh import NEVER, FreshNodes
from pipeline.model import LMGNN
from pipeline.slots import Slots

STEPS = 12


def test_fresh_are_those_whose_embedding_has_not_ended() -> None:
    manifest = one_host(300)
    fresh, ids = FreshNodes({"note": 300}, {"note": Slots(manifest, "note")}), torch.arange(300)
    assert not len(fresh.at("note", 0, 8))
    fresh.wrote("note", ids[:200], ids[:200] % 10)
    for step in (9, 12, 15):
        alive = [i for i in range(200) if step - i % 10 <= int(lifetimes(ids[i], ids[i] % 10, 8))]
        assert fresh.at("note", step, 8).tolist() == alive
    fresh.wrote("note", ids[250:], 15)
    fresh.wrote("note", ids[:200], NEVER)
    assert fresh.at("note", 15, 8).tolist() == list(range(250, 300))
    assert not len(fresh.at("no text", 15, 8))


def test_of_nodes_with_one_place_only_the_last_is_fresh() -> None:
    slots = Slots(one_host(300), "note", 0.1)
    fresh, ids = FreshNodes({"note": 300}, {"note": slots}), torch.arange(300)
    places = slots.of(ids)
    first, second = (int(i) for i in ids[places == places[0]][:2])
    fresh.wrote("note", torch.tensor([first]), 1)
    assert fresh.at("note", 2, 8).tolist() == [first]
    fresh.wrote("note", torch.tensor([second]), 2)
    assert fresh.at("note", 2, 8).tolist() == [second]
    fresh.wrote("note", ids, torch.where(ids == first, 3, NEVER))
    assert fresh.at("note", 3, 8).tolist() == [first]


def one_host(count: int) -> PartitionManifest:
    """A graph of one node type and nothing else."""
    return PartitionManifest(
        id="x",
        graph_name="gx",
        hosts=1,
        trainers=1,
        node_types=(NodeTypeInfo("note", count, text=True),),
        relations=(),
        clusters=(1,),
        offsets={"note": (0, count)},
        options={},
        inputs={},
        stats={},
        files={},
    )


def drawn(toy: tuple[Path, Path, Path], mix: dict[str, float], *, evals: int) -> list[list[BatchCost]]:
    """The first steps of a joint stage whose batches reach no neighbours."""
    tables, lm, store = toy
    folder = build_partition(tables, lm, store, hosts=2, trainers=2)
    manifest = PartitionManifest.load(folder)
    stage = {"name": "joint", "kind": "joint", "task": "cites", "batch_size": 4, "train_nodes": 4}
    plan = plan_of(
        tables,
        lm,
        stages=[{**stage, "evals": evals, "epochs": 4.0}],
        tasks={"cites": {"relations": ["cites"], "negative_mix": mix}},
        model={"gnn": "mlp"},
        cache={"max_age": 4, "refresh": 0.0, "budget": 0.0},
    )
    replay = Trials(plan, manifest, folder, LMGNN(plan, manifest)).replay(plan.stages[0])
    return list(replay.steps(range(STEPS)))


def forward_negatives(cost: BatchCost) -> int:
    """Negatives of a batch that run forward only."""
    batch, links = cost.batch, cost.batch.links["cites"]
    negative = torch.cat([links.negative_tail, links.negative_head]).unique()
    truth = torch.cat([links.head, links.tail])
    known = torch.cat([batch.hits["paper"], batch.train_rows["paper"], truth])
    return int((~torch.isin(negative, known)).sum())


def test_fresh_negatives_never_run_forward(toy: tuple[Path, Path, Path]) -> None:
    steps = drawn(toy, {"fresh": 1.0}, evals=1)
    assert [forward_negatives(cost) for step in steps for cost in step] == [0] * 4 * STEPS
    others = drawn(toy, {"anywhere": 1.0}, evals=1)
    assert sum(forward_negatives(cost) for step in others for cost in step) > 50


def test_an_empty_cache_gives_negatives_from_anywhere(toy: tuple[Path, Path, Path]) -> None:
    first, second = drawn(toy, {"fresh": 1.0}, evals=0)[:2]
    assert sum(forward_negatives(cost) for cost in first) > 5
    assert sum(forward_negatives(cost) for cost in second) == 0
