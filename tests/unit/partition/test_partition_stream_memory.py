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


def test_large_tables_take_a_bounded_memory(tmp_path: Path) -> None:
    """Three million edges between string ids: a third of a gigabyte of arrays, while they are read."""
    nodes, edges = 50_000, 3_000_000
    rng = np.random.default_rng(0)
    ids = pa.array([f"node-{i}" for i in range(nodes)])
    ends = {name: ids.take(pa.array(rng.integers(0, nodes, edges))) for name in ("src_id", "dst_id")}
    pq.write_table(pa.table({"id": ids}), tmp_path / "node.parquet")
    pq.write_table(pa.table(ends), tmp_path / "link.parquet")
    (tmp_path / "graph.toml").write_text(
        '[nodes.node]\npath = "node.parquet"\n'
        '[edges.link]\npath = "link.parquet"\nsource = "node"\ndestination = "node"\n'
    )
    found = {}
    for memory in (0, 64 << 20):
        command = [sys.executable, "-P", "-c", MEASURE, str(tmp_path), str(memory)]
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        found[memory] = json.loads(done.stdout)
    assert found[0][1] == found[64 << 20][1]
    assert found[64 << 20][0] < 128 << 20 < found[0][0]
