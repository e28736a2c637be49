"""How texts lie in the LM's input: which run together, and in rows of which width. One text a row, padded to
the longest, or several in a row ("packed"), which packing.py keeps from seeing each other.

Owns the cuts between sub-batches and the layout of each, by lengths alone: the same in every process and
every run. Never sees a token or a model. Shape letter: N texts.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

MOST_PADDING = 0.05
"""Of the tokens that run. Where one text a row would need more, texts are packed."""
_NARROW = 256
"""Tokens of a row that are never too many."""
_ATTENTION = 600
"""A token's cost grows with the width of its row; it doubles at about this many. Two layers of MiniLM on one
CPU thread, forward and backward, beside what a sub-batch costs whatever is in it: at 300 to 500 with dropout,
whose attention keeps all scores, at 1,300 without."""


@dataclass(frozen=True)
class Layout:
    """Rows of equal width that hold the texts of a sub-batch."""

    rows: int
    width: int
    """Tokens of a row, padding included."""
    longest: int
    """Tokens of the longest text."""
    text_tokens: int
    """Without padding."""
    starts: tuple[int, ...] | None = None
    """Where each text starts, counted along all rows; None: one text a row."""

    @property
    def tokens(self) -> int:
        """Tokens that run, padding included."""
        return self.rows * self.width

    @property
    def padding(self) -> float:
        """Share of the tokens that run."""
        return 1 - self.text_tokens / max(self.tokens, 1)

    @property
    def cost(self) -> float:
        """Of one token of a text, in tokens of a very narrow row without padding."""
        return self.tokens * (1 + self.width / _ATTENTION) / max(self.text_tokens, 1)


@dataclass(frozen=True)
class SubBatch:
    """Texts that run together."""

    texts: Tensor
    """int64, positions among all texts, longest first."""
    layout: Layout


def widest(longest: int) -> int:
    """Tokens that a packed row has at most, if the longest text has `longest`."""
    return max(_NARROW, 2 * longest)


def sub_batches(
    lengths: Tensor, budget: int, packs: Callable[[int], bool] | None = None
) -> Iterator[SubBatch]:
    """Texts of `lengths` (int64 N) in sub-batches of at most `budget` tokens each, padding included, and one
    text at least; the longest first, so that memory peaks at once. Texts without tokens have one of their
    own: there is nothing to run in it. `packs`: whether texts of at most so many tokens may share a row;
    None = none may."""
    order = lengths.argsort(descending=True, stable=True)
    longest, start = lengths[lengths > 0].sort(descending=True).values.tolist(), 0
    while start < len(longest):
        end = min(start + max(1, budget // longest[start]), len(longest))
        layout = one_a_row(longest[start:end])
        if packs is not None and layout.padding > MOST_PADDING and packs(longest[start]):
            more = _fitting(longest, start, budget)
            packed = _packed(longest[start:more], budget)
            if packed is not None and packed.cost < layout.cost:
                layout, end = packed, more
        yield SubBatch(order[start:end], layout)
        start = end
    if len(order) > len(longest):
        yield SubBatch(order[len(longest) :], one_a_row([0] * (len(order) - len(longest))))


def one_a_row(lengths: Sequence[int]) -> Layout:
    """Each text padded to the longest."""
    longest = max(lengths, default=0)
    return Layout(len(lengths), longest, longest, sum(lengths))


def _fitting(lengths: Sequence[int], start: int, budget: int) -> int:
    """The first text from `start` on that no longer fits if packing pads as much as it may."""
    room, end = (1 - MOST_PADDING) * budget, start
    while end < len(lengths) and lengths[end] <= room:
        room, end = room - lengths[end], end + 1
    return end


def _packed(lengths: Sequence[int], budget: int) -> Layout | None:
    """The most and so the narrowest rows that have little padding; where none have, the cheapest. `lengths`
    descend; None if no rows are narrow enough."""
    best = None
    for rows in range(sum(lengths) // max(lengths, default=1), 0, -1):
        layout = _balanced(lengths, rows)
        if layout.width > widest(lengths[0]):
            break  # fewer rows are wider still
        if layout.padding <= MOST_PADDING and layout.tokens <= budget:
            return layout
        if layout.tokens <= budget and (best is None or layout.cost < best.cost):
            best = layout
    return best


def _balanced(lengths: Sequence[int], rows: int) -> Layout:
    """Each text, longest first, into the row that is shortest so far."""
    filled = [(0, row) for row in range(rows)]
    places = []
    for length in lengths:
        taken, row = filled[0]
        places.append((row, taken))
        heapq.heapreplace(filled, (taken + length, row))
    width = max(taken for taken, _ in filled)
    starts = tuple(row * width + taken for row, taken in places)
    return Layout(rows, width, lengths[0], sum(lengths), starts)
