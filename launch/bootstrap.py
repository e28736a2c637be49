"""Makes .venv from requirements.lock, or finds it ready. Standard library only, Python 3.11.

Owns the folder .venv and nothing else: the lock is a list of pip constraints, the names of what to
install come from pyproject.toml. Can be killed at any moment and started again; two at once wait
for each other. Never upgrades anything outside .venv.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parents[1]
READY_NAME = ".lmgnn-ready"
GIGABYTE = 10**9
CPU_NEED = 9 * GIGABYTE // 2
"""Measured: 2.3 GB of packages, and as much again while pip unpacks."""
CUDA_NEED = 12 * GIGABYTE
"""The CUDA build of torch with its libraries takes 5 GB, and as much again while pip unpacks."""
EXIT_PREFLIGHT = 12
EXIT_DISK_FULL = 14


class BootstrapError(Exception):
    """One line for the person at the terminal, and the exit code."""

    def __init__(self, message: str, exit_code: int = EXIT_PREFLIGHT) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Wanted:
    """What the environment must hold. `key` changes with the lock and the names."""

    names: tuple[str, ...]
    extras: tuple[str, ...]
    key: str


def wanted(root: Path, extras: Sequence[str]) -> Wanted:
    """Read the lock and pyproject.toml; the key leaves the extras out (they are compared as a set)."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    optional = project.get("optional-dependencies", {})
    material = [
        (root / "requirements.lock").read_text(),
        project["dependencies"],
        optional,
        sys.version_info[:2],
    ]
    names = ["setuptools", *project["dependencies"], *(name for extra in extras for name in optional[extra])]
    return Wanted(tuple(names), tuple(extras), hashlib.sha256(json.dumps(material).encode()).hexdigest())


def is_ready(venv: Path, want: Wanted) -> bool:
    """Whether an earlier call finished with the same lock and at least these extras."""
    try:
        found = json.loads((venv / READY_NAME).read_text())
    except (OSError, ValueError):
        return False
    same = found.get("key") == want.key and set(want.extras) <= set(found.get("extras", ()))
    return same and (venv / "bin" / "python").exists()


def make(root: Path, want: Wanted) -> None:
    """Build or repair root/.venv; the ready file is written last."""
    venv = root / ".venv"
    venv.mkdir(exist_ok=True)
    with (venv / ".lock").open("w") as lock:
        _wait_for(lock.fileno())
        if is_ready(venv, want):
            return
        (venv / READY_NAME).unlink(missing_ok=True)
        started = time.monotonic()
        _say(started, f"making {venv} (once; about 2 GB, a few minutes)")
        python = _ensure_venv(venv)
        _check_disk(root, python)
        for broken in _torn_packages(venv):
            _say(started, f"taking up again: {broken.name} was cut off")
            shutil.rmtree(broken)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--progress-bar", "off"]
        _run_pip([*pip, "-c", str(root / "requirements.lock"), *want.names], venv, started)
        _run_pip([*pip, "--no-deps", "--no-build-isolation", "-e", str(root)], venv, started)
        _write_ready(venv, want)
        _say(started, "environment ready")


def _say(started: float, text: str) -> None:
    sys.stderr.write(f"[{time.monotonic() - started:4.0f} s] {text}\n")
    sys.stderr.flush()


