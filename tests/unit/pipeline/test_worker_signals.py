"""What SIGTERM does to trainers and servers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from pipeline import worker

ASKS = (signal.SIGTERM, signal.SIGUSR2)


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process's own handlers come back after the test."""
    before = {number: signal.getsignal(number) for number in ASKS}
    monkeypatch.setattr(worker, "_asked_to_leave", False)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ASKS)
def test_a_trainer_that_is_asked_or_told_to_end_notes_it(number: signal.Signals) -> None:
    worker._set_signals("trainer")
    os.kill(os.getpid(), number)
    assert worker._asked_to_leave


def test_a_server_outlives_a_sigterm() -> None:
    worker._set_signals("server")
    os.kill(os.getpid(), signal.SIGTERM)
    assert not worker._asked_to_leave
