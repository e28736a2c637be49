"""What reading large tables takes in memory that cannot be dropped, measured in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MEASURE = """
import json, re, sys, threading, time
from pathlib import Path
from partition.room import IN_MEMORY, Room
from partition.schema import parse_schema
from partition.storage import InputFolder
from partition.tables import load_tables, table_files

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10

def watch():
    while not done.wait(0.01):
        peaks.append(anonymous())

folder = Path(sys.argv[1])
schema = parse_schema((folder / "graph.toml").read_text(), where="graph.toml")
room = Room(folder / "room", int(sys.argv[2])) if sys.argv[2] != "0" else IN_MEMORY
done, before, peaks = threading.Event(), anonymous(), [0]
watcher = threading.Thread(target=watch)
watcher.start()
graph = load_tables(schema, table_files(schema, InputFolder(str(folder))), room=room)
done.set()
watcher.join()
print(json.dumps([max(peaks) - before, int(graph.edges["link"].source.sum())]))
"""


GRAPH = """
[nodes.node]
path = "node.parquet"
[edges.link]
path = "link.parquet"
source = "node"
destination = "node"
"""
NODES = 50_000


def taken(folder: Path, memory: int) -> tuple[int, int]:
    """(bytes at the peak, sum of the edges' sources) of reading the tables in `folder`; 0: without files."""
    (folder / "graph.toml").write_text(GRAPH)
    command = [sys.executable, "-P", "-c", MEASURE, str(folder), str(memory)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    peak, total = json.loads(done.stdout)
    return peak, total


def test_large_tables_take_a_bounded_memory(tmp_path: Path) -> None:
    """Three million edges between string ids: a third of a gigabyte of arrays, while they are read."""
    rng = np.random.default_rng(0)
    ids = pa.array([f"node-{i}" for i in range(NODES)])
    ends = {name: ids.take(pa.array(rng.integers(0, NODES, 3_000_000))) for name in ("src_id", "dst_id")}
    pq.write_table(pa.table({"id": ids}), tmp_path / "node.parquet")
    pq.write_table(pa.table(ends), tmp_path / "link.parquet")
    in_memory, in_files = taken(tmp_path, 0), taken(tmp_path, 64 << 20)
    assert in_memory[1] == in_files[1]
    assert in_files[0] < 128 << 20 < in_memory[0]


def test_a_large_file_is_not_held(tmp_path: Path) -> None:
    """Ten million edges in 160 MB, in row groups of a tenth."""
    rng = np.random.default_rng(0)
    ends = {name: rng.integers(0, NODES, 10_000_000) for name in ("src_id", "dst_id")}
    pq.write_table(pa.table({"id": np.arange(NODES)}), tmp_path / "node.parquet")
    plain = {"use_dictionary": False, "compression": "none", "row_group_size": 1_000_000}
    pq.write_table(pa.table(ends), tmp_path / "link.parquet", **plain)
    peak, total = taken(tmp_path, 64 << 20)
    assert total == int(ends["src_id"].sum())
    assert peak < 128 << 20 < (tmp_path / "link.parquet").stat().st_size
