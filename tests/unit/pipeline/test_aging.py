"""How old embeddings get: no older than promised, ending at different times, oldest first within a budget."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.aging import CacheState, Drift, again, first_state, follow, lifetimes
from pipeline.config import CachePlan

NODES = 4000
IDS = torch.arange(NODES)


def simulate(plan: CachePlan, *, aims: list[int], seen: float = 1.0) -> tuple[list[int], list[Tensor]]:
    """Embeddings all written at step 0 and batches that see a share of the nodes: texts computed and ages
    served at each step. `aims`: one a step."""
    written, computed, served = torch.zeros(NODES, dtype=torch.int64), [], []
    for step, aim in enumerate(aims, start=1):
        draws = torch.rand(NODES, generator=torch.Generator().manual_seed(step))
        ids = IDS[draws < seen]
        age = step - written[ids]
        ended = age > lifetimes(ids, written[ids], plan.max_age)
        rows = again(age, ended, (draws[ids] * (1 << 40)).long(), plan, aim)
        kept = torch.ones(len(ids), dtype=torch.bool)
        kept[rows] = False
        written[ids[rows]] = step
        computed.append(len(rows))
        served.append(age[kept])
    return computed, served


@given(promised=st.integers(1, 100), written=st.integers(0, 1 << 31))
def test_an_embedding_lives_at_most_as_long_as_promised_and_not_much_shorter(
    promised: int, written: int
) -> None:
    life = lifetimes(IDS[:200], torch.full((200,), written), promised)
    assert int(life.max()) <= promised
    assert int(life.min()) >= 0.75 * promised


def test_what_was_written_at_one_step_ends_evenly_over_a_quarter_of_the_promised_time() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    counts = torch.bincount(lifetimes(IDS, torch.full((NODES,), 7), 16) - 12)
    assert len(counts) == 5
    assert scipy_stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_a_node_s_next_lifetime_is_another() -> None:
    """Else some nodes would be computed twice as often as others for ever."""
    first, second = (lifetimes(IDS, torch.full((NODES,), step), 16).double() for step in (1, 2))
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.05


@pytest.mark.parametrize("seen", [1.0, 0.7])
def test_no_step_pays_for_all_embeddings_that_were_written_together(seen: float) -> None:
    computed, served = simulate(CachePlan(refresh=0.0, budget=0.0), aims=[16] * 100, seen=seen)
    assert max(computed) < 0.22 * NODES  # without it, one step in 17 would compute all of them
    assert max(computed[60:]) < 0.13 * NODES
    turns = NODES * 100 / (16 + 1 / seen)  # of lifetimes of 16 steps each, until the next batch that asks
    assert sum(computed) < 1.2 * turns  # the price: lifetimes are 14 steps long on average
    assert max(int(ages.max()) for ages in served) == 16


@pytest.mark.parametrize("budget", [0.02, 0.1, 0.3])
def test_a_falling_aim_costs_no_step_more_than_its_budget(budget: float) -> None:
    """Beside what ends by itself, which is what it would have been without the fall."""
    plan = CachePlan(max_age=64, refresh=0.0, budget=budget)
    computed, served = simulate(plan, aims=[64] * 20 + [1] * 40)
    assert computed[:20] == [0] * 20
    assert max(computed[20:48]) == math.ceil(budget * NODES)  # none ends before step 49
    oldest = [int(ages.max()) for ages in served]
    assert max(oldest) <= 64
    steps = math.ceil(1 / budget)  # after which each has had its turn
    assert steps > 40 or max(oldest[20 + steps :]) <= steps


def test_a_budget_of_all_makes_the_aim_a_bound() -> None:
    aims = [16] * 10 + [4] * 10 + [2] * 10
    _, served = simulate(CachePlan(refresh=0.0, budget=1.0), aims=aims)
    for aim, ages in zip(aims, served, strict=True):
        assert bool((ages <= aim).all())


def test_the_oldest_come_first_and_the_draws_decide_between_equals() -> None:
    age = torch.tensor([3, 9, 9, 9, 1, 8])
    ended = torch.tensor([False, False, False, False, True, False])
    draws = torch.tensor([0, 2, 3, 1, 0, 0])
    plan = CachePlan(refresh=0.5, budget=0.0)
    # Node 4 has ended; of the three that are 9 steps old, those with the lowest draws.
    assert again(age, ended, draws, plan, 16).tolist() == [1, 3, 4]


def state_of(plan: CachePlan) -> CacheState:
    return first_state(plan, "joint", "lm")


def test_the_aim_rises_although_nothing_within_it_was_recomputed() -> None:
    plan = CachePlan(max_age=16)
    state = state_of(plan)
    state.aim = 2
    follow(state, plan, Drift(texts=100, drifted=0, young_texts=0, young_drifted=0))
    assert state.aim == 4
    follow(state, plan, Drift(texts=100, drifted=1, young_texts=0, young_drifted=0))
    assert state.aim == 4


def test_the_aim_of_other_modes_stays() -> None:
    plan = CachePlan(mode="unbounded")
    state = state_of(plan)
    before = state.aim
    follow(state, plan, Drift(texts=100, drifted=100, young_texts=100, young_drifted=100))
    assert state.aim == before
