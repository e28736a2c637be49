"""Layer-wise inference over two hosts, against eq. (1) on dense matrices of the whole graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from test_sampling import Oracle
from toy import build_partition, plan_of, run_processes
from transformers import AutoModel, AutoTokenizer

from pipeline.batch import Ragged
from pipeline.candidates import eval_candidates
from pipeline.config import TrainPlan
from pipeline.model import LMGNN

STAGES = [
    {"name": "graph_lm", "kind": "graph_lm", "task": "cites", "epochs": 0.3, "lm_rate": 1e-3},
    {"name": "warm", "kind": "gnn_warm", "task": "cites", "epochs": 2},
]


@pytest.fixture(scope="module", params=["mean", "sum"])
def finished(request: Any, toy: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    graph, lm, store = toy
    partition = build_partition(graph, lm, store, hosts=2, trainers=1)
    tasks = {"cites": {"relations": ["cites"], "full_ranking": True}}
    plan = plan_of(graph, lm, model={"aggregate": request.param}, stages=STAGES, tasks=tasks)
    run = run_processes(plan, partition, tmp_path_factory.mktemp("inference"), hosts=2, trainers=1)
    return plan, run, Oracle(graph, partition), graph


def dense_embeddings(plan: TrainPlan, run: Path, oracle: Oracle, graph: Path) -> dict[str, torch.Tensor]:
    """Every node's final representation by adjacency matrices, from the saved weights and tables."""
    model = LMGNN(plan, oracle.manifest)
    [best] = (run / "stages" / "warm").glob("0*")
    saved = load_file(best / "rank-0" / "model.safetensors")
    with torch.no_grad():
        for name, weight in model.weights():
            weight.copy_(saved[name])
    model.eval()
    papers = pq.read_table(graph / "paper.parquet").to_pydict()
    text_of = dict(zip(papers["id"], papers["text"], strict=True))
    tokenizer = AutoTokenizer.from_pretrained(plan.model.lm)
    lists = [
        tokenizer(text_of[name], truncation=True, max_length=plan.model.max_length)["input_ids"]
        for name in oracle.ids["paper"]
    ]
    flat = torch.tensor([t for tokens in lists for t in tokens])
    ends = torch.tensor([0, *np.cumsum([len(tokens) for tokens in lists])])
    venues = pq.read_table(graph / "venue.parquet").to_pydict()
    given = {
        "paper": model.text.of("paper").encode(Ragged(flat, ends), 256).half().float(),  # stored as float16
        "venue": torch.tensor([[venues[c][i] for c in ("size", "age")] for i in oracle.ids["venue"]]),
        "author": torch.cat(
            [load_file(next(best.glob(f"rank-*/part-{p}.safetensors")))["author"] for p in range(2)]
        ),
    }
    encoder = model.encoder("cites")
    with torch.no_grad():
        h = {t: encoder.project[f"of {t}"](rows) for t, rows in given.items()}
        for index, layer in enumerate(encoder.gnn.layers):
            new = {t: rows @ layer.own.T for t, rows in h.items()}
            for info in oracle.manifest.relations:
                adjacency = torch.zeros(len(h[info.destination]), len(h[info.source]))
                for (s, d), count in oracle.edges[info.name].items():
                    adjacency[d, s] = count
                degree = adjacency.sum(1)
                if plan.model.aggregate == "mean":
                    adjacency = adjacency / adjacency.sum(1, keepdim=True).clamp(min=1)
                new[info.destination] += adjacency @ h[info.source] @ layer.weight(info.name).T
                bias = encoder.gnn.degrees[index].weights[f"of {info.name}"]
                new[info.destination] += torch.outer(degree.log1p(), bias)
            h = {t: rows.relu() for t, rows in new.items()} if index == 0 else new
    return h


def exported(run: Path, oracle: Oracle, node_type: str) -> torch.Tensor:
    rows: dict[str, list[float]] = {}
    for file in (run / "export" / "cites" / "embeddings" / node_type).glob("*.parquet"):
        table = pq.read_table(file).to_pydict()
        rows |= dict(zip(table["id"], table["embedding"], strict=True))
    return torch.tensor([rows[str(name)] for name in oracle.ids[node_type]])


def test_exported_embeddings_equal_the_dense_formula(finished: Any) -> None:
    plan, run, oracle, graph = finished
    for node_type, expected in dense_embeddings(plan, run, oracle, graph).items():
        got = exported(run, oracle, node_type)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_the_reported_mrr_is_that_of_the_exported_embeddings(finished: Any) -> None:
    plan, run, oracle, graph = finished
    papers = exported(run, oracle, "paper")
    place = {name: i for i, name in enumerate(oracle.ids["paper"])}
    table = pq.read_table(graph / "cites.parquet").to_pydict()
    rows = zip(table["src_id"], table["dst_id"], table["split"], strict=True)
    links = [(place[s], place[d], split) for s, d, split in rows]
    edges = {(s, d) for s, d, _ in links}
    source, destination = torch.tensor([(s, d) for s, d, split in links if split == "test"]).T
    others = eval_candidates(plan.seed, "cites", "test", source, destination, 100, len(papers))
    ranks = []
    for s, d, drawn in zip(source.tolist(), destination.tolist(), others.tolist(), strict=True):
        true = papers[d] @ papers[s]
        free = [other for other in drawn if other != s and (s, other) not in edges]
        scores = papers[free] @ papers[s]
        ranks.append(1 + int((scores > true).sum()) + 0.5 * int((scores == true).sum()))
    metrics = json.loads((run / "metrics.json").read_text())["tasks"]["cites"]
    assert metrics["test"] == pytest.approx(float(np.mean(1 / np.array(ranks))), abs=1e-6)
    assert metrics["test_metrics"]["hits@10"] == pytest.approx(
        float(np.mean(np.array(ranks) <= 10)), abs=1e-9
    )


