"""What the end of a process means, in words for a person: signals, memory, codes. Never decides anything."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from launch.outcome import PASSED_ON, class_of

_ADVICE = "fewer trainers per host or smaller batches (engine and stages in the plan)"
_READINGS = {
    signal.SIGBUS: "bus error, most likely because /dev/shm is full: `df -h /dev/shm`",
    signal.SIGSEGV: "crashed; the stack is at the end of its log",
    signal.SIGABRT: "aborted; the reason is at the end of its log",
}
_OUT_OF_MEMORY = re.compile(
    r"MemoryError\b|[Cc]an(?:'t|not) allocate memory|std::bad_alloc|out of memory|OutOfMemoryError"
)
"""What Python, the kernel's errno, C++ and torch write; it may be set off by a limit without any signal."""


def reading_of(
    returncode: int, *, tail: str = "", peak_bytes: int = 0, kernel_out_of_memory: bool | None = None
) -> str:
    """What a return code (subprocess's) means.

    `tail` is the end of the log, `peak_bytes` the most that the process held, `kernel_out_of_memory`
    whether the kernel has ended processes of that host for lack of memory meanwhile, None where it
    does not tell.
    """
    held = f"; it held {peak_bytes / 2**30:.1f} GiB at most" if peak_bytes else ""
    if returncode < 0:
        number = -returncode
        name = signal.Signals(number).name if number in signal.valid_signals() else f"signal {number}"
        reading = _READINGS.get(number)  # type: ignore[call-overload]
        if number == signal.SIGKILL and kernel_out_of_memory:
            reading = f"killed by the kernel because memory ran out{held}: {_ADVICE}"
        elif number == signal.SIGKILL and kernel_out_of_memory is False:
            reading = f"killed by someone or by a batch system; the kernel knows of no lack of memory{held}"
        elif number == signal.SIGKILL:
            reading = f"killed, most likely because memory ran out{held}: {_ADVICE}, or someone killed it"
        elif _OUT_OF_MEMORY.search(tail):
            reading = f"memory ran out{held}: {_ADVICE}"
        return f"{name}: {reading}" if reading else name
    if returncode in PASSED_ON:
        return class_of(returncode)
    if _OUT_OF_MEMORY.search(tail):
        return f"exit code {returncode}: memory ran out{held}: {_ADVICE}"
    return f"exit code {returncode}"


def kernel_memory_kills() -> int | None:
    """How many processes this host's kernel has ended for lack of memory, also by a control group's limit;
    None where it does not tell."""
    try:
        counters = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
        return int(counters["oom_kill"])
    except (OSError, KeyError):
        return None
