"""Sampling over two hosts x two trainers: real servers, against the whole graph's tables."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from test_carry import grow
from toy import build_partition, plan_of, run_processes, write_graph, write_lm
from transformers import AutoTokenizer

from partition.manifest import PartitionManifest
from pipeline.batch import Batch

CLIENT = Path(__file__).parent / "clients" / "sampling_client.py"
Edge = tuple[Any, Any]


class Oracle:
    """The stored graph as the tables tell it, in the partition's ids."""

    def __init__(self, graph: Path, partition: Path) -> None:
        self.manifest = PartitionManifest.load(partition)
        self.ids: dict[str, list[Any]] = {}
        for info in self.manifest.node_types:
            files = [
                partition / f"part{h}" / "ids" / f"{info.name}.parquet" for h in range(self.manifest.hosts)
            ]
            self.ids[info.name] = [i for f in files for i in pq.read_table(f)["id"].to_pylist()]
        place = {t: {name: i for i, name in enumerate(ids)} for t, ids in self.ids.items()}
        self.edges: dict[str, Counter[Edge]] = {}
        self.by_destination: dict[str, dict[int, set[int]]] = {}
        for info in self.manifest.relations:
            table = pq.read_table(graph / f"{info.name.removeprefix('rev_')}.parquet").to_pydict()
            split = table.get("split", ["message"] * len(table["src_id"]))
            ends = [
                (s, d)
                for s, d, part in zip(table["src_id"], table["dst_id"], split, strict=True)
                if part in ("train", "message")
            ]
            if info.is_reverse:
                ends = [(d, s) for s, d in ends]
            self.edges[info.name] = Counter(
                (place[info.source][s], place[info.destination][d]) for s, d in ends
            )
            grouped: dict[int, set[int]] = defaultdict(set)
            for s, d in self.edges[info.name]:
                grouped[d].add(s)
            self.by_destination[info.name] = grouped


