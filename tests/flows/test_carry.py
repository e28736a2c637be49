"""A run on a graph that has grown starts from a run on the graph before: what is still true stays."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file
from toy import build_partition, plan_of, run_processes, write_graph, write_lm

from launch.outcome import JobFailed
from partition.manifest import PartitionManifest
from partition.reader import read_ids
from pipeline.config import TrainPlan
from pipeline.events import read_events

WARM = {"name": "warm", "kind": "gnn_warm", "task": "cites", "epochs": 4}
NEW, GONE = 8, 3
"""Authors; a tenth of 80, and a few."""


def grow(graph: Path) -> None:
    """Other authors, and a paper with another text."""
    authors = pq.read_table(graph / "author.parquet")
    new = pa.table({n: pa.array([100 + i if n == "id" else authors[n][i].as_py() for i in range(NEW)])
                    for n in authors.column_names}).cast(authors.schema)  # fmt: skip
    pq.write_table(pa.concat_tables([new, authors.slice(GONE)]), graph / "author.parquet")
    writes = pq.read_table(graph / "writes.parquet").to_pydict()
    kept = [i for i, author in enumerate(writes["src_id"]) if author >= GONE]
    ends = {name: [values[i] for i in kept] for name, values in writes.items()}
    ends["src_id"] += [100 + i for i in range(NEW)]
    ends["dst_id"] += [f"paper-{i}" for i in range(NEW)]
    pq.write_table(pa.table(ends), graph / "writes.parquet")
    papers = pq.read_table(graph / "paper.parquet").to_pydict()
    papers["text"][7] = "common0 topic1word3"
    pq.write_table(pa.table(papers), graph / "paper.parquet")


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """[(partition, run)] of two nights; the second trains nothing further."""
    root = tmp_path_factory.mktemp("nights")
    graph, lm = write_graph(root / "graph"), write_lm(root / "lm")
    first = build_partition(graph, lm, root / "store", hosts=2, trainers=1)
    run = run_processes(plan_of(graph, lm, stages=[WARM]), first, root / "first", hosts=2, trainers=1)
    grow(graph)
    second = build_partition(graph, lm, root / "store", hosts=2, trainers=1)
    still = {"epochs": 0.1, "rate": 0.0, "lm_rate": 0.0, "embedding_rate": 0.0, "start": f"{run}:warm"}
    plan = plan_of(graph, lm, stages=[{**WARM, **still}])
    return [(first, run), (second, run_processes(plan, second, root / "second", hosts=2, trainers=1))]


@pytest.fixture(scope="module")
def rebuilt(nights: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The second night's partition, lost with its whole store and built once more, now out of no other."""
    old = nights[1][0]
    graph, lm = old.parents[1] / "graph", old.parents[1] / "lm"
    store = tmp_path_factory.mktemp("rebuilt") / "store"
    again = build_partition(graph, lm, store, hosts=2, trainers=1)
    assert again.name == old.name
    assert read_ids(again, 0, "author") != read_ids(old, 0, "author")
    return again


def rows_of(partition: Path, run: Path) -> dict[int, np.ndarray]:
    """The learnable row of each author by the table's id, in a stage's best model."""
    [best] = (run / "stages" / "warm").glob("0*")
    found = {}
    for host in range(2):
        [file] = best.glob(f"rank-*/part-{host}.safetensors")
        ids = read_ids(partition, host, "author").to_pylist()
        found.update(zip(ids, load_file(file)["author"], strict=True))
    return found


def test_each_author_has_the_row_that_it_had_and_the_log_counts_them(nights: Any) -> None:
    assert PartitionManifest.load(nights[1][0]).reuse.how == "extended"
    before, after = (rows_of(*night) for night in nights)
    both = before.keys() & after.keys()
    assert len(both) == 80 - GONE
    assert len(after) == len(both) + NEW
    for author in both:
        np.testing.assert_array_equal(before[author], after[author])
    [told] = [e for e in read_events(nights[1][1]) if e["event"] == "taken_over"]
    assert told["rows"] == {"author": [80 - GONE, NEW]}
    logs = "".join(path.read_text() for path in (nights[1][1] / "logs").rglob("*trainer*.log"))
    assert f"learnable rows of author: {80 - GONE} carried over" in logs


def test_the_second_night_begins_near_where_the_first_ended(nights: Any) -> None:
    scores = [
        [e["value"] for e in read_events(run) if e["event"] == "eval" and e["metric"] == "mrr"]
        for _, run in nights
    ]
    start, best = scores[0][0], max(scores[0])
    assert best > start
    assert scores[1][0] > (start + best) / 2, scores


def test_rows_find_their_authors_where_the_partition_was_built_again_with_other_ids(
    nights: Any, rebuilt: Path, tmp_path: Path
) -> None:
    before, run = nights[1]
    plan = TrainPlan.from_json((run / "plan.json").read_text())
    stage = dataclasses.replace(plan.stages[0], start=f"{run}:warm")
    third = run_processes(
        dataclasses.replace(plan, stages=(stage,)), rebuilt, tmp_path / "third", hosts=2, trainers=1
    )
    then, now = rows_of(before, run), rows_of(rebuilt, third)
    assert then.keys() == now.keys()
    for author in then:
        np.testing.assert_array_equal(then[author], now[author])


def test_a_run_is_not_taken_up_on_a_partition_that_was_built_again_with_other_ids(
    nights: Any, rebuilt: Path, tmp_path: Path
) -> None:
    shutil.copytree(nights[1][1], tmp_path / "run")
    plan = TrainPlan.from_json((tmp_path / "run" / "plan.json").read_text())
    with pytest.raises(JobFailed) as caught:
        run_processes(plan, rebuilt, tmp_path / "run", hosts=2, trainers=1, resume="auto")
    assert caught.value.exit_code == 2
    said = caught.value.first_failed.tail
    assert "has been built again since, and its nodes have other ids now" in said
