"""A pull that is killed or finds no room: nothing half is published, and the same call goes on."""

from __future__ import annotations

import copy
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from partition_graphs import SMALL, write_graph
from partition_remotes import files_of, objects_at, quiet
from s3_server import FaultyS3

from partition import remote
from partition.build import BuildOptions, build
from partition.errors import DiskFullError
from partition.manifest import PartitionManifest
from partition.objects import Objects
from partition.pull import pull
from partition.store import verify, verify_part

ROOT = Path(__file__).parents[3]


@pytest.fixture
def store(s3: FaultyS3, bucket: str) -> Objects:
    return objects_at(f"s3://{bucket}/kept/here")


PULLER = """
import sys
from pathlib import Path
from partition.objects import Objects
from partition.pull import pull
pull(Objects(sys.argv[1], say=print), sys.argv[2], Path(sys.argv[3]), say=print)
"""


def test_a_killed_pull_goes_on_where_it_was(
    s3: FaultyS3, store: Objects, two_parts: Path, tmp_path: Path
) -> None:
    remote.push(store, two_parts, say=quiet)
    s3.fails("stall", r"GET .*part1/graph\.dgl", times=1)
    command = [sys.executable, "-c", PULLER, store.url, two_parts.name, str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **s3.environment()})
    draft = tmp_path / f"{two_parts.name}.pulling"
    deadline = time.monotonic() + 60
    wanted = len(files_of(two_parts)) - len(["manifest.json", "manifest.sha256", "part1/graph.dgl"])
    try:
        while len([n for n in files_of(draft) if not n.endswith(".half")]) < wanted:
            assert process.poll() is None
            assert time.monotonic() < deadline
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / two_parts.name).exists()
    s3.requests.clear()
    assert verify(pull(store, two_parts.name, tmp_path, say=quiet))
    assert len([request for request in s3.requests if "/part" in request]) == 1
    assert not draft.exists()


def test_a_pull_onto_a_disk_without_room_says_so_before_it_begins(
    s3: FaultyS3, store: Objects, two_parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.push(store, two_parts, say=quiet)
    free = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free._replace(free=1000))
    s3.requests.clear()
    with pytest.raises(DiskFullError, match="are to come"):
        pull(store, two_parts.name, tmp_path, say=quiet)
    assert not any("/part0/" in request for request in s3.requests)
    assert not (tmp_path / two_parts.name).exists()


def test_a_disk_that_fills_up_while_pulling_leaves_no_partition(
    s3: FaultyS3, store: Objects, two_parts: Path, tmp_path: Path
) -> None:
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("this user may not make namespaces (unshare)")
    remote.push(store, two_parts, say=quiet)
    room = tmp_path / "room"
    room.mkdir()
    # The look at the disk's room is passed by, as if somebody else filled it in the meantime.
    blind = "import partition.pull; partition.pull._look_at_room = lambda *_: None\n"
    run = "import sys; from partition.__main__ import main; sys.exit(main(sys.argv[1:]))"
    python = [sys.executable, "-c", blind + run]
    script = 'mount -t tmpfs -o size=12k none "$0" && "$@"; code=$?; find "$0" -type f; exit $code'
    arguments = ["pull", two_parts.name, "--store", store.url, "--cache", str(room)]
    done = subprocess.run(
        [*unshare, "sh", "-c", script, str(room), *python, *arguments],
        cwd=ROOT,
        env={**os.environ, **s3.environment()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 14, done.stderr
    assert "no space left" in done.stderr.splitlines()[-1]
    left = [line for line in done.stdout.splitlines() if line.startswith(str(room))]
    assert not any(f"/{two_parts.name}/" in line or line.endswith(".half") for line in left)


def test_rows_left_out_come_with_the_whole_and_not_with_a_host(
    s3: FaultyS3, bucket: str, tmp_path: Path
) -> None:
    tables = copy.deepcopy(SMALL)
    tables["writes"]["columns"]["dst_id"][0] = "nobody"
    graph = str(write_graph(tmp_path / "graph", tables))
    options = BuildOptions(hosts=2, bad_rows="quarantine", bad_rows_cap=0.5)
    whole = build(graph, options, store=f"s3://{bucket}/kept", cache=str(tmp_path / "built"), say=quiet)
    store = objects_at(f"s3://{bucket}/kept")
    left_out = "quarantine/edges.writes.parquet"
    assert (whole / left_out).is_file()
    folder = pull(store, whole.name, tmp_path / "cache", say=quiet, host=1)
    assert verify_part(folder, 1, checksums=True)
    assert not (folder / "quarantine").exists()
    assert PartitionManifest.load(folder).stats["quarantine"]["edges.writes"]["left_out"] == 1
    assert pull(store, whole.name, tmp_path / "cache", say=quiet) == folder
    assert verify(folder) == verify(whole)
    assert (folder / left_out).read_bytes() == (whole / left_out).read_bytes()
