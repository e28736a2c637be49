"""Writes a partition of mapped tables as a process and tells its peak of memory: FOLDER EDGES NODES WIDTH."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[3]))

from partition import arrays
from partition.assign import number
from partition.manifest import PartitionManifest
from partition.schema import EdgeSchema, NodeSchema
from partition.stored import StoredGraph, node_infos, stored_graph
from partition.tables import EdgeTable, GraphTables, NodeTable
from partition.writer import write_parts

HOSTS = 8
PIECE = 1 << 16


def main() -> None:
    folder, (edges, nodes, width) = Path(sys.argv[1]), map(int, sys.argv[2:])
    arrays.PIECE = PIECE
    tables = _tables(folder, edges, nodes, width)
    part = np.arange(nodes) * HOSTS // nodes
    numbering = number(["n"], [nodes], part, np.zeros(nodes, dtype=np.int64), hosts=HOSTS, trainers=1)
    before, peak, done = _anonymous(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], _anonymous())

    threading.Thread(target=watch, daemon=True).start()
    graph = stored_graph(
        folder / "stored", tables, numbering, {}, keep_eval_edges=False, reverse=True, memory=PIECE << 9
    )
    (folder / "out").mkdir()
    write_parts(folder / "out", _manifest(graph), graph, memory=1 << 30)
    done.set()
    print(
        json.dumps(
            {
                "edges": sum(r.info.count for r in graph.relations),
                "peak_bytes": peak[0] - before,
                "graph_bytes": sum(path.stat().st_size for path in folder.glob("out/*/graph.dgl")),
            }
        )
    )


def _anonymous() -> int:
    """Bytes that cannot be dropped."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


def _tables(folder: Path, edges: int, nodes: int, width: int) -> GraphTables:
    """Most edges stay in their host; a tenth goes to one node."""
    rng = np.random.default_rng(0)
    ends = [arrays.ArrayFile(folder / name, np.int32) for name in ("source", "destination")]
    features = arrays.ArrayFile(folder / "features", np.float32)
    for mine in arrays.pieces(0, edges):
        count = mine.stop - mine.start
        source = rng.integers(0, nodes, count)
        destination = np.clip(source + rng.integers(-50, 50, count), 0, nodes - 1)
        destination[rng.random(count) < 0.1] = 7
        for file, values in zip(ends, (source, destination), strict=True):
            file.append(values)
        features.append(np.repeat(np.arange(mine.start, mine.stop), width))
    none = (None, None, (), None, None)
    node = NodeTable(NodeSchema("n", ("n.parquet",), "id"), pa.array(np.arange(nodes)), *none)
    schema = EdgeSchema("e", ("e.parquet",), "n", "n")
    mapped = features.mapped().reshape(edges, width)
    edge = EdgeTable(schema, ends[0].mapped(), ends[1].mapped(), None, None, (), mapped)
    return GraphTables({"n": node}, {"e": edge})


def _manifest(graph: StoredGraph) -> PartitionManifest:
    return PartitionManifest(
        id="x",
        graph_name="gx",
        hosts=HOSTS,
        trainers=1,
        node_types=node_infos(graph),
        relations=tuple(relation.info for relation in graph.relations),
        clusters=graph.numbering.clusters,
        offsets={name: tuple(values.tolist()) for name, values in graph.numbering.offsets.items()},
        options={"method": "random"},
        inputs={},
        stats={},
        files={},
    )


if __name__ == "__main__":
    main()
