"""A disk that fills up under a run: code 14 with the file, the checkpoint before it whole."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kills import DEADLINE_S, WARM_PLAN, last_step, processes_of
from toy import REPO, write_lm

from pipeline.checkpoint import newest_whole

SCRIPT = """
mount -t tmpfs -o size=32m none "$0" && "$@"
code=$?
rm -f "$0/others"; cp -r "$0" "$0.after"
exit $code
"""
EVERY = 20
"""Steps from one checkpoint to the next."""


@pytest.mark.parametrize(("what", "left"), [("logs", 0), ("checkpoint", 64 << 10)])
def test_a_disk_that_fills_up_under_a_run(
    what: str, left: int, toy: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """`left`: bytes that are still free for lines of logs and records."""
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("this user may not make namespaces (unshare)")
    graph, _, store = toy
    text = WARM_PLAN.format(graph=graph, lm=write_lm(tmp_path / "lm"), store=store, epochs=1000)
    plan, disk = tmp_path / "plan.toml", tmp_path / "disk"
    plan.write_text(text.replace("checkpoint_every = 1000000", f"checkpoint_every = {EVERY}"))
    disk.mkdir()
    launch = [sys.executable, "-P", "-m", "launch", "run", "--config", str(plan)]
    job = subprocess.Popen(
        [*unshare, "sh", "-c", SCRIPT, str(disk), *launch, "--run-dir", str(disk / "run")],
        env={**os.environ, "PYTHONPATH": str(REPO)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    inside = Path(f"/proc/{job.pid}/root{disk}")
    wait_for_step(inside / "run", job)
    fill(inside / "others", left)
    said, _ = job.communicate(timeout=DEADLINE_S)
    assert job.returncode == 14, said
    assert [line for line in said.splitlines() if line.startswith("error: ")]
    assert "no space" in said.lower()
    assert "go on with: " in said
    assert not processes_of(disk / "run")
    found = newest_whole(Path(f"{disk}.after") / "run" / "checkpoints")
    assert found is not None
    assert int(found.name.partition("-")[0]) % EVERY == 0


def wait_for_step(run: Path, job: subprocess.Popen[str]) -> None:
    """Until there is a checkpoint, and some steps after it."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if last_step(run)[1] > EVERY + 2:
            return
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.002)  # polls a file that another process writes
    raise AssertionError(f"no step in {DEADLINE_S} s")


def fill(path: Path, left: int) -> None:
    """What others write there, until so many bytes are free."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(file.tell() - left, 0))
