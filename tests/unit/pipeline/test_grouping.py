"""Grouping of token lists against dictionaries and loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import grouping
from pipeline.batch import Ragged
from pipeline.grouping import distinct, split_texts

LISTS = st.lists(st.lists(st.integers(0, 2), max_size=4), max_size=30)


def ragged(lists: list[list[int]]) -> Ragged:
    ends = torch.tensor([0, *map(len, lists)]).cumsum(0)
    return Ragged(torch.tensor([v for one in lists for v in one], dtype=torch.int16), ends)


def check_distinct(lists: list[list[int]]) -> None:
    found = distinct(ragged(lists))
    assert found.first.tolist() == [i for i, one in enumerate(lists) if one not in lists[:i]]
    assert [int(found.first[k]) for k in found.kind] == [lists.index(one) for one in lists]


@settings(deadline=None)
@given(LISTS)
def test_each_list_is_led_by_its_first_equal(lists: list[list[int]]) -> None:
    check_distinct(lists)


@pytest.mark.parametrize("hashes", [lambda t: t.lengths() * 0, lambda t: t.lengths()])
def test_lists_whose_hashes_collide_stay_apart(monkeypatch: pytest.MonkeyPatch, hashes) -> None:
    monkeypatch.setattr(grouping, "token_hashes", lambda tokens, turn: hashes(tokens))
    check_distinct([[1, 2], [2, 1], [], [1, 2], [1], [1, 2, 3], [], [2], [2, 1], [1]])


@settings(deadline=None)
@given(LISTS.filter(bool), st.data())
def test_a_split_runs_every_text_once_and_with_gradients_where_an_equal_one_is_trained(lists, data) -> None:
    rows = data.draw(st.lists(st.integers(0, len(lists) - 1), unique=True))
    split = split_texts(ragged(lists), torch.tensor(rows, dtype=torch.int64))
    run: list[list[int]] = [lists[i] for i in torch.cat([split.trained, split.forward])]
    assert [run[i] for i in split.row] == lists
    assert len(run) == len({tuple(one) for one in lists})
    assert {tuple(lists[i]) for i in split.trained} == {tuple(lists[i]) for i in rows}