def test_full_ranking_over_two_hosts_equals_ranking_by_hand(finished: Any) -> None:
    _, run, oracle, graph = finished
    papers = exported(run, oracle, "paper")
    scores = papers @ papers.T
    place = {name: i for i, name in enumerate(oracle.ids["paper"])}
    table = pq.read_table(graph / "cites.parquet").to_pydict()
    rows = zip(table["src_id"], table["dst_id"], table["split"], strict=True)
    links = [(place[s], place[d], split) for s, d, split in rows]
    known = torch.zeros(scores.shape, dtype=torch.bool)
    for s, d, _ in links:
        known[s, d] = True
    reciprocal: dict[str, list[float]] = {"tail": [], "head": []}
    for s, d, split in links:
        if split == "test":
            for way, line, free in (("tail", scores[s], ~known[s]), ("head", scores[:, d], ~known[:, d])):
                above, equal = (line > scores[s, d]) & free, (line == scores[s, d]) & free
                reciprocal[way].append(1 / (1 + int(above.sum()) + 0.5 * int(equal.sum())))
    recalls = []
    for s in {s for s, _, split in links if split == "test"}:
        asked = {d for head, d, split in links if head == s and split == "test"}
        line = scores[s].clone()
        line[[d for head, d, split in links if head == s and split != "test"]] = -torch.inf
        recalls.append(len(asked & set(line.topk(10).indices.tolist())) / len(asked))
    found = json.loads((run / "metrics.json").read_text())["tasks"]["cites"]["test_metrics"]
    assert found["full_mrr_tail"] == pytest.approx(np.mean(reciprocal["tail"]), abs=1e-6)
    assert found["full_mrr_head"] == pytest.approx(np.mean(reciprocal["head"]), abs=1e-6)
    assert found["full_mrr"] == pytest.approx(np.mean([*reciprocal["tail"], *reciprocal["head"]]), abs=1e-6)
    assert found["recall@10"] == pytest.approx(np.mean(recalls), abs=1e-6)


def test_the_exported_lm_is_the_trained_one_and_loads_with_transformers(finished: Any) -> None:
    _, run, _, _ = finished
    folder = run / "export" / "cites" / "lm" / "shared"
    exported_lm = AutoModel.from_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder)("common1")["input_ids"][0] == 2
    [best] = (run / "stages" / "warm").glob("0*")
    saved = load_file(best / "rank-0" / "model.safetensors")
    weights = {n.removeprefix("text.encoders.shared.base."): w for n, w in saved.items()}
    for name, weight in exported_lm.state_dict().items():
        if not name.startswith("pooler") and name in weights:
            assert torch.equal(weight, weights[name]), name


def test_every_node_of_the_tables_is_exported_once(finished: Any) -> None:
    _, run, oracle, _ = finished
    for node_type, ids in oracle.ids.items():
        files = (run / "export" / "cites" / "embeddings" / node_type).glob("*.parquet")
        found = [name for file in files for name in pq.read_table(file)["id"].to_pylist()]
        assert sorted(found) == sorted(map(str, ids))


def test_a_stage_can_start_from_an_earlier_run(finished: Any, tmp_path: Path) -> None:
    plan, run, oracle, graph = finished
    partition = graph.parent / "store" / oracle.manifest.id
    stages = [{**STAGES[1], "start": f"{run}:graph_lm"}]
    tasks = {"cites": {"relations": ["cites"], "full_ranking": True}}
    model = {"aggregate": plan.model.aggregate}
    again = plan_of(graph, Path(plan.model.lm), model=model, stages=stages, tasks=tasks)
    second = run_processes(again, partition, tmp_path / "second", hosts=2, trainers=1)
    expected = json.loads((run / "metrics.json").read_text())["tasks"]["cites"]["test_metrics"]
    got = json.loads((second / "metrics.json").read_text())["tasks"]["cites"]["test_metrics"]
    assert got == expected


def test_a_stage_of_another_width_starts_from_what_fits(finished: Any, tmp_path: Path) -> None:
    plan, run, oracle, graph = finished
    stages = [{**STAGES[1], "start": f"{run}:graph_lm", "epochs": 0.1}]
    model = {"aggregate": plan.model.aggregate, "hidden": 2 * plan.model.hidden}
    wider = plan_of(graph, Path(plan.model.lm), model=model, stages=stages)
    partition = graph.parent / "store" / oracle.manifest.id
    second = run_processes(wider, partition, tmp_path / "wider", hosts=2, trainers=1)
    lm = [load_file(next((r / "export" / "cites" / "lm").rglob("model.safetensors"))) for r in (run, second)]
    assert lm[0].keys() == lm[1].keys()
    assert all(torch.equal(lm[0][name], lm[1][name]) for name in lm[0])  # graph_lm's, which gnn_warm keeps
