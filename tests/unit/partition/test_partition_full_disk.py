"""A disk that is full while an earlier partition is made use of: an error, not a reason to cut afresh."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from partition_graphs import communities, write_graph
from partition_remotes import files_of, quiet

from partition import lookup
from partition.build import BuildOptions, build
from partition.storage import sha256_of

ROOT = Path(__file__).parents[3]
STEPS = {
    "looking up where nodes were": ("partition.reuse", "places"),
    "taking tokens": ("partition.retoken", "read_tokens"),
    "copying files that cannot be linked": ("partition.build", "link_unchanged"),
}
"""When the disk is filled up: before a function of a module."""
JOB = """
import errno, importlib, os, sys
from partition import lookup
from partition.__main__ import main

store, module, name, *command = sys.argv[1:]
step = getattr(importlib.import_module(module), name)

def filled(*given):
    with open(store + "/others", "wb", buffering=0) as file:  # somebody else's
        try:
            while True:
                file.write(bytes(1024))
        except OSError:
            pass
    return step(*given)

def link(source, target):
    raise OSError(errno.EXDEV, "another file system")

setattr(sys.modules[module], name, filled)
os.link = link
lookup._has_room = lambda count, room: room.folder is None  # ids are looked up in files, as large tables' are
sys.exit(main(command))
"""
SCRIPT = """
mount -t tmpfs -o size=8m none "$0" && cp -r "$1"/. "$0" && shift && "$@"
code=$?
rm "$0/others" && cp -r "$0" "$0.after"
exit $code
"""


@pytest.mark.parametrize("step", STEPS)
def test_a_disk_that_fills_up_while_reusing_ends_the_build(step: str, tmp_path: Path, tokenizer: str) -> None:
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("this user may not make namespaces (unshare)")
    tables = communities()
    graph = write_graph(tmp_path / "graph", tables)
    options = BuildOptions(hosts=2, tokenizer=tokenizer)
    parent = build(str(graph), options, store=str(tmp_path / "before"), say=quiet)
    tables["paper"]["columns"]["label"][:3] = [2, None, 0]
    write_graph(graph, tables)
    store = tmp_path / "small"
    store.mkdir()
    build_again = ["build", str(graph), "--store", str(store), "--hosts", "2", "--tokenizer", tokenizer]
    job = [sys.executable, "-c", JOB, str(store), *STEPS[step], *build_again]
    done = subprocess.run(
        [*unshare, "sh", "-c", SCRIPT, str(store), str(parent.parent), *job],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 14, done.stderr
    assert "no space left" in done.stderr.splitlines()[-1]
    for words in ("\ncutting ", "is not reused", "gives no tokens"):
        assert words not in done.stderr
    left = Path(f"{store}.after")
    assert {path.name for path in left.iterdir() if path.suffix != ".lock"} == {parent.name}
    kept = {name: sha256_of(parent / name) for name in files_of(parent)}
    assert {name: sha256_of(left / parent.name / name) for name in files_of(left / parent.name)} == kept


@pytest.mark.parametrize("words", lookup._FULL_WORDS)
def test_what_duckdb_says_of_a_full_disk_is_understood(words: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no space left"), lookup._reported(tmp_path, RuntimeError):
        raise RuntimeError(f"cannot go on: {words}")
