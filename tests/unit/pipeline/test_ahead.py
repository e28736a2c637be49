"""One step ahead: same values, never two at a time, errors where the values are taken."""

from __future__ import annotations

import threading

import pytest

from pipeline.ahead import Ahead


def test_each_step_gets_its_own_draw_whether_begun_or_not() -> None:
    drawn: list[int] = []

    def draw(step: int) -> str:
        drawn.append(step)
        return f"step {step}"

    ahead = Ahead(draw)
    found = []
    for step in range(4):
        found.append(ahead.take(step))
        if step != 2:
            ahead.start(step + 1)
    ahead.close()
    assert found == [f"step {step}" for step in range(4)]
    assert drawn == [0, 1, 2, 3, 4]


def test_a_draw_begun_for_another_step_is_not_taken() -> None:
    ahead = Ahead(lambda step: step)
    ahead.start(5)
    assert ahead.take(7) == 7
    ahead.close()


def test_nothing_is_drawn_any_more_once_settled() -> None:
    begun, go, over = threading.Event(), threading.Event(), threading.Event()

    def draw(step: int) -> int:
        begun.set()
        assert go.wait(20)
        over.set()
        return step

    ahead = Ahead(draw)
    ahead.start(1)
    assert begun.wait(20)
    assert not over.is_set()
    go.set()
    ahead.settle()
    assert over.is_set()
    assert ahead.take(1) == 1
    ahead.close()


def test_an_error_is_raised_where_the_batches_are_taken() -> None:
    def draw(step: int) -> int:
        raise LookupError(f"no targets at {step}")

    ahead = Ahead(draw)
    ahead.start(3)
    ahead.settle()
    with pytest.raises(LookupError, match="no targets at 3"):
        ahead.take(3)
    ahead.close()
