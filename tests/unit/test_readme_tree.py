"""README's file tree: a line for every source file, and no line for a file that is not there."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = (".py", ".sh")
LINE = re.compile(r"( *)([^\s,]+(?:, [^\s,]+)*)(?: +\S.*)?")
"""A path, or some of one folder, then what it is."""


def tree() -> list[str]:
    """Paths as the tree has them; those of folders end with a slash."""
    block = (ROOT / "README.md").read_text().partition("\n## Files\n")[2].split("```")[1]
    return list(_paths(block))


def _paths(block: str) -> Iterator[str]:
    folders: list[str] = []
    for line in filter(str.strip, block.splitlines()):
        found = LINE.fullmatch(line)
        assert found, f"README's tree: {line!r}"
        depth = len(found[1]) // 2
        del folders[depth:]
        for name in found[2].split(", "):
            yield "".join([*folders, name])
        if found[2].endswith("/"):
            folders.append(found[2])


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git checkout")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def test_every_source_file_has_a_line_of_its_own(tracked: list[str]) -> None:
    paths = tree()
    whole = [
        folder for folder in paths if folder.endswith("/") and sum(p.startswith(folder) for p in paths) == 1
    ]
    missing = [
        name
        for name in tracked
        if name.endswith(SOURCES)
        and not name.endswith("/__init__.py")
        and name not in paths
        and not name.startswith(tuple(whole))
    ]
    assert missing == []


def test_every_line_is_of_something_that_is_there_once() -> None:
    paths = tree()
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert len(paths) == len(set(paths))
