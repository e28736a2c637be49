"""Checkpoints: whole or absent, the same answer on every rank, damage found by name."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from partition.errors import DiskFullError, StoreError, WorkerError
from pipeline.checkpoint import MARKER, Checkpoint, CheckpointStore, newest_whole, verify
from pipeline.statefiles import load_optimizer, load_tensors, save_optimizer, save_tensors


class Ranks:
    """Threads that stand for ranks; gather and barrier work as torch.distributed's do."""

    def __init__(self, world: int) -> None:
        self.world = world
        self._slots: list[Any] = [None] * world
        self._barrier = threading.Barrier(world, timeout=20)

    def barrier(self) -> None:
        self._barrier.wait()

    def gather(self, rank: int, value: Any) -> list[Any]:
        self._slots[rank] = value
        self._barrier.wait()
        everything = list(self._slots)
        self._barrier.wait()
        return everything

    def store(self, folder: Path, rank: int, keep: int = 2) -> CheckpointStore:
        return CheckpointStore(
            folder, keep=keep, rank=rank, gather=lambda v: self.gather(rank, v), barrier=self.barrier
        )

    def run(self, body: Callable[[int], Any]) -> list[Any]:
        """body(rank) on every rank at once; a raised error is the rank's result."""
        results: list[Any] = [None] * self.world

        def guarded(rank: int) -> None:
            try:
                results[rank] = body(rank)
            except Exception as error:
                results[rank] = error

        threads = [threading.Thread(target=guarded, args=(r,)) for r in range(self.world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


def single(folder: Path, keep: int = 2) -> CheckpointStore:
    return Ranks(1).store(folder, 0, keep)


def writes(value: float) -> Callable[[Path], None]:
    """Fills a rank's folder with one file of each kind."""

    def write(folder: Path) -> None:
        save_tensors(folder / "model.safetensors", {"w": torch.full((300,), value)})
        save_optimizer(folder / "optimizer.pt", {"step": int(value), "m": torch.full((300,), value)})
        (folder / "loader").mkdir()
        (folder / "loader" / "position.json").write_text(json.dumps({"at": value}))

    return write


def value_in(checkpoint: Checkpoint, rank: int = 0) -> float:
    return float(load_tensors(checkpoint.rank_folder(rank) / "model.safetensors")["w"][0])


def test_a_saved_checkpoint_is_the_latest_with_state_and_tensors(tmp_path: Path) -> None:
    store = single(tmp_path)
    saved = store.save("000010-joint", writes(3.0), {"step": 10, "best": float("-inf"), "by": {1: "a"}})
    found = store.latest()
    assert found == saved
    assert found.state == {"step": 10, "best": float("-inf"), "by": {"1": "a"}}
    assert value_in(found) == 3.0
    assert found.size_bytes == sum(
        p.stat().st_size for p in found.path.rglob("*") if p.is_file() and p.name != MARKER
    )


def test_an_empty_or_missing_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert single(tmp_path / "new").latest() is None
    assert newest_whole(tmp_path / "nowhere") is None


def test_order_is_that_of_the_numbers_not_of_the_letters(tmp_path: Path) -> None:
    store = single(tmp_path, keep=9)
    for name in ("000009-z", "999999-b", "1000000-a"):
        store.save(name, writes(1), {})
    assert newest_whole(tmp_path).name == "1000000-a"  # type: ignore[union-attr]


def test_a_name_saved_again_is_newer_and_leaves_the_first_unchanged(tmp_path: Path) -> None:
    store = single(tmp_path, keep=2)
    first = store.save("000010-joint", writes(1), {})
    again = store.save("000010-joint", writes(2), {})
    assert again.name == "000010-joint~2"
    assert value_in(store.latest()) == 2  # type: ignore[arg-type]
    assert value_in(verify(first.path)) == 1


def test_retention_keeps_the_newest(tmp_path: Path) -> None:
    store = single(tmp_path, keep=2)
    for step in range(1, 6):
        store.save(f"{step:06}-s", writes(step), {})
    assert sorted(os.listdir(tmp_path)) == ["000004-s", "000005-s"]


def test_retention_does_not_count_torn_checkpoints_as_kept(tmp_path: Path) -> None:
    store = single(tmp_path, keep=2)
    good = store.save("000001-s", writes(1), {})
    torn = store.save("000002-s", writes(2), {})
    os.truncate(torn.path / "rank-0" / "model.safetensors", 100)
    store.save("000003-s", writes(3), {})
    assert sorted(os.listdir(tmp_path)) == [good.name, "000003-s"]


def test_a_checkpoint_saved_after_going_back_replaces_the_abandoned_newer_ones(tmp_path: Path) -> None:
    store = single(tmp_path, keep=2)
    store.save("000001-s", writes(1), {})
    damaged = store.save("000003-s", writes(3), {})
    os.truncate(damaged.path / "rank-0" / "model.safetensors", 100)
    assert store.latest().name == "000001-s"  # type: ignore[union-attr]
    store.save("000002-s", writes(2), {})
    assert sorted(os.listdir(tmp_path)) == ["000001-s", "000002-s"]


def test_the_last_good_checkpoint_survives_every_failed_save(tmp_path: Path) -> None:
    store = single(tmp_path, keep=1)
    store.save("000001-s", writes(1), {})

    def fails(folder: Path) -> None:
        (folder / "half").write_bytes(b"x" * 1000)
        raise OSError(errno.EIO, "input/output error")

    for step in range(2, 5):
        with pytest.raises(OSError, match="input/output"):
            store.save(f"{step:06}-s", fails, {})
        assert os.listdir(tmp_path) == ["000001-s"]
        assert value_in(store.latest()) == 1  # type: ignore[arg-type]


FILES = ["rank-0/model.safetensors", "rank-0/optimizer.pt", "rank-0/loader/position.json", MARKER]


def _cut(length: float) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, int(path.stat().st_size * length))


def _flip(where: float) -> Callable[[Path], None]:
    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(where * (len(data) - 1))] ^= 4
        path.write_bytes(data)

    return flip


