"""Partitions written piece by piece: the same as in one piece, in little memory, and nothing torn."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import dgl
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from partition_graphs import communities, graphs, write_graph
from partition_parts import Parts, contents
from test_partition_roundtrip import built, random_graphs

from partition import arrays, dgl_files, room, token_lists, writer
from partition.errors import DiskFullError, StoreError, UsageError
from partition.writer import _write_table

JOB = Path(__file__).with_name("writing_job.py")
EDGES, NODES, WIDTH = 4_000_000, 100_000, 4


def in_tiny_pieces(patch: pytest.MonkeyPatch) -> None:
    """Three rows, three edges (hubs have more), two texts at a time; three records a range."""
    patch.setattr(arrays, "PIECE", 3)
    patch.setattr(token_lists, "TEXTS", 2)
    patch.setattr(room, "_LEAST_RECORDS", 3)
    patch.setattr(room, "_MOST_RECORDS", 3)


def test_tiny_pieces_make_the_files_that_one_piece_makes(
    tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_graph(tmp_path / "graph", communities(groups=4))
    one = Parts({}, tmp_path, 2, 2, tokenizer=tokenizer, cluster_size=10)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/graph").symlink_to(tmp_path / "graph")
    in_tiny_pieces(monkeypatch)
    tiny = Parts({}, tmp_path / "tiny", 2, 2, tokenizer=tokenizer, cluster_size=10)
    assert one.manifest.files.keys() == tiny.manifest.files.keys()
    for name in one.manifest.files:
        assert contents(one.path / name) == contents(tiny.path / name), name
    assert one.manifest.stats["cut"] == tiny.manifest.stats["cut"]
    assert one.manifest.stats["balance"] == tiny.manifest.stats["balance"]


@random_graphs
@given(tables=graphs())
def test_every_value_is_found_once_and_right_where_it_was_written_in_tiny_pieces(
    tables: dict[str, Any], tokenizer: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        in_tiny_pieces(patch)
        built(tables, tokenizer, (2, 2))


def test_parquet_files_are_those_of_pyarrow_itself(tmp_path: Path) -> None:
    count = (1 << 20) + 5
    table = pa.table({"id": np.arange(count), "split": np.zeros(count, dtype=np.int8)})
    pq.write_table(table, tmp_path / "whole.parquet")
    _write_table(
        tmp_path / "pieces.parquet",
        0,
        count,
        lambda mine: {
            name: table[name].slice(mine.start, mine.stop - mine.start) for name in ("id", "split")
        },
    )
    assert (tmp_path / "pieces.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_memory_does_not_grow_with_edges_and_their_features(tmp_path: Path) -> None:
    """Sorted edges take 32 bytes each way and features 16: 0.4 GB of which next to nothing is in memory."""
    done = subprocess.run(
        [sys.executable, "-P", str(JOB), str(tmp_path), str(EDGES), str(NODES), str(WIDTH)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "DGLBACKEND": "pytorch", "OMP_NUM_THREADS": "1"},
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["edges"] == 2 * EDGES
    assert told["peak_bytes"] < 80e6
    assert told["graph_bytes"] < 45 * EDGES  # both directions, and halos


def test_a_host_too_large_for_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_LEAST_MEMORY", 0)
    monkeypatch.setattr("partition.build.memory_bytes", lambda text: 1000)
    monkeypatch.setattr("partition.build.look_at_room", lambda *_, **options: None)  # it would refuse before
    write_graph(tmp_path / "graph", communities(groups=4))
    with pytest.raises(UsageError, match=r"host 0 of 2 gets [0-9]+ edges: .* --hosts"):
        Parts({}, tmp_path, 2, 1)
    assert [path.suffix for path in (tmp_path / "store").iterdir()] == [".lock"]


@pytest.mark.parametrize("save", ["save_graphs", "save_tensors"])
@pytest.mark.parametrize(("free", "expected"), [(1 << 40, StoreError), (0, DiskFullError)])
def test_a_file_that_dgl_leaves_torn_without_a_word_is_noticed(
    save: str, free: int, expected: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = getattr(dgl_files, save)

    def torn(path: str, *content: Any, **options: Any) -> None:
        whole(path, *content, **options)
        if os.path.getsize(path) > 6000:
            os.truncate(path, os.path.getsize(path) - 1)

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(dgl_files, save, torn)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    write_graph(tmp_path / "graph", communities(groups=16))
    with pytest.raises(expected):
        Parts({}, tmp_path, 1, 1)
    assert [path.suffix for path in (tmp_path / "store").iterdir()] == [".lock"]


def test_dgl_samples_from_what_is_stored(tmp_path: Path) -> None:
    """Without edge numbers in the CSC, as its servers do: all in-edges of a node, with the right ids."""
    write_graph(tmp_path / "graph", communities(groups=4))
    parts = Parts(communities(groups=4), tmp_path, 2, 1)
    for block, *_ in parts.loaded:
        own = torch.nonzero(block.ndata["inner_node"]).flatten()
        sources, destinations, edges = block.in_edges(own, form="all")
        found = dgl.sampling.sample_neighbors(block, own, -1)
        assert torch.equal(found.edata[dgl.EID].sort().values, edges.sort().values)
        ends = dict(
            zip(edges.tolist(), zip(sources.tolist(), destinations.tolist(), strict=True), strict=True)
        )
        drawn = zip(*(ends_.tolist() for ends_ in found.edges()), strict=True)
        assert all(
            ends[edge] == pair for edge, pair in zip(found.edata[dgl.EID].tolist(), drawn, strict=True)
        )
