"""Sub-batches and rows against what is asked of them, on drawn lengths."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.infer import TEXTS
from pipeline.text_layout import Layout, sub_batches, widest

LENGTHS = st.lists(st.integers(0, 40), max_size=60)


def always(longest: int) -> bool:
    return True


def drawn(seed: int, count: int, least: int, most: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(least, most + 1, (count,), generator=generator)


@given(LENGTHS, st.integers(1, 100))
def test_sub_batches_hold_every_text_once_within_the_budget(lengths: list[int], budget: int) -> None:
    pieces = [one.texts.tolist() for one in sub_batches(torch.tensor(lengths, dtype=torch.int64), budget)]
    assert sorted(i for piece in pieces for i in piece) == list(range(len(lengths)))
    for piece, after in itertools.pairwise([*pieces, []]):
        longest = max(lengths[i] for i in piece)
        assert len(piece) * longest <= budget or len(piece) == 1
        empty = [lengths[i] == 0 for i in piece]
        assert all(empty) or not any(empty)
        if any(lengths[i] for i in after):  # one more would not fit, and none is longer
            assert (len(piece) + 1) * longest > budget
            assert min(lengths[i] for i in piece) >= max(lengths[i] for i in after)


@given(LENGTHS, st.integers(1, 300))
def test_packed_texts_do_not_overlap_and_keep_to_the_budget(lengths: list[int], budget: int) -> None:
    seen = []
    for one in sub_batches(torch.tensor(lengths, dtype=torch.int64), budget, always):
        texts, layout = one.texts.tolist(), one.layout
        seen += texts
        assert layout.tokens <= budget or len(texts) == 1
        assert layout.longest == max(lengths[i] for i in texts)
        assert layout.text_tokens == sum(lengths[i] for i in texts)
        if layout.starts is not None:
            assert layout.width <= widest(layout.longest)
            held = [
                (start, start + lengths[i]) for start, i in sorted(zip(layout.starts, texts, strict=True))
            ]
            assert all(end <= after for (_, end), (after, _) in itertools.pairwise(held))
            assert all(start // layout.width == (end - 1) // layout.width for start, end in held)
            assert held[-1][1] <= layout.tokens
    assert sorted(seen) == list(range(len(lengths)))


@pytest.mark.parametrize(("count", "least", "most"), [(8, 3, 60), (32, 3, 60), (8, 10, 64), (100, 3, 12)])
def test_a_few_texts_of_any_lengths_are_packed_to_a_twentieth_of_padding(count, least, most) -> None:
    paid = real = 0
    for seed in range(50):
        lengths = drawn(seed, count, least, most)
        paid += sum(one.layout.tokens for one in sub_batches(lengths, 1024, always))
        real += int(lengths.sum())
    assert paid - real <= 0.05 * paid


def test_rows_are_no_wider_than_little_padding_asks_for() -> None:
    (one,) = sub_batches(torch.tensor([40, 30, 20, 10]), 200, always)
    assert one.layout == Layout(2, 50, 40, 100, (0, 50, 80, 40))


def test_texts_are_not_packed_where_wide_rows_would_cost_more_than_padding() -> None:
    (one,) = sub_batches(torch.tensor([400, 370, 370, 370]), 2000, always)
    assert one.layout == Layout(4, 400, 400, 1510)


def test_texts_that_do_not_suit_lie_one_a_row() -> None:
    lengths = torch.tensor([40, 30, 20, 10])
    asked = []
    (one,) = sub_batches(lengths, 200, lambda longest: asked.append(longest) or False)
    assert (one.layout, asked) == (Layout(4, 40, 40, 100), [40])


def test_among_a_window_of_texts_padding_is_below_a_twentieth() -> None:
    lengths = drawn(0, TEXTS, 3, 64)
    paid = sum(one.layout.tokens for one in sub_batches(lengths, 1024))
    assert paid - int(lengths.sum()) <= 0.05 * paid
