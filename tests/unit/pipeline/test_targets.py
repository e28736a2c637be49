"""Schedules: every target once per epoch, equal numbers of steps."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.targets import Schedule


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) > 0),
    st.integers(1, 20),
)
def test_each_target_comes_once_in_every_epoch_whatever_its_parts_share(
    sizes: list[int], batch_size: int
) -> None:
    schedule = Schedule(tuple(sizes), batch_size, epochs=2, accumulate=1, key=5)
    per_epoch = schedule.batches_per_epoch
    for part, size in enumerate(sizes):
        for epoch in range(2):
            batches = [schedule.rows(epoch * per_epoch + i, part) for i in range(per_epoch)]
            assert torch.cat(batches).sort().values.tolist() == list(range(size))
            assert max(len(b) for b in batches) <= batch_size
            assert max(len(b) for b in batches) - min(len(b) for b in batches) <= 1


def test_epochs_differ_in_their_order() -> None:
    schedule = Schedule((40,), 40, epochs=2, accumulate=1, key=5)
    assert schedule.rows(0, 0).tolist() != schedule.rows(1, 0).tolist()


def test_accumulated_batches_make_fewer_steps() -> None:
    schedule = Schedule((100, 60), 10, epochs=1.5, accumulate=4, key=5)
    assert schedule.batches_per_epoch == 10
    assert schedule.steps == 4  # 15 batches, four to a step