DAMAGES = {
    "cut to nothing": _cut(0),
    "cut in the middle": _cut(0.5),
    "last byte missing": lambda path: os.truncate(path, path.stat().st_size - 1),
    "bit in the first byte": _flip(0),
    "bit in the middle": _flip(0.5),
    "bit near the end": _flip(0.98),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_and_the_older_checkpoint_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, damage: str
) -> None:
    store = single(tmp_path)
    store.save("000001-s", writes(1), {"step": 1})
    file = store.save("000002-s", writes(2), {"step": 2}).path / name
    DAMAGES[damage](file)
    with caplog.at_level(logging.WARNING):
        found = store.latest()
    assert found is not None
    assert (found.name, value_in(found)) == ("000001-s", 1)
    assert str(file) in caplog.text
    if name != MARKER and damage != "gone":
        assert "expected" in caplog.text


def test_the_damage_report_gives_expected_and_actual_checksum(tmp_path: Path) -> None:
    saved = single(tmp_path).save("000001-s", writes(1), {})
    name = "rank-0/optimizer.pt"
    _flip(0.5)(saved.path / name)
    actual = subprocess.run(["sha256sum", saved.path / name], capture_output=True, text=True, check=True)
    with pytest.raises(StoreError, match=saved.files[name].sha256) as error:
        verify(saved.path)
    assert actual.stdout.split()[0] in str(error.value)


def test_all_checkpoints_damaged_gives_none(tmp_path: Path) -> None:
    store = single(tmp_path)
    for step in (1, 2):
        (store.save(f"00000{step}-s", writes(step), {}).path / MARKER).unlink()
    assert store.latest() is None


def test_two_ranks_write_one_checkpoint_and_agree(tmp_path: Path) -> None:
    ranks = Ranks(2)

    def body(rank: int) -> tuple[Checkpoint, Checkpoint | None]:
        store = ranks.store(tmp_path, rank)
        saved = store.save("000001-s", writes(10 + rank), {"step": 1})
        return saved, store.latest()

    (first, found_by_0), (second, found_by_1) = ranks.run(body)
    assert first == second == found_by_0 == found_by_1
    assert [value_in(first, rank) for rank in (0, 1)] == [10, 11]
    assert {name.split("/")[0] for name in first.files} == {"rank-0", "rank-1"}