def _wait_for(lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.stderr.write("another process makes the environment at this moment; waiting for it\n")
        fcntl.flock(lock, fcntl.LOCK_EX)


def _ensure_venv(venv: Path) -> Path:
    """The interpreter of a venv that has a working pip, made anew where there is none."""
    python = venv / "bin" / "python"
    check = [str(python), "-I", "-m", "pip", "--version"]
    if python.exists() and subprocess.run(check, capture_output=True, check=False).returncode == 0:
        return python
    for name in ("bin", "lib", "lib64", "include", "pyvenv.cfg"):
        path = venv / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    base = getattr(sys, "_base_executable", sys.executable)
    result = subprocess.run(
        [base, "-I", "-m", "venv", str(venv)], capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        _raise_disk_full(result.stderr)
        lines = (result.stdout + result.stderr).strip().splitlines() or ["no reason given"]
        raise BootstrapError(
            f"`{base} -m venv` failed: {lines[-1]} (on Debian and Ubuntu: apt-get install python3.11-venv)"
        )
    return python


def _check_disk(root: Path, python: Path) -> None:
    """Refuse to start what cannot be finished; how much is needed depends on the build of torch."""
    present = sum(f.stat().st_size for f in (root / ".venv").rglob("*.so") if f.is_file())
    free = shutil.disk_usage(root).free + present
    if free >= CUDA_NEED:
        return
    need = CUDA_NEED if free >= CPU_NEED and _torch_is_cuda(root, python) else CPU_NEED
    if free < need:
        raise BootstrapError(
            f"{root} has {free / GIGABYTE:.1f} GB free, the environment needs {need / GIGABYTE:.0f} GB: "
            "make room" + (", or point pip at a CPU build of torch" if need == CUDA_NEED else ""),
            EXIT_DISK_FULL,
        )


def _torch_is_cuda(root: Path, python: Path) -> bool:
    """Ask pip which torch it would take, from the package's metadata (a few seconds)."""
    command = [str(python), "-m", "pip", "install", "--dry-run", "--no-deps", "--ignore-installed", "--quiet"]
    command += ["--report", "-", "-c", str(root / "requirements.lock"), "torch"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        return False
    start = result.stdout.find("{")
    required = json.loads(result.stdout[start:])["install"][0]["metadata"].get("requires_dist", [])
    return any(line.lower().startswith(("nvidia-", "cuda-")) for line in required)


def _torn_packages(venv: Path) -> list[Path]:
    """Metadata folders of half-installed packages: pip adds INSTALLER to RECORD at the very end."""
    torn = []
    for info in venv.glob("lib/python3.11/site-packages/*.dist-info"):
        record = info / "RECORD"
        if not record.exists() or "INSTALLER," not in record.read_text(errors="replace"):
            torn.append(info)
    return torn


def _run_pip(command: list[str], venv: Path, started: float) -> None:
    """Run pip with a line for each phase and package; BootstrapError names pip's own last error."""
    log = venv / "install.log"
    site = venv / "lib" / "python3.11" / "site-packages"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment.update(DS_BUILD_OPS="0", PYTHONUNBUFFERED="1")
    with log.open("a") as output:
        begin = output.tell()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        with log.open() as lines:
            lines.seek(begin)
            _follow(process, lines, site, started)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if process.returncode != 0:
        text = log.read_text()[begin:]
        _raise_disk_full(text)
        errors = [line for line in text.splitlines() if line.startswith("ERROR")] or text.splitlines()[-1:]
        raise BootstrapError(f"pip failed: {' '.join(errors[:2])} (all of it: {log})")


def _follow(process: subprocess.Popen[bytes], lines: TextIO, site: Path, started: float) -> None:
    spoken = time.monotonic()
    while True:
        running = process.poll() is None
        for line in lines.readlines():
            if line.strip().startswith(
                ("Collecting", "Downloading", "Building wheel for", "Installing collected")
            ):
                spoken = time.monotonic()
                _say(started, line.strip()[:100])
        if not running:
            return
        if time.monotonic() - spoken > 5:
            spoken = time.monotonic()
            _say(started, f"still at it, {len(list(site.glob('*.dist-info')))} packages in place")
        time.sleep(0.2)


def _raise_disk_full(text: str) -> None:
    if "No space left on device" in text:
        raise BootstrapError("the disk is full: make room and start again", EXIT_DISK_FULL)


def _write_ready(venv: Path, want: Wanted) -> None:
    temporary = venv / (READY_NAME + ".new")
    with temporary.open("w") as file:
        json.dump({"key": want.key, "extras": list(want.extras)}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(venv / READY_NAME)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, 12 (something is missing) or 14 (disk)."""
    parser = argparse.ArgumentParser(description="Make .venv from requirements.lock, or find it ready.")
    parser.add_argument("--dev", action="store_true", help="also what the tests and `make check` need")
    options = parser.parse_args(argv)
    try:
        want = wanted(ROOT, ("dev",) if options.dev else ())
        if not is_ready(ROOT / ".venv", want):
            make(ROOT, want)
    except BootstrapError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_DISK_FULL if error.errno == 28 else EXIT_PREFLIGHT
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
