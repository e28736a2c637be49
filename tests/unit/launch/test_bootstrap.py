"""Finding, judging and refusing an environment; nothing is installed here."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from launch import bootstrap

ROOT = Path(__file__).parents[3]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with our scripts, names and lock, and a .venv that claims to be ready."""
    (tmp_path / "launch").mkdir()
    for name in ("launch/run.sh", "launch/bootstrap.py", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    return tmp_path


def mark_ready(checkout: Path, *extras: str) -> None:
    key = bootstrap.wanted(checkout, ()).key
    (checkout / ".venv" / bootstrap.READY_NAME).write_text(json.dumps({"key": key, "extras": extras}))


def test_an_environment_is_ready_for_the_extras_that_it_has(checkout: Path) -> None:
    mark_ready(checkout)
    assert bootstrap.is_ready(checkout / ".venv", bootstrap.wanted(checkout, ()))
    assert not bootstrap.is_ready(checkout / ".venv", bootstrap.wanted(checkout, ("dev",)))
    mark_ready(checkout, "dev")
    assert bootstrap.is_ready(checkout / ".venv", bootstrap.wanted(checkout, ()))
    assert bootstrap.is_ready(checkout / ".venv", bootstrap.wanted(checkout, ("dev",)))


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml"])
def test_a_changed_lock_or_a_new_name_makes_it_stale(checkout: Path, name: str) -> None:
    mark_ready(checkout)
    text = (checkout / name).read_text()
    (checkout / name).write_text(text.replace("psutil", "psutil2"))
    assert not bootstrap.is_ready(checkout / ".venv", bootstrap.wanted(checkout, ()))


def test_a_torn_or_missing_ready_file_is_not_ready(checkout: Path) -> None:
    want = bootstrap.wanted(checkout, ())
    assert not bootstrap.is_ready(checkout / ".venv", want)
    (checkout / ".venv" / bootstrap.READY_NAME).write_text('{"key": "')
    assert not bootstrap.is_ready(checkout / ".venv", want)


def test_found_ready_takes_no_time(checkout: Path) -> None:
    """Processor time, which a busy machine does not stretch as it does the time on the wall."""
    mark_ready(checkout)
    command = [sys.executable, "-I", "-S", str(checkout / "launch" / "bootstrap.py")]
    seconds = []
    for _ in range(5):
        before = os.times()
        assert subprocess.run(command, check=False).returncode == 0
        after = os.times()
        seconds.append(
            after.children_user + after.children_system - before.children_user - before.children_system
        )
    assert min(seconds) < 0.2


def test_packages_whose_installation_was_cut_off_are_found(checkout: Path) -> None:
    site = checkout / ".venv" / "lib" / "python3.11" / "site-packages"
    for name, record in {
        "whole-1.0": "whole.py,,\nwhole-1.0.dist-info/INSTALLER,sha256=x,4\n",
        "torn-1.0": "torn.py,,\n",
    }.items():
        (site / f"{name}.dist-info").mkdir(parents=True)
        (site / f"{name}.dist-info" / "RECORD").write_text(record)
    (site / "empty-1.0.dist-info").mkdir()
    found = {p.name for p in bootstrap._torn_packages(checkout / ".venv")}
    assert found == {"torn-1.0.dist-info", "empty-1.0.dist-info"}


@pytest.mark.parametrize(("cuda", "free", "enough"), [(True, 9, False), (False, 9, True), (False, 2, False)])
def test_the_disk_is_checked_for_the_build_of_torch_that_pip_takes(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, cuda: bool, free: int, enough: bool
) -> None:
    usage = SimpleNamespace(free=free * bootstrap.GIGABYTE)
    monkeypatch.setattr(bootstrap.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(bootstrap, "_torch_is_cuda", lambda *_: cuda)
    python = checkout / ".venv" / "bin" / "python"
    if enough:
        bootstrap._check_disk(checkout, python)
        return
    with pytest.raises(bootstrap.BootstrapError, match="GB free") as caught:
        bootstrap._check_disk(checkout, python)
    assert caught.value.exit_code == 14


def test_every_name_of_the_project_is_in_the_lock() -> None:
    lock = {
        line.split("==")[0] for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line
    }
    names = bootstrap.wanted(ROOT, ("dev",)).names
    assert {name.partition("[")[0].lower().replace("_", "-") for name in names} <= lock


def test_the_lock_fits_every_build_of_torch() -> None:
    lines = [x for x in (ROOT / "requirements.lock").read_text().splitlines() if not x.startswith("#")]
    assert not [line for line in lines if "+" in line or line.startswith(("nvidia", "triton"))]


def test_a_missing_interpreter_is_named_before_anything_starts(checkout: Path) -> None:
    (checkout / ".venv" / "bin" / "python").unlink()
    tools = checkout / "tools"
    tools.mkdir()
    for name in ("bash", "dirname", "readlink", "env"):
        found = shutil.which(name)
        assert found
        (tools / name).symlink_to(found)
    result = subprocess.run(
        [str(checkout / "launch" / "run.sh")],
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 12
    assert "Python 3.11" in result.stderr
    assert "apt-get install python3.11" in result.stderr
    assert not (checkout / ".venv" / ".lock").exists()


def test_two_at_once_wait_for_each_other(checkout: Path) -> None:
    """The second one finds what the first has made; both run the script itself."""
    with (checkout / ".venv" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        script = checkout / "launch" / "bootstrap.py"
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(script)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PIP_NO_INDEX": "1"},
        )
        assert process.stderr
        assert "another process" in process.stderr.readline()
        mark_ready(checkout)
    assert process.wait(timeout=10) == 0
    process.stderr.close()
