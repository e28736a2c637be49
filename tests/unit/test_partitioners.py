"""The benchmark of partition methods: its graphs, and a run of it on a small one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.cut_figures import counted_figures, told_figures
from benchmarks.stream_graph import read_edges, write_graph
from benchmarks.whole_tables import part_of_nodes, write_tables
from partition import csr
from partition.build import BuildOptions, build

ROOT = Path(__file__).parents[2]


def pairs(folder: Path) -> np.ndarray:
    return np.concatenate([np.stack(ends, axis=1) for ends in read_edges(folder / "edges.bin")])


@pytest.mark.parametrize("kind", ["community", "rmat"])
def test_edges_are_distinct_without_loops_and_the_same_each_time(kind: str, tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        nodes, edges = write_graph(folder, kind, 20_000, seed=3, repeats=False)
        found.append(pairs(folder))
        assert found[-1].shape == (edges, 2)
        assert found[-1].max() < nodes
    assert (found[0] == found[1]).all()
    assert (found[0][:, 0] < found[0][:, 1]).all()
    assert len(np.unique(found[0], axis=0)) == len(found[0])


def test_with_repeats_all_edges_are_left_in(tmp_path: Path) -> None:
    _, edges = write_graph(tmp_path, "community", 20_000, seed=3, repeats=True)
    found = pairs(tmp_path)
    assert len(found) == 20_000
    distinct = np.sort(found[found[:, 0] != found[:, 1]], axis=1)
    assert len(np.unique(distinct, axis=0)) == edges


def rows_of(command: list[str]) -> list[dict[str, Any]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return list(json.loads(run.stdout.splitlines()[-1])["rows"])


def test_whole_jobs_of_ours_and_of_dgl_stand_beside_each_other(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/partition.py", "--edges", "20000", "--json"]
    rows = rows_of([*command, "--methods", "auto,dgl", "--scratch", str(tmp_path)])
    ran = [(row["job"], row["method"], row["trainers"]) for row in rows]
    assert ran == [("whole", "auto", 1), ("whole", "auto", 2), ("whole", "dgl", 1)]
    for row in rows:
        assert 0 < row["cut_percent"] < 100
        assert row["disk_peak_bytes_per_edge"] >= row["disk_bytes_per_edge"] > 8
        assert row["server_peak_bytes_per_edge"] >= row["server_bytes_per_edge"] > 0
    assert not list(tmp_path.iterdir())


def test_with_tables_only_all_edges_are_partitioned_as_drawn(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/partition.py", "--edges", "20000", "--json", "--methods", "metis"]
    (row,) = rows_of([*command, "--trainers", "2", "--scratch", str(tmp_path), "--tables-only"])
    assert (row["trainers"], row["chosen"][0]) == (2, "metis")
    assert 0 < row["cut_percent"] < row["trainer_cut_percent"] < 50
    assert row["server_peak_bytes_per_edge"] >= row["server_bytes_per_edge"] > 0
    assert not list(tmp_path.iterdir())


def test_the_manifest_tells_the_cut_that_is_counted(tmp_path: Path) -> None:
    nodes, _ = write_graph(tmp_path, "community", 20_000, seed=3, repeats=False)
    write_tables(tmp_path, nodes, read_edges(tmp_path / "edges.bin"))
    options = BuildOptions(hosts=3, trainers=2, reverse=False)
    made = build(str(tmp_path / "tables"), options, store=str(tmp_path / "store"), say=lambda line: None)
    graph = csr.build(tmp_path / "graph", nodes, lambda: read_edges(tmp_path / "edges.bin"))
    told, counted = told_figures(made), counted_figures(graph, part_of_nodes(made), 3, 2)
    # Edges load the host that they lead to in one, both ends in the other.
    uncompared = {"edge_balance", "trainer_edge_balance"}
    assert told.keys() == counted.keys()
    assert {k: v for k, v in told.items() if k not in uncompared} == {
        k: v for k, v in counted.items() if k not in uncompared
    }


def test_a_run_tells_cut_balance_and_memory_of_each_method(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/partition.py", "--edges", "20000", "--json"]
    command += ["--methods", "auto,random,semi-external+even", "--scratch", str(tmp_path), "--cut-only"]
    rows = rows_of(command)
    ran = [(row["job"], row["method"], row["trainers"]) for row in rows]
    methods = ("auto", "random", "semi-external+even")
    cuts = [("cut", method, trainers) for method in methods for trainers in (1, 2)]
    assert ran == [("build", "", 1), *cuts]
    cut = {row["method"]: row["cut_percent"] for row in rows}
    assert cut["auto"] < cut["random"] / 2
    assert rows[1]["chosen"] == ["metis"]
    assert all(row["peak_total_bytes"] > 0 for row in rows)
    assert rows[-1]["trainer_node_balance"] <= 1.05
    assert not list(tmp_path.iterdir())
