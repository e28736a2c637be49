"""What many starts and stops leave: nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from soak import soak

from tests.launch_tree import make_tree, wait_for


@pytest.mark.drill
@pytest.mark.timeout(1200)
def test_fifty_starts_and_stops_leave_nothing(tmp_path: Path) -> None:
    soak(make_tree(tmp_path / "tree"), 50)


@pytest.mark.drill
def test_a_supervisor_holds_no_more_after_twelve_restarts(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    job = tree.start("run", "--max-restarts", "1", FAKE_trainer_0="exit=1", FAKE_PROGRESS="1")
    log = tree.path / "lmgnn.log"

    def held(failures: int) -> tuple[int, list[str]]:
        """Descriptors and children in the second of waiting after so many failures."""
        wait_for(lambda: log.read_text().count("; restart 1 of 1 in 1 s") == failures, seconds=120)
        children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
        return len(os.listdir(f"/proc/{job.pid}/fd")), children

    assert held(1) == held(12)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=60) == 143
    assert not tree.processes()
    assert not tree.segments()
