"""Known labels over two hosts x two trainers: counts against the tables, a batch's own left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from test_sampling import Oracle
from toy import build_partition, plan_of, run_processes

CLIENT = Path(__file__).parent / "clients" / "known_labels_client.py"
TASKS = {
    "topic": {"kind": "node_classification", "node_type": "paper", "known_labels": True},
    "kind": {"kind": "edge_classification", "relations": ["cites"], "known_labels": True},
}


@pytest.fixture(scope="module")
def counted(toy: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    graph, lm, store = toy
    partition = build_partition(graph, lm, store, hosts=2, trainers=2)
    stages = [{"name": f"{n}_warm", "kind": "gnn_warm", "task": n} for n in TASKS]
    plan = plan_of(graph, lm, tasks=TASKS, stages=stages)
    run = run_processes(plan, partition, tmp_path_factory.mktemp("known"), hosts=2, trainers=2, client=CLIENT)
    return graph, Oracle(graph, partition), [torch.load(run / f"out-{rank}.pt") for rank in range(4)]


def topic_counts(graph: Path, oracle: Oracle) -> torch.Tensor:
    """papers x 1 x topics: the labels of training papers alone."""
    info = oracle.manifest.node_type("paper")
    table = pq.read_table(graph / "paper.parquet").to_pydict()
    of = {
        i: (label, split) for i, label, split in zip(table["id"], table["label"], table["split"], strict=True)
    }
    counts = torch.zeros(len(of), 1, len(info.classes))
    for row, name in enumerate(oracle.ids["paper"]):
        label, split = of[name]
        counts[row, 0, info.classes.index(label)] = float(split == "train")
    return counts


def kind_counts(graph: Path, oracle: Oracle) -> torch.Tensor:
    """papers x 2 x kinds: training citations out of a paper, and into it."""
    info = oracle.manifest.relation("cites")
    place = {name: row for row, name in enumerate(oracle.ids["paper"])}
    table = pq.read_table(graph / "cites.parquet").to_pydict()
    counts = torch.zeros(len(place), 2, len(info.classes))
    for s, d, split, kind in zip(*(table[c] for c in ("src_id", "dst_id", "split", "kind")), strict=True):
        if split == "train":
            counts[place[s], 0, info.classes.index(kind)] += 1
            counts[place[d], 1, info.classes.index(kind)] += 1
    return counts


@pytest.mark.parametrize("task", TASKS)
def test_all_trainers_see_the_counts_of_the_tables(counted: Any, task: str) -> None:
    graph, oracle, out = counted
    expected = topic_counts(graph, oracle) if task == "topic" else kind_counts(graph, oracle)
    assert float(expected.sum()) > 50
    for rank in out:
        assert torch.equal(rank[task]["all"]["paper"], expected)


@pytest.mark.parametrize("task", TASKS)
def test_a_batch_s_own_targets_are_left_out(counted: Any, task: str) -> None:
    """Each trainer's batch held all training targets of its part: together they take all away."""
    _, _, out = counted
    everything = out[0][task]["all"]["paper"]
    taken = sum(everything - rank[task]["others"]["paper"] for rank in out)
    assert torch.equal(taken, everything)
    assert all(bool((rank[task]["others"]["paper"] >= 0).all()) for rank in out)
