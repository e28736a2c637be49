"""What cannot be built here, told by its forecast: too little memory, too little disk, and what would help.

Owns the words, and how far a forecast is trusted. Never looks into a table.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from partition.earlier import earlier_partitions
from partition.errors import DataError, DiskFullError, UsageError
from partition.forecast import Forecast, forecast
from partition.memory import machine_bytes, size_words
from partition.request import Request

DISK_FACTOR = 1.5
"""The partition's size on disk, and the most that a build takes there, are within this of what is told, from
thousands of nodes on and as far as the tables' samples are like the rest,"""
MEMORY_FACTOR = 2.5
"""and the most that it takes of memory is within this (tests/unit/partition/test_partition_forecast.py)."""
_HINTS = {
    "ingest": "leave relations out by --relations, or take a machine with more memory",
    "cut": "--method auto takes the one that fits",
    "writing": "raise --hosts: parts are written one by one",
}


def too_little(told: Forecast, memory: int, *, factor: float = 1.0) -> str:
    """What is said where a build needs more than `memory` bytes; empty where it does not.

    `factor`: how many times too large the need may be told.
    """
    phase, need = max(told.memory.items(), key=lambda item: item[1])
    words = f"{phase} needs about {size_words(need)} of memory, more than {size_words(memory)}"
    return words if need / factor > memory else ""


def memory_refusals(
    request: Request, told: Forecast, machine: int, *, factor: float = 1.0
) -> Iterator[UsageError]:
    """What takes more than the `machine` has, or else more than was asked for, each with what helps."""
    over = {phase: size for phase, size in told.memory.items() if size / factor > machine}
    for phase, size in over.items():
        hint = _HINTS[phase]
        if phase == "cut" and request.options["method"] in ("auto", "semi-external"):
            hint = "lower --memory"
            if size - max((level.bytes for level in told.levels), default=0) > machine:
                hint = _HINTS["ingest"]
        words = f"{phase} needs about {size_words(size)} of memory"
        yield UsageError(f"{words}, the machine has {size_words(machine)}", hint=hint)
    if not over and (words := too_little(told, request.memory, factor=factor)):
        yield UsageError(words, hint=f"raise --memory as far as the machine's {size_words(machine)} go")


def look_at_room(request: Request, root: Path, say: Callable[[str], None], *, reuse: bool) -> None:
    """UsageError or DiskFullError where memory, or the disk of `root`, cannot hold a build however far the
    forecast is off.

    In between, too little memory is warned of. What is wrong with a table is left to the build, which says it
    of every one.
    """
    try:
        told = forecast(request, earlier_partitions(root) if reuse else (), try_texts=False)
    except DataError:
        return
    for refusal in memory_refusals(request, told, machine_bytes(), factor=MEMORY_FACTOR):
        raise refusal
    if words := too_little(told, request.memory):
        say(f"warning: {words}")
    if (least := told.peak_disk / DISK_FACTOR) > (free := free_bytes(root)):
        raise no_room(root, f"at least {size_words(least)} are", free)


def no_room(root: Path, need: str, free: int) -> DiskFullError:
    return DiskFullError(
        f"{root}: {need} needed, {size_words(free)} of the disk are free",
        hint="free some space, or choose another --store (of a store at a URL: another --cache)",
    )


def free_bytes(root: Path) -> int:
    """Of the disk that a folder is on, or will be."""
    there = root.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free