@pytest.fixture(scope="module")
def sampled(toy: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    graph, lm, store = toy
    partition = build_partition(graph, lm, store, hosts=2, trainers=2)
    plan = plan_of(graph, lm)
    run = run_processes(
        plan, partition, tmp_path_factory.mktemp("sampling"), hosts=2, trainers=2, client=CLIENT
    )
    out = [torch.load(run / f"out-{rank}.pt", weights_only=False) for rank in range(4)]
    return Oracle(graph, partition), out, run


def check_full_fanout(oracle: Oracle, out: list[Any]) -> None:
    for rank in out:
        reached = {t: set(ids.tolist()) for t, ids in rank["seeds"].items()}
        for layer in reversed(rank["full"]):
            expected: dict[str, Counter[Edge]] = {}
            grown = {t: set(ids) for t, ids in reached.items()}
            for info in oracle.manifest.relations:
                edges = Counter(
                    {
                        (s, d): oracle.edges[info.name][s, d]
                        for d in reached[info.destination]
                        for s in oracle.by_destination[info.name].get(d, ())
                    }
                )
                if edges:
                    expected[info.name] = edges
                    grown[info.source] |= {s for s, _ in edges}
            got = {name: Counter(tuple(e) for e in edges.tolist()) for name, edges in layer.items()}
            assert got == expected
            reached = grown
        assert {t: set(ids.tolist()) for t, ids in rank["nodes"].items()} == reached


def check_tokens(oracle: Oracle, out: list[Any], graph: Path, lm: Path) -> None:
    table = pq.read_table(graph / "paper.parquet").to_pydict()
    texts = dict(zip(table["id"], table["text"], strict=True))
    tokenizer = AutoTokenizer.from_pretrained(lm)
    expected = [
        tokenizer(texts[name], truncation=True, max_length=12)["input_ids"]
        for name in reversed(oracle.ids["paper"])
    ]
    for rank in out:
        assert rank["tokens"] == expected


def check_features(oracle: Oracle, out: list[Any], graph: Path) -> None:
    table = pq.read_table(graph / "venue.parquet").to_pydict()
    row = {name: i for i, name in enumerate(table["id"])}
    expected = torch.tensor([[table[c][row[i]] for c in ("size", "age")] for i in oracle.ids["venue"]])
    for rank in out:
        assert torch.equal(rank["features"], expected)


def test_full_fanout_equals_the_whole_graph(sampled: Any) -> None:
    check_full_fanout(*sampled[:2])


def test_destinations_of_a_layer_are_the_first_of_its_sources(sampled: Any) -> None:
    _, out, _ = sampled
    for rank in out:
        (first_sources, first_destinations), (second_sources, second_destinations) = rank["sizes"]
        assert first_destinations == second_sources
        assert second_destinations == {t: len(ids) for t, ids in rank["seeds"].items()}
        assert first_sources == {t: len(ids) for t, ids in rank["nodes"].items()}
        for t, ids in rank["seeds"].items():
            assert torch.equal(rank["nodes"][t][: len(ids)], ids)


def test_neighbours_rows_and_tokens_come_from_the_other_host(sampled: Any) -> None:
    _, out, _ = sampled
    for rank in out:
        for name in ("remote_edges", "remote_rows", "remote_texts", "remote_tokens"):
            assert rank["costs"][name] > 0, name


def test_tokens_are_those_of_the_texts(sampled: Any, toy: tuple[Path, Path, Path]) -> None:
    check_tokens(*sampled[:2], *toy[:2])


def test_features_are_those_of_the_table(sampled: Any, toy: tuple[Path, Path, Path]) -> None:
    check_features(*sampled[:2], toy[0])


def test_a_partition_that_was_regrouped_extended_and_kept_gives_the_whole_graph(tmp_path: Path) -> None:
    graph, lm, store = write_graph(tmp_path / "graph"), write_lm(tmp_path / "lm"), tmp_path / "store"

    def built(trainers: int) -> Path:
        return build_partition(graph, lm, store, hosts=2, trainers=trainers, cluster_size=10)

    made = [built(2), built(1)]
    grow(graph)
    made.append(built(1))
    venues = pq.read_table(graph / "venue.parquet").to_pydict()
    venues["size"] = venues["size"][::-1]
    pq.write_table(pa.table(venues, schema=pq.read_schema(graph / "venue.parquet")), graph / "venue.parquet")
    made.append(built(1))
    hows = [PartitionManifest.load(partition).reuse.how for partition in made]
    assert hows == ["", "regrouped", "extended", "kept"]
    run = run_processes(plan_of(graph, lm), made[-1], tmp_path / "run", hosts=2, trainers=1, client=CLIENT)
    out = [torch.load(run / f"out-{rank}.pt", weights_only=False) for rank in range(2)]
    oracle = Oracle(graph, made[-1])
    check_full_fanout(oracle, out)
    check_tokens(oracle, out, graph, lm)
    check_features(oracle, out, graph)


@pytest.mark.parametrize("sampler", ["drawn", "labor"])
def test_all_trainers_draw_the_same_neighbours_for_a_key(sampled: Any, sampler: str) -> None:
    _, out, _ = sampled
    for rank in out[1:]:
        assert rank[sampler].keys() == out[0][sampler].keys()
        for name, parts in rank[sampler].items():
            for mine, first in zip(parts, out[0][sampler][name], strict=True):
                assert torch.equal(mine, first)


def test_no_target_edge_nor_its_reverse_is_in_any_block(sampled: Any) -> None:
    _, out, _ = sampled
    for rank in out:
        targets = {tuple(pair) for pair in rank["links"].tolist()}
        turned = {(d, s) for s, d in targets}
        count = 0
        for layer in rank["batch_edges"]:
            for name, forbidden in (("cites", targets | turned), ("rev_cites", targets | turned)):
                edges = {tuple(e) for e in layer[name].tolist()} if name in layer else set()
                count += len(edges & forbidden)
            assert layer["writes"].numel() > 0
        assert len(targets) > 20
        assert count == 0


def test_negatives_are_masked_exactly_where_they_are_true_edges(sampled: Any) -> None:
    oracle, out, run = sampled
    masked = 0
    for rank in range(len(out)):
        batch = Batch.load(run / f"batch-{rank}.safetensors")
        papers, links = batch.nodes["paper"], batch.links["cites"]
        known = oracle.edges["cites"]
        heads, tails = papers[links.head].tolist(), papers[links.tail].tolist()
        negative_tails = papers[links.negative_tail].tolist()
        negative_heads = papers[links.negative_head].tolist()
        assert batch.key == 11  # seeds dropout and the choice of texts with gradients
        assert negative_heads == negative_tails  # 3n end points
        assert len(negative_tails) == len(heads)
        for b, (head, tail) in enumerate(zip(heads, tails, strict=True)):
            for k, other in enumerate(negative_tails):
                assert bool(links.tail_mask[b, k]) == ((head, other) not in known and other != tail)
                assert bool(links.head_mask[b, k]) == ((other, tail) not in known and other != head)
                masked += not links.tail_mask[b, k]
    assert masked > 0


def test_a_full_sample_does_not_depend_on_how_the_graph_is_cut(
    sampled: Any, toy: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    graph, lm, store = toy
    oracle, out, _ = sampled
    partition = build_partition(graph, lm, store, hosts=1, trainers=1)
    run = run_processes(plan_of(graph, lm), partition, tmp_path / "run", hosts=1, trainers=1, client=CLIENT)
    alone, ids = torch.load(run / "out-0.pt", weights_only=False), Oracle(graph, partition).ids
    assert alone["costs"].get("remote_edges", 0) == 0

    def by_name(result: Any, names: dict[str, list[Any]]) -> dict[str, list[Any]]:
        tokens = zip(reversed(names["paper"]), result["tokens"], strict=True)
        return {name: row for name, row in tokens}

    assert by_name(alone, ids) == by_name(out[0], oracle.ids)
