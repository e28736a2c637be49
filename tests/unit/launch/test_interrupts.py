"""Which signals count as a wish to stop, and which as the same wish once more."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from launch import watch
from launch.watch import Interrupts

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def wishes() -> Iterator[Interrupts]:
    """Installed; the process's own handlers come back after the test."""
    before = {number: signal.getsignal(number) for number in STOPS}
    current = Interrupts.current
    wishes = Interrupts()
    wishes.install()
    yield wishes
    Interrupts.current = current
    for number, handler in before.items():
        signal.signal(number, handler)


def test_every_ctrl_c_counts(wishes: Interrupts) -> None:
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    assert (wishes.count, wishes.code) == (2, 130)


def test_sigterms_at_once_are_one_wish(wishes: Interrupts) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    assert (wishes.count, wishes.code) == (1, 143)


def test_ctrl_c_after_a_sigterm_is_a_second_wish(wishes: Interrupts) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    assert (wishes.count, wishes.code) == (2, 143)


@pytest.mark.parametrize("host_first", [True, False])
def test_a_hosts_word_and_the_sigterm_of_the_same_end_are_one_wish(
    wishes: Interrupts, monkeypatch: pytest.MonkeyPatch, host_first: bool
) -> None:
    monkeypatch.setattr(watch, "TOGETHER_S", 0.0)  # however long one comes after the other
    for by_host in (host_first, not host_first):
        wishes.ask(143) if by_host else os.kill(os.getpid(), signal.SIGTERM)
    assert (wishes.count, wishes.code) == (1, 143)
    os.kill(os.getpid(), signal.SIGTERM)
    assert wishes.count == 2