def test_two_ranks_agree_when_the_newest_is_damaged_in_the_other_ranks_part(tmp_path: Path) -> None:
    ranks = Ranks(2)

    def body(rank: int) -> Checkpoint | None:
        store = ranks.store(tmp_path, rank)
        for step in (1, 2):
            saved = store.save(f"00000{step}-s", writes(step), {})
        if rank == 1:
            _flip(0.5)(saved.path / "rank-1" / "model.safetensors")
        ranks.barrier()
        return store.latest()

    assert [found.name for found in ranks.run(body)] == ["000001-s", "000001-s"]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_full_disk_on_one_rank_stops_all_ranks_and_keeps_the_old(tmp_path: Path, failing: int) -> None:
    ranks = Ranks(2)

    def fails(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def body(rank: int) -> None:
        store = ranks.store(tmp_path, rank, keep=1)
        store.save("000001-s", writes(1), {})
        store.save("000002-s", fails if rank == failing else writes(2), {})

    assert [type(result) for result in ranks.run(body)] == [DiskFullError, DiskFullError]
    assert os.listdir(tmp_path) == ["000001-s"]


def test_another_error_on_one_rank_reaches_the_other_with_its_text(tmp_path: Path) -> None:
    ranks = Ranks(2)

    def fails(folder: Path) -> None:
        raise RuntimeError("tensor is on fire")

    def body(rank: int) -> None:
        ranks.store(tmp_path, rank).save("000001-s", fails if rank == 1 else writes(1), {})

    other, own = ranks.run(body)
    assert isinstance(own, RuntimeError)
    assert isinstance(other, WorkerError)
    assert "rank 1" in str(other)
    assert "tensor is on fire" in str(other)


FULL = """
import sys, torch
from pathlib import Path
from partition.errors import DiskFullError
from pipeline.checkpoint import CheckpointStore, newest_whole
from pipeline.statefiles import save_optimizer, save_tensors
folder, kind = Path(sys.argv[1]), sys.argv[2]
store = CheckpointStore(folder, keep=1, rank=0, gather=lambda v: [v], barrier=lambda: None)
def write(values):
    def fill(to):
        tensors = {"w": torch.zeros(values)}
        if kind == "tensors": save_tensors(to / "f", tensors)
        elif kind == "optimizer": save_optimizer(to / "f", tensors)
        else: (to / "f").write_bytes(bytes(4 * values))
    return fill
store.save("000001-s", write(50_000), {})
try:
    store.save("000002-s", write(400_000), {})
except DiskFullError as error:
    print(error)
    assert newest_whole(folder).name == "000001-s"
    sys.exit(DiskFullError.exit_code)
"""


@pytest.mark.parametrize("kind", ["tensors", "optimizer", "plain"])
def test_a_disk_that_is_really_full_is_called_full(tmp_path: Path, kind: str) -> None:
    unshare = shutil.which("unshare")
    probe = [unshare or "unshare", "--user", "--map-root-user", "--mount"]
    if unshare is None or subprocess.run([*probe, "true"], capture_output=True).returncode:
        pytest.skip("user namespaces, which give a test a small disk of its own, are not allowed here")
    script = tmp_path / "full.py"
    script.write_text(FULL)
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = 'mount -t tmpfs -o size=1m none "$0" && exec "$@"'
    done = subprocess.run(
        [*probe, "sh", "-c", mount, str(disk), sys.executable, str(script), str(disk), kind],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == DiskFullError.exit_code, done.stderr
    assert "no space is left for checkpoints" in done.stdout


def test_leftovers_of_a_killed_save_are_removed_at_the_start_by_rank_0_only(tmp_path: Path) -> None:
    leftover = tmp_path / ".tmp-000005-s" / "rank-1"
    leftover.mkdir(parents=True)
    Ranks(2).store(tmp_path, 1)
    assert leftover.exists()
    single(tmp_path)
    assert os.listdir(tmp_path) == []


def test_every_file_and_folder_is_synced_before_the_rename_and_the_parent_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    fsync, rename = os.fsync, os.rename

    def logged_fsync(handle: int) -> None:
        log.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    def logged_rename(source: Path, target: Path) -> None:
        log.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(os, "rename", logged_rename)
    saved = single(tmp_path).save("000001-s", writes(1), {})
    at = log.index("rename")
    before, after = set(log[:at]), log[at + 1 :]
    temporary = tmp_path / ".tmp-000001-s"
    assert {str(temporary / name) for name in saved.files} <= before
    assert {str(temporary), str(temporary / "rank-0"), str(temporary / "rank-0" / "loader")} <= before
    assert any(MARKER in name for name in before)
    assert after == [str(tmp_path)]


@pytest.mark.parametrize("name", ["joint", "12", "../1-x", "1-a/b", "1-a~2", ".tmp-1"])
def test_a_name_without_order_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="NUMBER-WORD"):
        single(tmp_path).save(name, writes(1), {})


def test_asking_for_a_rank_that_wrote_nothing_says_how_many_trainers_are_needed(tmp_path: Path) -> None:
    saved = single(tmp_path).save("000001-s", writes(1), {})
    with pytest.raises(StoreError, match="as many trainers"):
        saved.rank_folder(1)


def test_tied_tensors_come_back_equal(tmp_path: Path) -> None:
    table = torch.randn(4, 3)
    save_tensors(
        tmp_path / "t", {"a": table, "b": table, "c": table[:2], "half": table.bfloat16(), "t": table.T}
    )
    loaded = load_tensors(tmp_path / "t")
    assert torch.equal(loaded["a"], table)
    assert torch.equal(loaded["b"], table)
    assert torch.equal(loaded["c"], table[:2])
    assert torch.equal(loaded["t"], table.T)
    assert loaded["half"].dtype == torch.bfloat16


def test_a_real_optimizer_continues_from_its_file(tmp_path: Path) -> None:
    def train(weight: torch.nn.Parameter, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            optimizer.zero_grad()
            ((weight - step) ** 2).sum().backward()
            optimizer.step()

    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    train(weight, optimizer, range(5))
    save_optimizer(tmp_path / "o", optimizer.state_dict())
    resumed = torch.nn.Parameter(weight.detach().clone())
    other = torch.optim.AdamW([resumed], lr=0.1)
    other.load_state_dict(load_optimizer(tmp_path / "o"))
    train(weight, optimizer, range(5, 9))
    train(resumed, other, range(5, 9))
    assert torch.equal(weight, resumed)


class Custom:
    pass


def test_a_state_that_could_not_be_loaded_safely_is_refused_when_saving(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="Custom"):
        save_optimizer(tmp_path / "o", {"scaler": Custom()})
    assert not (tmp_path / "o").exists()


def test_a_pickle_that_runs_code_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"x": Evil()}, tmp_path / "o")
    with pytest.raises(StoreError, match="cannot be read"):
        load_optimizer(tmp_path / "o")
    assert not (tmp_path / "ran").exists()
