"""Token ids of many texts, one list after the other, mapped from files or in memory.

Owns their form. Never makes tokens.
Shape letters: N lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from partition.arrays import pieces
from partition.room import IN_MEMORY, Room

TEXTS = 1 << 16
"""Lists handled at a time: 100 MB where each has 64 tokens."""


@dataclass(frozen=True)
class TokenLists:
    """Token ids of a node type's texts; list i is values[offsets[i]:offsets[i + 1]]."""

    values: np.ndarray
    """int16 where the vocabulary fits (torch has next to no uint16), else int32."""
    offsets: np.ndarray
    """int64 N + 1."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def lengths(self, rows: np.ndarray | slice) -> np.ndarray:
        """int64, of the lists of some rows."""
        if isinstance(rows, slice):
            return np.diff(self.offsets[rows.start : rows.stop + 1])
        return np.asarray(self.offsets[rows + 1] - self.offsets[rows])

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Values of the lists of `rows` (integers), one list after the other."""
        lengths = self.lengths(rows)
        ends = np.cumsum(lengths)
        starts = np.repeat(self.offsets[rows] - (ends - lengths), lengths)
        starts += np.arange(len(starts))
        return np.asarray(self.values[starts])

    def select(self, rows: np.ndarray, room: Room = IN_MEMORY) -> TokenLists:
        """The lists of `rows` (integers), in that order."""
        some = [rows[mine] for mine in pieces(0, len(rows), TEXTS)]
        values = room.numbers(self.values.dtype, (self.of(mine) for mine in [rows[:0], *some]))
        return TokenLists(values, room.numbers(np.int64, offsets_of(map(self.lengths, some))))


def offsets_of(lengths: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """int64 in as many pieces, and 0 before: where the lists of these lengths begin, and the end."""
    end = np.zeros(1, dtype=np.int64)
    yield end
    for some in lengths:
        ends = end[-1] + np.cumsum(some, dtype=np.int64)
        yield ends
        end = ends if len(ends) else end


def joined(lists: list[TokenLists], room: Room = IN_MEMORY) -> TokenLists:
    """All lists one after the other; at least one of them."""
    values = room.numbers(lists[0].values.dtype, (one.values for one in lists))
    every = (one.lengths(mine) for one in lists for mine in pieces(0, len(one)))
    return TokenLists(values, room.numbers(np.int64, offsets_of(every)))
