"""Work that is done one item ahead: order, what is ahead, and errors."""

from __future__ import annotations

import pytest

from partition.spill import one_ahead


def test_results_come_in_the_order_of_the_items_one_of_which_is_ahead() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        return item * item

    results = one_ahead(work, iter(range(5)))
    assert next(results) == 0
    assert begun in ([0], [0, 1])  # the second has at least been handed over, the third has not
    assert list(results) == [1, 4, 9, 16]


def test_an_error_comes_in_its_items_turn() -> None:
    results = one_ahead(lambda item: 1 // item, [1, 0, 1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_without_items_there_is_nothing() -> None:
    assert list(one_ahead(lambda item: item, [])) == []
