"""How much memory there is to cut in: what the user says, the machine's, the control group's.

Owns sizes as people write them and where limits are found. Standard library and psutil only.
"""

from __future__ import annotations

import re
from pathlib import Path

import psutil

from partition.errors import UsageError

_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_USABLE = 0.8
"""The rest is for tables, imports and the system."""
_CGROUP = Path("/sys/fs/cgroup")


def memory_bytes(text: str) -> int:
    """Bytes of "4GiB", "500 MB", "2e9"; of "": most of what this process may have. UsageError otherwise."""
    if not text:
        return int(_USABLE * machine_bytes())
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([a-z]*)\s*", text.lower())
    try:
        size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    except (KeyError, ValueError):
        size = 0
    if size < 1:
        raise UsageError(f"memory = {text!r}: expected a size like 4GiB or 500MB")
    return size


def machine_bytes() -> int:
    """Bytes that this process may have: the machine's, or its control group's if that is less."""
    return min(int(psutil.virtual_memory().total), *_cgroup_limits())


def size_words(size: float) -> str:
    """Bytes as people read them."""
    for unit, one in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= one:
            return f"{size / one:.1f} {unit}"
    return f"{size / 2**10:.1f} KiB"


def _cgroup_limits() -> list[int]:
    """Of this process's control group and those above it; at least one, which may be endless."""
    found = [2**63]
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        root, name = (
            (_CGROUP, "memory.max") if not controllers else (_CGROUP / "memory", "memory.limit_in_bytes")
        )
        if controllers and "memory" not in controllers.split(","):
            continue
        folder = root / path.strip("/")
        for place in (folder, *folder.parents):
            if (file := place / name).is_file() and (text := file.read_text().strip()) != "max":
                found.append(int(text))
            if place == root:
                break
    return found
