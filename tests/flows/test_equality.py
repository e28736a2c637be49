"""The same targets give the same parameters, however trainers share them.

Two equal communities that no edge joins; one has notes and places, the other memos and spots. Notes
and memos have texts with an LM of their own, places and spots features. So each part lacks node
types, its trainer never uses one of the LMs, and on two hosts each server has empty tables.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from toy import WORDS, build_partition, plan_of, run_processes, write_lm

from partition.manifest import PartitionManifest
from pipeline.model import LMGNN
from pipeline.trainer import normal_rows

STEPS = 20


TYPES = {"note": 'text = "text"', "memo": 'text = "text"', "place": 'features = ["x", "y"]'}
TYPES |= {"spot": TYPES["place"]}
RELATIONS = {"about": "note", "recalls": "memo", "near": "place", "by": "spot"}


def write_communities(folder: Path, *, targets_in_both: bool = True) -> Path:
    folder.mkdir()
    rng, size = np.random.default_rng(3), 60
    texts = [" ".join(rng.choice(WORDS, rng.integers(2, 9))) for _ in range(size)]
    pq.write_table(pa.table({"id": np.arange(2 * size), "text": texts * 2}), folder / "paper.parquet")
    columns = {
        "id": np.arange(20),
        "text": [" ".join(rng.choice(WORDS, 5)) for _ in range(20)],
        "x": rng.normal(size=20).astype("float32"),
        "y": rng.normal(size=20).astype("float32"),
    }
    for name in TYPES:
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    pq.write_table(pa.table({"id": np.arange(30)}), folder / "author.parquet")
    first = rng.integers(0, size, (2, 400))
    pairs = np.unique(first[:, first[0] != first[1]], axis=1)
    cites = np.concatenate([pairs, pairs + size], axis=1)
    split = np.tile(np.where(np.arange(pairs.shape[1]) < 160, "train", "message"), 2)
    if not targets_in_both:
        split[pairs.shape[1] :] = "message"
    columns = {"src_id": cites[0], "dst_id": cites[1], "split": split}
    pq.write_table(pa.table(columns), folder / "cites.parquet")
    for name, first_paper in zip(RELATIONS, (0, size, 0, size), strict=True):
        ends = {"src_id": np.repeat(np.arange(20), 3), "dst_id": np.arange(size) + first_paper}
        pq.write_table(pa.table(ends), folder / f"{name}.parquet")
    writes = {
        "src_id": np.arange(2 * size) // size * 15 + np.arange(2 * size) % 15,
        "dst_id": np.arange(2 * size),
    }
    pq.write_table(pa.table(writes), folder / "writes.parquet")
    types = "".join(
        f'[nodes.{name}]\npath = "{name}.parquet"\nid = "id"\n{column}\n' for name, column in TYPES.items()
    )
    relations = "".join(
        f'[edges.{name}]\npath = "{name}.parquet"\nsource = "{source}"\ndestination = "paper"\n'
        for name, source in {**RELATIONS, "writes": "author"}.items()
    )
    (folder / "graph.toml").write_text(
        'name = "communities"\n'
        '[nodes.paper]\npath = "paper.parquet"\nid = "id"\ntext = "text"\n'
        '[nodes.author]\npath = "author.parquet"\nid = "id"\n'
        '[edges.cites]\npath = "cites.parquet"\nsource = "paper"\ndestination = "paper"\nsplit = "split"\n'
        + types
        + relations
    )
    return folder


def _communities(root: Path, *, targets_in_both: bool) -> Any:
    graph = write_communities(root / "graph", targets_in_both=targets_in_both)
    lm = write_lm(root / "lm")
    partitions = {
        hosts: build_partition(graph, lm, root / "store", hosts=hosts, trainers=2 // hosts, cluster_size=30)
        for hosts in (1, 2)
    }
    return graph, lm, partitions


@pytest.fixture(scope="module")
def communities(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return _communities(tmp_path_factory.mktemp("communities"), targets_in_both=True)


def test_each_part_lacks_a_node_type_and_both_layouts_have_the_same_ids(communities: Any) -> None:
    _, _, partitions = communities
    one, two = (PartitionManifest.load(partitions[hosts]) for hosts in (1, 2))
    assert one.offsets == two.offsets
    for name in TYPES:
        sizes = [b - a for a, b in (one.part_range(name, part) for part in range(2))]
        assert sorted(sizes) == [0, 20]


def _train(communities: Any, run: Path, *, hosts: int, trainers: int, zero: int) -> dict[str, torch.Tensor]:
    """Final weights and learnable rows after 20 steps of joint training over the two parts."""
    graph, lm, partitions = communities
    plan = plan_of(
        graph,
        lm,
        model={"lm_shared": False},
        tasks={"cites": {"relations": ["cites"], "negative_mix": {"part": 1.0}}},
        engine={"zero": zero, "clip": 0.5},
        stages=[
            {
                "name": "joint",
                "kind": "joint",
                "task": "cites",
                "batch_size": 8,
                "epochs": 1.0,
                "train_nodes": 10,
                "lm_rate": 1e-3,
                "evals": 0,
            }
        ],
    )
    run_processes(plan, partitions[hosts], run, hosts=hosts, trainers=trainers)
    [model] = (run / "stages" / "joint").glob("*-last")
    weights = load_file(model / "rank-0" / "model.safetensors")
    rows = [load_file(next(model.glob(f"rank-*/part-{p}.safetensors")))["author"] for p in range(2)]
    return {**weights, "rows": torch.cat(rows)}


@pytest.mark.parametrize("zero", [0, 1])
def test_twenty_steps_end_with_the_same_parameters_however_the_parts_are_shared(
    communities: Any, tmp_path: Path, zero: int
) -> None:
    alone = _train(communities, tmp_path / "alone", hosts=1, trainers=1, zero=zero)
    together = _train(communities, tmp_path / "together", hosts=1, trainers=2, zero=zero)
    apart = _train(communities, tmp_path / "apart", hosts=2, trainers=1, zero=zero)
    for other in (together, apart):
        assert other.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(other[name], value, rtol=0, atol=1e-5, msg=name)


@pytest.mark.drill
@pytest.mark.parametrize("kind", ["graph_lm", "mlm"])
def test_zero_2_equals_plain_averaging_where_it_is_allowed(
    toy: tuple[Path, Path, Path], tmp_path: Path, kind: str
) -> None:
    graph, lm, store = toy
    partition = build_partition(graph, lm, store, hosts=1, trainers=2)
    stage = {"name": "text", "kind": kind, "batch_size": 8, "epochs": 0.5, "lm_rate": 1e-3, "evals": 0}
    last = {"name": "warm", "kind": "gnn_warm", "task": "cites", "epochs": 0.1, "evals": 0}
    weights, task = [], {"task": "cites"} if kind == "graph_lm" else {}
    for zero in (0, 2):
        plan = plan_of(graph, lm, engine={"zero": zero}, stages=[{**stage, **task}, last])
        run = run_processes(plan, partition, tmp_path / f"zero{zero}", hosts=1, trainers=2)
        [model] = (run / "stages" / "text").glob("*-last")
        weights.append(load_file(model / "rank-0" / "model.safetensors"))
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=1e-5, msg=name)


@pytest.mark.drill
def test_a_trainer_without_targets_takes_every_step(tmp_path: Path) -> None:
    lopsided = _communities(tmp_path, targets_in_both=False)
    alone = _train(lopsided, tmp_path / "alone", hosts=1, trainers=1, zero=0)
    together = _train(lopsided, tmp_path / "together", hosts=1, trainers=2, zero=0)
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=0, atol=1e-5, msg=name)


def test_every_kind_of_parameter_has_moved(communities: Any, tmp_path: Path) -> None:
    trained = _train(communities, tmp_path / "run", hosts=1, trainers=2, zero=0)
    graph, lm, partitions = communities
    plan = plan_of(graph, lm, model={"lm_shared": False})
    torch.manual_seed(plan.seed)
    fresh = dict(LMGNN(plan, PartitionManifest.load(partitions[1])).weights())
    for prefix in (
        "text.encoders.of paper",
        "text.encoders.of note",
        "text.encoders.of memo",
        "encoders.",
        "heads.",
    ):
        moved = [
            float((trained[n].float() - w.float()).abs().max())
            for n, w in fresh.items()
            if n.startswith(prefix) and w.is_floating_point()
        ]
        assert max(moved) > 1e-4, prefix
    start = torch.cat(
        [normal_rows(plan.seed, "author", torch.arange(15) + 15 * part, plan.model.hidden) for part in (0, 1)]
    )
    assert float((trained["rows"] - start).abs().max()) > 1e-4
