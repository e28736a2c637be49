"""What the tests of stores elsewhere share: two parts, short limits, a look at what is there."""

from __future__ import annotations

from pathlib import Path

from partition.objects import Objects, Patience

SHORT = Patience(connect_s=3, read_s=3, requests=2, attempts=2, wait_s=0.05, operation_s=15)
"""Long enough for requests to a busy machine; a stalled one ends after (3 s + the client's pause) x 2 x 2."""
SHORT_S = 40.0
"""For an operation that fails, with those before it and a busy machine."""


def quiet(line: str) -> None:
    """Nobody listens."""


def objects_at(url: str, patience: Patience | None = None) -> Objects:
    return Objects(url, say=quiet, patience=patience)


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
