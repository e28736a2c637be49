"""Work that is done one item ahead: order, what is ahead, and errors."""

from __future__ import annotations

import threading

import pytest

from partition.spill import one_ahead


def test_results_come_in_the_order_of_the_items_one_of_which_is_ahead() -> None:
    begun = [threading.Event() for _ in range(5)]

    def work(item: int) -> int:
        begun[item].set()
        return item * item

    results = one_ahead(work, iter(range(5)))
    assert next(results) == 0
    assert begun[1].wait(10)
    assert not begun[2].is_set()
    assert list(results) == [1, 4, 9, 16]


def test_an_error_comes_in_its_items_turn() -> None:
    results = one_ahead(lambda item: 1 // item, [1, 0, 1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_without_items_there_is_nothing() -> None:
    assert list(one_ahead(lambda item: item, [])) == []
