"""The clock by which silence is measured: it stands still while its own loop does."""

from __future__ import annotations

from launch.awake import AwakeClock


class Wall:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def test_short_turns_count_in_full() -> None:
    wall = Wall()
    clock = AwakeClock(2.0, wall)
    start = clock.now()
    for _ in range(10):
        wall.time += 1.5
        clock.turn()
    assert clock.now() - start == 15.0


def test_of_a_long_turn_the_allowed_length_counts() -> None:
    wall = Wall()
    clock = AwakeClock(2.0, wall)
    start = clock.now()
    wall.time += 3600
    clock.turn()
    assert clock.now() - start == 2.0
    wall.time += 1
    clock.turn()
    assert clock.now() - start == 3.0


def test_now_inside_a_long_turn_does_not_run_ahead_of_the_turn() -> None:
    wall = Wall()
    clock = AwakeClock(2.0, wall)
    start = clock.now()
    wall.time += 60
    assert clock.now() - start == 2.0
    clock.turn()
    assert clock.now() - start == 2.0
