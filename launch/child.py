"""One process that an agent owns: its start, its log, its memory, its end. Never decides anything."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from launch.plan import ERROR_MARK, PROGRESS_MARK, ProcessSpec
from launch.reading import kernel_memory_kills

TAIL_LINES = 40
TAIL_BYTES = 64 * 1024
_WARNING = re.compile(r"\b(WARNING|ERROR|CRITICAL)\b")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class Child:
    """A started process in a session of its own; `pidfd` becomes readable when it ends."""

    def __init__(self, spec: ProcessSpec) -> None:
        self.spec = spec
        self.peak_bytes = 0
        self.suspended = False
        """Whether a signal had stopped it (not ended) when it was last measured."""
        self._memory_kills = kernel_memory_kills()
        self._offset = 0
        self._rest = b""
        self._ready = False
        self._heartbeat_mtime = 0
        self._started = time.monotonic()
        self._process = _start(spec)
        self.pid = self._process.pid
        self.pidfd = os.pidfd_open(self.pid)

    def signal(self, number: int) -> None:
        """Send a signal to the process alone."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def signal_group(self, number: int) -> None:
        """Send a signal to the process and all it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def reap(self) -> int:
        """Return code of the ended process; what it started is killed with it."""
        self.signal_group(signal.SIGKILL)  # before wait: until then the group's number cannot be reused
        code = self._process.wait()
        os.close(self.pidfd)
        return code

    def became_ready(self) -> bool:
        """True once, when the ready file has appeared."""
        if self._ready or not self.spec.ready or not os.path.exists(self.spec.ready):
            return False
        self._ready = True
        return True

    def new_heartbeat(self) -> dict[str, Any] | None:
        """What the process wrote since the last call, if anything."""
        if not self.spec.heartbeat:
            return None
        try:
            mtime = os.stat(self.spec.heartbeat).st_mtime_ns
            if mtime == self._heartbeat_mtime:
                return None
            self._heartbeat_mtime = mtime
            beat = json.loads(Path(self.spec.heartbeat).read_text())
        except (OSError, ValueError):
            return None
        return beat if isinstance(beat, dict) else None

    def new_lines(self) -> Iterator[tuple[str, str]]:
        """(level, line) for lines that the terminal should get, as `spec.show` says."""
        with contextlib.suppress(OSError), open(self.spec.log, "rb") as log:
            log.seek(self._offset)
            *lines, self._rest = (self._rest + log.read()).split(b"\n")
            self._offset = log.tell()
            for raw in lines:
                line = raw.decode(errors="replace").rstrip("\r")
                level = self._level(line)
                if level:
                    yield level, line

    def _level(self, line: str) -> str:
        if line.startswith(PROGRESS_MARK):
            return "progress" if self.spec.show in ("progress", "all") else ""
        if self.spec.show == "all":  # a step; the job itself ends with the step's error, on stderr
            return "" if line.startswith(ERROR_MARK) else "text"
        return "warning" if _WARNING.search(line) else ""

    def tail(self) -> str:
        """The last lines of the log."""
        with contextlib.suppress(OSError), open(self.spec.log, "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-TAIL_LINES:])
        return ""

    def kernel_out_of_memory(self) -> bool | None:
        """Whether the kernel has ended processes of this host for lack of memory since this one's start; None
        where it does not tell."""
        before, now = self._memory_kills, kernel_memory_kills()
        return None if before is None or now is None else now > before

    def measure(self) -> tuple[int, int]:
        """(private, shared) resident bytes of the process and what it started; updates the other two."""
        private = shared = 0
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.pid)
            self.suspended = process.status() == psutil.STATUS_STOPPED
            for member in [process, *process.children(recursive=True)]:
                memory = member.memory_info()
                private += memory.rss - memory.shared
                shared = max(shared, memory.shared)
        self.peak_bytes = max(self.peak_bytes, private + shared)
        return private, shared

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started


def _start(spec: ProcessSpec) -> subprocess.Popen[bytes]:
    for path, text in spec.files.items():
        _write(Path(path), text)
    for path in (spec.ready, spec.heartbeat):
        if path:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).unlink(missing_ok=True)
    Path(spec.log).parent.mkdir(parents=True, exist_ok=True)
    parent = os.getpid()

    def die_with_the_agent() -> None:
        # A belt for the case that the agent itself is killed: then nobody else ends this process.
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGKILL)

    with open(spec.log, "wb") as log, open(spec.output or os.devnull, "wb") as output:
        return subprocess.Popen(
            spec.argv,
            env={**os.environ, **spec.env},
            cwd=spec.cwd,
            stdin=subprocess.DEVNULL,
            stdout=output if spec.output else log,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_the_agent,
        )


def _write(path: Path, text: str) -> None:
    """Whole or not at all, also when several agents write the same file on a shared disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.uname().nodename}.{os.getpid()}")
    temporary.write_text(text)
    temporary.rename(path)
