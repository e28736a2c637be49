"""What a whole build takes in memory that cannot be dropped, beside the --memory that it was given."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.stream_graph import draw_edges
from benchmarks.watched import watched
from benchmarks.whole_tables import write_tables

JOB = Path(__file__).parents[3] / "benchmarks" / "partition_job.py"
HOSTS, TRAINERS = 8, 1


@pytest.mark.parametrize(("edges", "memory"), [(500_000, 100_000_000), (2_000_000, 120_000_000)])
def test_a_build_keeps_to_its_memory(
    edges: int, memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """METIS alone would take 100 and 400 MB."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    nodes, drawn = draw_edges("community", edges, seed=0)
    write_tables(tmp_path, nodes, drawn)
    numbers = map(str, (nodes, HOSTS, TRAINERS, memory))
    done = watched(
        [sys.executable, "-P", str(JOB), "whole", "auto", str(tmp_path), *numbers], tmp_path / "out"
    )
    assert done.peak_anonymous < memory
    assert done.told["chosen"][0] == "semi-external"
