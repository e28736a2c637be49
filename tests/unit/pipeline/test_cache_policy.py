"""The embedding cache's policy on one trainer: what is served, what is recomputed, how the aim moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from pipeline.aging import first_state, lifetimes
from pipeline.batch import Batch
from pipeline.cache import EmbeddingCache
from pipeline.config import CachePlan
from pipeline.records import Records, Stamp, pack, unpack, words
from pipeline.texttable import ANY

NODES, WIDTH = 200, 8
MANIFEST = SimpleNamespace(parts=1, part_range=lambda node_type, part: (0, NODES))


class InMemory:
    """A TextTable without hosts."""

    width = WIDTH

    def __init__(self) -> None:
        self.stored = torch.zeros(NODES, words(WIDTH), dtype=torch.int64)

    def put(self, ids: Tensor, records: Tensor) -> Tensor:
        self.stored[ids] = records
        return ids

    def sent(self, ids: Tensor, records: Tensor) -> None:
        pass

    def look_up(self, ids: Tensor, wanted: Tensor = ANY) -> Records:
        return unpack(self.stored[ids], ids, WIDTH)


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    """A process group of one."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def cache_of(**settings: Any) -> tuple[EmbeddingCache, InMemory]:
    table, plan = InMemory(), CachePlan(**settings)
    made = EmbeddingCache(
        plan,
        cast(Any, {"note": table}),
        cast(Any, MANIFEST),
        state=first_state(plan, "joint", "lm"),
        parts_of=[[0]],
        keep_trained=False,
    )
    return made, table


def batch_of(ids: Tensor, trained: Tensor | None = None) -> Batch:
    rows = torch.zeros(0, dtype=torch.int64) if trained is None else trained
    return Batch(nodes={"note": ids}, train_rows={"note": rows}, key=5)


def fill(table: InMemory, cache: EmbeddingCache, step: Tensor) -> None:
    """Every embedding is ones, computed at the step of its node."""
    for number in step.unique().tolist():
        ids = (step == number).nonzero().squeeze(1)
        table.stored[ids] = pack(torch.ones(len(ids), WIDTH), ids, Stamp(cache.state.model, number))


def drifted(cache: EmbeddingCache, table: InMemory, share: float, age: int = 0) -> None:
    """One step in which all texts, of one age, are computed again, a share of them turned round."""
    fill(table, cache, torch.full((NODES,), cache.state.steps - age))
    found = cache.find(batch_of(torch.arange(NODES)))
    rows = torch.ones(NODES, WIDTH)
    again = found.stale["note"]
    rows[again[: round(share * len(again))]] *= -1
    everyone = torch.ones(NODES, dtype=torch.bool)
    everyone[found.hits["note"]] = False
    cache.keep(found, {"note": rows}, {"note": everyone})
    cache.commit()


def test_the_oldest_share_of_what_is_found_is_computed_again() -> None:
    cache, table = cache_of(max_age=80, refresh=0.1)
    cache.state.steps = 40
    age = torch.arange(NODES) % 40
    fill(table, cache, 40 - age)
    found = cache.find(batch_of(torch.arange(NODES)))
    again = found.stale["note"]
    assert len(again) == NODES // 10
    assert int(age[again].min()) >= int(age[found.hits["note"]].max())
    assert sorted([*again.tolist(), *found.hits["note"].tolist()]) == list(range(NODES))


@pytest.mark.parametrize("mode", ["bounded", "unbounded"])
def test_what_has_served_its_time_counts_as_missing_unless_there_is_no_bound(mode: str) -> None:
    cache, table = cache_of(mode=mode, max_age=4, refresh=0.0)
    cache.state.steps = 10
    written = torch.tensor([8, 7, 6, 5] * 50)
    fill(table, cache, written)
    ids, trained = torch.arange(NODES), torch.arange(150, 200)  # never from the cache
    served = 10 - written <= lifetimes(ids, written, 4)
    assert 100 < int(served.sum()) < 150  # all of ages 2 and 3, a part of age 4
    served = served if mode == "bounded" else torch.ones(NODES, dtype=torch.bool)
    served[trained] = False
    assert cache.find(batch_of(ids, trained)).hits["note"].tolist() == served.nonzero().squeeze(1).tolist()


def test_embeddings_of_the_model_that_the_stage_starts_from_are_as_old_as_the_stage() -> None:
    cache, table = cache_of(max_age=4, refresh=0.0)
    ids = torch.arange(NODES)
    table.stored[:] = pack(torch.ones(NODES, WIDTH), ids, Stamp(cache.state.start, 0))
    lasting = int((lifetimes(ids, torch.zeros_like(ids), 4) == 4).sum())
    for steps, hits in ((0, NODES), (3, NODES), (4, lasting), (5, 0)):
        cache.state.steps = steps
        assert len(cache.find(batch_of(ids)).hits["note"]) == hits


def test_embeddings_of_another_model_are_not_served() -> None:
    cache, table = cache_of()
    ids = torch.arange(NODES)
    table.stored[:] = pack(torch.ones(NODES, WIDTH), ids, Stamp(cache.state.model ^ 1, 0))
    assert not len(cache.find(batch_of(ids)).hits["note"])


def test_the_aim_halves_while_embeddings_drift_and_rises_again_to_the_plan_s() -> None:
    cache, table = cache_of(max_age=16, refresh=1.0)
    aims = []
    for share in (0.06, 0.06, 0.04, 0.0, 0.0, 0.0):
        drifted(cache, table, share)
        aims.append(cache.state.aim)
    assert aims == [8, 4, 4, 8, 16, 16]


def test_what_drifts_beyond_the_aim_does_not_lower_it() -> None:
    cache, table = cache_of(max_age=16, refresh=1.0)
    cache.state.aim, cache.state.steps = 4, 5
    drifted(cache, table, 1.0, age=5)
    assert cache.state.aim == 4
    cache.state.steps = 4
    drifted(cache, table, 1.0, age=4)
    assert cache.state.aim == 2


def test_few_recomputed_texts_move_no_aim() -> None:
    cache, table = cache_of(max_age=16, refresh=0.1)  # 20 a step, fewer than are enough
    drifted(cache, table, 1.0)
    assert cache.state.aim == 16
    for _ in range(3):
        drifted(cache, table, 1.0)
    assert cache.state.aim == 8


def test_a_frozen_cache_stores_nothing() -> None:
    cache, table = cache_of(mode="frozen")
    before = table.stored.clone()
    found = cache.find(batch_of(torch.arange(NODES)))
    cache.keep(found, {"note": torch.ones(NODES, WIDTH)}, {"note": torch.ones(NODES, dtype=torch.bool)})
    cache.commit()
    assert torch.equal(table.stored, before)


def test_rows_computed_for_gradients_are_not_stored_where_dropout_makes_noise_of_them() -> None:
    cache, table = cache_of()
    found = cache.find(batch_of(torch.arange(NODES), torch.arange(10)))
    clean = torch.ones(NODES, dtype=torch.bool)
    clean[:10] = False
    cache.keep(replace(found), {"note": torch.ones(NODES, WIDTH)}, {"note": clean})
    cache.commit()
    assert table.look_up(torch.arange(NODES)).whole.tolist() == [False] * 10 + [True] * (NODES - 10)
