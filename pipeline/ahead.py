"""Draws the next step's batches in a thread while the model computes.

DGL's client takes whichever reply comes first, so only one thread may talk to the graph at a time: the
caller starts the thread when its own requests of a step are over and settles it before it makes new
ones. What is drawn depends on ids and keys alone, not on when.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """What `draw(step)` gives, one step ahead."""

    def __init__(self, draw: Callable[[int], T]) -> None:
        self._draw = draw
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._step = -1
        self._drawn: Future[T] | None = None

    def start(self, step: int) -> None:
        """Begin to draw a step's batches."""
        self.settle()
        self._step, self._drawn = step, self._pool.submit(self._draw, step)

    def settle(self) -> None:
        """Wait until nothing is being drawn; an error shows up in `take`."""
        if self._drawn is not None:
            wait([self._drawn])

    def take(self, step: int) -> T:
        """A step's batches: those begun, or drawn now."""
        drawn, self._drawn = self._drawn, None
        if drawn is None:
            return self._draw(step)
        found = drawn.result()
        return found if self._step == step else self._draw(step)

    def close(self) -> None:
        self._pool.shutdown()
