"""A clock that stands still while its own process does: what is asked is how long others were silent."""

from __future__ import annotations

import time
from collections.abc import Callable


class AwakeClock:
    """Seconds that a loop was there to listen, which calls `turn` each time round.

    A machine that was suspended, or too busy to run the supervisor, heard nobody; without this every
    agent would then count as silent, and a sound job would be ended.
    """

    def __init__(self, longest_turn_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._longest = longest_turn_s
        self._clock = clock
        self._away = 0.0
        self._turned = clock()

    def turn(self) -> None:
        """Note that the loop came round; of the time since the last turn `longest_turn_s` count at most."""
        now = self._clock()
        self._away += max(0.0, now - self._turned - self._longest)
        self._turned = now

    def now(self) -> float:
        """The time, as of a moment inside a turn."""
        return min(self._clock(), self._turned + self._longest) - self._away
