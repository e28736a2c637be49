"""The restart budget: spent by failures, given back by progress, with longer and longer waits."""

from __future__ import annotations

from pathlib import Path

from launch.attempts import LONGEST_WAIT_S, Budget, newest_checkpoint


def test_failures_without_progress_spend_it_and_double_the_wait() -> None:
    budget = Budget(3, progress=-1)
    assert [budget.wait_s(-1) for _ in range(5)] == [1.0, 2.0, 4.0, None, None]


def test_a_newer_checkpoint_gives_all_of_it_back() -> None:
    budget = Budget(2, progress=8)
    assert [budget.wait_s(8), budget.wait_s(8)] == [1.0, 2.0]
    assert [budget.wait_s(12), budget.wait_s(12), budget.wait_s(12)] == [1.0, 2.0, None]


def test_an_older_checkpoint_is_no_progress() -> None:
    budget = Budget(1, progress=8)
    assert budget.wait_s(4) == 1.0
    assert budget.wait_s(8) is None


def test_the_wait_has_an_end() -> None:
    budget = Budget(50, progress=0)
    assert max(budget.wait_s(0) or 0 for _ in range(50)) == LONGEST_WAIT_S


def test_without_a_budget_the_first_failure_is_the_last() -> None:
    assert Budget(0, progress=-1).wait_s(7) is None


def test_progress_is_the_newest_committed_checkpoint(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) == -1
    for name in ("000004-mlm", "000012-warm~2", ".tmp-000020-warm", "000016-joint"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    for name in ("000004-mlm", "000012-warm~2", ".tmp-000020-warm"):
        (tmp_path / "checkpoints" / name / "checkpoint.json").touch()
    assert newest_checkpoint(tmp_path) == 12
