"""Full ranking against dense formulas over the whole score matrix."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor
from torch.multiprocessing import start_processes

from partition.manifest import SPLITS, NodeTypeInfo, PartitionManifest, RelationInfo
from pipeline.config import TaskPlan
from pipeline.fullrank import full_ranking
from pipeline.ids import IdSpace
from pipeline.tasks import LinkHead

HOSTS, TRAINERS, WIDTH = 2, 2, 4
ENDS = {"writes": ("author", "paper"), "cites": ("paper", "paper")}
COUNTS = {"author": 9000, "paper": 8500}
"""More than one block of either type."""
Pairs = dict[str, np.ndarray]
"""Relation -> int64 E x 2."""


@dataclass
class Rows:
    values: Tensor

    def read(self, ids: Tensor) -> Tensor:
        return self.values[ids]


class Stored:
    """A partition's target files on disk and its message edges in memory."""

    def __init__(self, folder: Path, counts: dict[str, int], messages: Pairs, held_out: dict[str, Pairs]):
        self.folder, self._messages = folder, messages
        parts = HOSTS * TRAINERS
        self.manifest = PartitionManifest(
            "id", "toy", HOSTS, TRAINERS,
            node_types=tuple(NodeTypeInfo(name, count) for name, count in counts.items()),
            relations=tuple(
                RelationInfo(
                    name, *ends, len(messages[name]),
                    targets={split: len(pairs[name]) for split, pairs in held_out.items()},
                )
                for name, ends in ENDS.items()
            ),
            clusters=(1,) * parts,
            offsets={t: tuple(p * count // parts for p in range(parts + 1)) for t, count in counts.items()},
            options={}, inputs={}, stats={}, files={},
        )  # fmt: skip
        self.ids = IdSpace(self.manifest)
        for name, (_, destination) in ENDS.items():
            split = np.concatenate([np.full(len(p[name]), SPLITS.index(s)) for s, p in held_out.items()])
            self._write(name, destination, np.concatenate([p[name] for p in held_out.values()]), split)

    def _write(self, relation: str, destination: str, pairs: np.ndarray, split: np.ndarray) -> None:
        for host in range(HOSTS):
            first, last = self.manifest.host_range(destination, host)
            here = (pairs[:, 1] >= first) & (pairs[:, 1] < last)
            columns = {"source": pairs[here, 0], "destination": pairs[here, 1], "split": split[here]}
            path = self.folder / f"part{host}" / "targets" / "edges" / f"{relation}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({**columns, "label": np.full(here.sum(), -1, np.int32)}), path)

    def among(self, relation: str, seeds: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
        seed_of = {int(d): i for i, d in enumerate(seeds)}
        source_of = {int(s): i for i, s in enumerate(sources)}
        assert len(source_of) == len(sources)
        assert torch.equal(sources, sources.sort().values)
        pairs = [(d, s) for s, d in self._messages[relation].tolist() if d in seed_of and s in source_of]
        found = torch.tensor([[seed_of[d], source_of[s]] for d, s in pairs], dtype=torch.int64).reshape(-1, 2)
        return found[:, 0], found[:, 1]


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    """A process group of one."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def random_case(folder: Path, *, seed: int = 0, counts: dict[str, int] = COUNTS) -> dict[str, Any]:
    """Scores of few distinct values, crowded sources, repeated and self edges, edges in two splits."""
    rng = np.random.default_rng(seed)

    def edges(relation: str, count: int) -> np.ndarray:
        source, destination = (counts[t] for t in ENDS[relation])
        # Half of the edges lie among few nodes, so that ends have many known and many test edges.
        crowd = rng.random(count) < 0.5
        sources = np.where(crowd, rng.integers(0, source, 30)[rng.integers(0, 30, count)], 0)
        sources = np.where(crowd, sources, rng.integers(0, source, count))
        made = np.stack([sources, rng.integers(0, destination, count)], 1)
        made[:20, 1] = made[0, 1]
        if source == destination:
            made[20:40, 1] = made[20:40, 0]
        return np.concatenate([made, made[:10]])

    held_out = {s: {r: edges(r, n) for r in ENDS} for s, n in (("valid", 200), ("test", 350))}
    messages = {r: edges(r, 3000) for r in ENDS}
    for name in ENDS:
        messages[name][:15] = held_out["test"][name][:15]
        messages[name][15:40] = np.stack([held_out["test"][name][15:40, 0], messages[name][15:40, 1]], 1)
        held_out["valid"][name][:15, 1] = held_out["test"][name][40:55, 1]
    return {
        "graph": Stored(folder, counts, messages, held_out),
        "rows": {t: rng.integers(-3, 4, (count, WIDTH)).astype(np.float32) for t, count in counts.items()},
        "messages": messages,
        **held_out,
    }


def head(scorer: str = "dot") -> LinkHead:
    made = LinkHead(TaskPlan(relations=tuple(ENDS), scorer=scorer), tuple(ENDS), WIDTH)
    with torch.no_grad():
        for number, diagonal in enumerate(made.diagonals.values()):
            diagonal.copy_(torch.tensor([1.0, 2.0, -1.0, 0.5]).roll(number))
    return made


def ranked(
    case: dict[str, Any], scorer: str = "dot", parts: Any = range(4), gather: Any = None
) -> dict[str, float]:
    return full_ranking(
        case["graph"],
        head(scorer),
        {t: Rows(torch.from_numpy(rows)) for t, rows in case["rows"].items()},  # type: ignore[arg-type]
        tuple(ENDS),
        parts=parts,
        device=torch.device("cpu"),
        gather=gather or (lambda value: [value]),
        alive=lambda: None,
    )


def exact_scores(case: dict[str, Any], relation: str, scorer: str) -> np.ndarray:
    """Sources x destinations; small numbers, so that no sum rounds."""
    heads, tails = (case["rows"][t].astype(np.float64) for t in ENDS[relation])
    if scorer == "distmult":
        heads = heads * np.roll([1.0, 2.0, -1.0, 0.5], list(ENDS).index(relation))
    with np.errstate(invalid="ignore"):
        return heads @ tails.T


def dense(case: dict[str, Any], scorer: str = "dot", recall: tuple[int, ...] = (10, 100)) -> dict[str, float]:
    """The documented figures from whole rows and columns of the score matrix."""
    ranks: dict[str, list[float]] = {"tail": [], "head": []}
    found: dict[int, list[float]] = {k: [] for k in recall}
    for relation in ENDS:
        scores = exact_scores(case, relation, scorer)
        known = np.zeros(scores.shape, dtype=bool)
        for pairs in (case[split][relation] for split in ("messages", "valid", "test")):
            known[pairs[:, 0], pairs[:, 1]] = True
        for s, d in case["test"][relation]:
            for side, line, others in (
                ("tail", scores[s], ~known[s]),
                ("head", scores[:, d], ~known[:, d]),
            ):
                true = scores[s, d]
                worse, equal = (line < true)[others].sum(), (line == true)[others].sum()
                ranks[side].append(1 + (others.sum() - worse - equal) + 0.5 * equal)
        for s in np.unique(case["test"][relation][:, 0]):
            true = set(case["test"][relation][case["test"][relation][:, 0] == s, 1].tolist())
            candidates = np.array([n for n in range(scores.shape[1]) if n in true or not known[s, n]])
            line = np.nan_to_num(scores[s], nan=np.inf)
            best = candidates[np.lexsort((candidates, -line[candidates]))]
            for k in recall:
                hit = [n for n in best[:k].tolist() if n in true and not math.isnan(scores[s, n])]
                found[k].append(len(hit) / len(true))
    tail, by_head = (np.array(ranks[side]) for side in ("tail", "head"))
    both = np.concatenate([tail, by_head])
    return {
        "full_mrr": (1 / both).mean(),
        **{f"full_hits@{k}": (both <= k).mean() for k in (1, 3, 10)},
        "full_mrr_tail": (1 / tail).mean(),
        "full_mrr_head": (1 / by_head).mean(),
        **{f"recall@{k}": np.mean(values) for k, values in found.items()},
    }


@pytest.mark.parametrize("scorer", ["dot", "distmult"])
def test_figures_equal_those_of_the_whole_score_matrix(tmp_path: Path, scorer: str) -> None:
    case = random_case(tmp_path)
    assert ranked(case, scorer) == pytest.approx(dense(case, scorer), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_figures_equal_those_of_a_small_dense_graph(tmp_path: Path, seed: int) -> None:
    case = random_case(tmp_path, seed=seed, counts={"author": 60, "paper": 120})
    assert ranked(case) == pytest.approx(dense(case), rel=1e-12)


def test_nan_counts_against_the_true_edge(tmp_path: Path) -> None:
    case = random_case(tmp_path, counts={"author": 60, "paper": 120})
    for rows in case["rows"].values():
        rows[::7] = np.nan
    assert ranked(case) == pytest.approx(dense(case), rel=1e-12)
    for rows in case["rows"].values():
        rows[:] = np.nan
    got = ranked(case)
    assert got == pytest.approx(dense(case), rel=1e-12)
    assert got["recall@100"] == 0


def chain(folder: Path, test: list[list[int]], counts: dict[str, int]) -> dict[str, Any]:
    """Test edges of `writes` and nothing else."""
    nothing = {name: np.zeros((0, 2), dtype=np.int64) for name in ENDS}
    held_out = {"valid": nothing, "test": {**nothing, "writes": np.array(test).reshape(-1, 2)}}
    return {"graph": Stored(folder, counts, nothing, held_out)}


def test_nodes_with_equal_rows_tie_whatever_block_they_are_in(tmp_path: Path) -> None:
    kinds, each = 5, COUNTS["paper"] // 5
    tails = COUNTS["paper"] - 1 - np.arange(50)
    case = chain(tmp_path, [[i, int(t)] for i, t in enumerate(tails)], COUNTS)
    generator = np.random.default_rng(1)
    author = generator.normal(size=(COUNTS["author"], WIDTH)).astype(np.float32)
    kind = generator.normal(size=(kinds, WIDTH)).astype(np.float32)
    case["rows"] = {"author": author, "paper": np.tile(kind, (each, 1))}
    scores = author[:50].astype(np.float64) @ kind.T
    better = (scores > scores[np.arange(50), tails % kinds][:, None]).sum(1)
    expected = 1 + better * each + 0.5 * (each - 1)
    assert ranked(case)["full_mrr_tail"] == pytest.approx((1 / expected).mean(), rel=1e-12)


def test_equal_scores_fill_the_best_k_from_the_lowest_id(tmp_path: Path) -> None:
    counts = {"author": 8, "paper": 40}
    case = chain(tmp_path, [[0, 9], [0, 10], [5, 9]], counts)
    case["rows"] = {t: np.zeros((n, WIDTH), dtype=np.float32) for t, n in counts.items()}
    got = ranked(case)
    assert got["recall@10"] == pytest.approx((0.5 + 1) / 2)
    assert got["recall@100"] == 1


def test_without_test_edges_the_figures_are_nan(tmp_path: Path) -> None:
    counts = {"author": 8, "paper": 40}
    case = chain(tmp_path, [], counts)
    case["rows"] = {t: np.zeros((n, WIDTH), dtype=np.float32) for t, n in counts.items()}
    assert all(math.isnan(value) for value in ranked(case).values())


def one_of_two(rank: int, folder: Path, port: int) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )

    def gather(value: Any) -> list[Any]:
        values = [None, None]
        torch.distributed.all_gather_object(values, value)
        return values

    case = random_case(folder / str(rank), counts={"author": 60, "paper": 120})
    found = ranked(case, parts=(0, 3) if rank == 0 else (1, 2), gather=gather)
    (folder / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def test_two_trainers_agree_with_one(tmp_path: Path) -> None:
    expected = ranked(random_case(tmp_path / "alone", counts={"author": 60, "paper": 120}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start_processes(one_of_two, (tmp_path, port), nprocs=2, start_method="spawn")
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert found[0] == found[1] == pytest.approx(expected, rel=1e-12)
