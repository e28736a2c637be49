"""A small graph with every kind of node, a tiny language model, and jobs over them for the tests.

Papers have text, authors nothing (learnable rows), venues features; papers cite papers of their
topic, so that there is something to learn from text and from neighbours.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from launch.backends import LocalBackend
from launch.cluster import local_cluster, new_run_id
from launch.console import Console
from launch.plan import Paths, make_plan
from launch.supervisor import Supervisor
from launch.watch import Interrupts
from partition.build import BuildOptions, build
from partition.errors import PreflightError
from pipeline.config import TrainPlan

REPO = Path(__file__).resolve().parents[1]
TOPICS = 6
WORDS = [f"{name}{i}" for name in ("common", *(f"topic{t}word" for t in range(TOPICS))) for i in range(12)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_graph(folder: Path, *, papers: int = 240, seed: int = 0) -> Path:
    """graph.toml and its tables; string ids for papers, integers elsewhere."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, TOPICS, papers)
    texts = []
    for t in topic:
        common = rng.choice(WORDS[:12], rng.integers(1, 6))
        own = rng.choice(WORDS[12 * (t + 1) : 12 * (t + 2)], rng.integers(1, 6))
        texts.append(" ".join([*common, *own]))
    names = np.array([f"paper-{i}" for i in range(papers)])
    authors, venues = papers // 3, 12
    table = pa.table
    words = ["train", "valid", "test", None]
    paper_split = rng.choice(words, papers, p=[0.5, 0.2, 0.2, 0.1])
    paper = {"id": names, "text": texts, "label": [f"topic {t}" for t in topic], "split": paper_split}
    pq.write_table(table(paper), folder / "paper.parquet")
    field, author_split = np.arange(authors) % TOPICS, rng.choice(words[:3], authors, p=[0.5, 0.2, 0.3])
    author = {"id": np.arange(authors), "field": field, "split": author_split}
    pq.write_table(table(author), folder / "author.parquet")
    features = rng.normal(size=(2, venues)).astype("float32")
    venue = table({"id": np.arange(venues), "size": features[0], "age": features[1]})
    pq.write_table(venue, folder / "venue.parquet")
    by_topic = [np.flatnonzero(topic == t) for t in range(TOPICS)]
    pairs = set()
    for source in np.repeat(np.arange(papers), 6):
        near = rng.random() < 0.9
        target = rng.choice(by_topic[topic[source]]) if near else rng.integers(0, papers)
        if source != target:
            pairs.add((int(source), int(target)))
    cites = np.array(sorted(pairs))
    split = rng.choice(["train", "valid", "test", "message"], len(cites), p=[0.7, 0.1, 0.1, 0.1])
    kind = np.where(topic[cites[:, 0]] == topic[cites[:, 1]], "within", "across")
    ends = {"src_id": names[cites[:, 0]], "dst_id": names[cites[:, 1]]}
    pq.write_table(table({**ends, "split": split, "kind": kind}), folder / "cites.parquet")
    # An author writes on one topic, mostly.
    stranger = rng.integers(0, authors, papers * 2)
    own = stranger // TOPICS * TOPICS + np.repeat(topic, 2)
    writer = np.where((rng.random(papers * 2) < 0.8) & (own < authors), own, stranger)
    pq.write_table(table({"src_id": writer, "dst_id": np.repeat(names, 2)}), folder / "writes.parquet")
    pq.write_table(table({"src_id": names, "dst_id": topic * 2}), folder / "appears_in.parquet")
    (folder / "graph.toml").write_text(
        'name = "toy"\n'
        '[nodes.paper]\npath = "paper.parquet"\nid = "id"\ntext = "text"\nlabel = "label"\n'
        'split = "split"\n'
        '[nodes.author]\npath = "author.parquet"\nid = "id"\nlabel = "field"\nsplit = "split"\n'
        '[nodes.venue]\npath = "venue.parquet"\nid = "id"\nfeatures = ["size", "age"]\n'
        '[edges.cites]\npath = "cites.parquet"\nsource = "paper"\ndestination = "paper"\nsplit = "split"\n'
        'label = "kind"\n'
        '[edges.writes]\npath = "writes.parquet"\nsource = "author"\ndestination = "paper"\n'
        '[edges.appears_in]\npath = "appears_in.parquet"\nsource = "paper"\ndestination = "venue"\n'
    )
    return folder


def write_lm(folder: Path, *, width: int = 32, layers: int = 2, dropout: float = 0.0) -> Path:
    """A random BERT of a few thousand weights with a tokenizer for the toy's words."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * width,
        max_position_embeddings=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )

    torch.manual_seed(0)
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


def build_partition(
    graph: Path, lm: Path, store: Path, *, hosts: int, trainers: int, cluster_size: int = 20
) -> Path:
    options = BuildOptions(
        hosts=hosts, trainers=trainers, cluster_size=cluster_size, tokenizer=str(lm), max_length=12
    )
    return build(str(graph), options, store=str(store), say=lambda _: None)


def plan_of(graph: Path, lm: Path, **changes: object) -> TrainPlan:
    """A plan over the toy graph; `changes` are whole parts: stages=[…], engine={…}, model={…}."""
    raw: dict[str, object] = {
        "name": "toy",
        "graph": {"path": str(graph)},
        "tasks": {"cites": {"relations": ["cites"]}},
        "stages": [{"name": "joint", "kind": "joint", "task": "cites"}],
    }
    model = {"lm": str(lm), "max_length": 12, "hidden": 16, "fanout": [3, 3], "dropout": 0.0}
    raw["model"] = {**model, **changes.pop("model", {})}  # type: ignore[dict-item]

    return TrainPlan.from_json(json.dumps({**raw, **changes}))


def run_processes(
    plan: TrainPlan,
    partition: Path,
    run: Path,
    *,
    hosts: int,
    trainers: int,
    client: Path | None = None,
    env: Mapping[str, str] | None = None,
    resume: str = "never",
    servers: int = 1,
) -> Path:
    """Graph servers and trainers under the project's own supervisor; returns the run folder.

    `client` replaces the trainers' program by a script that speaks the same contract.
    """
    (run / "logs").mkdir(parents=True, exist_ok=True)
    (run / "plan.json").write_text(plan.to_json())
    cluster = local_cluster(nodes=hosts, trainers_per_host=trainers, servers_per_host=servers)
    run_id, paths = new_run_id(), Paths(str(REPO), str(REPO), str(run), str(partition))
    backend = LocalBackend()
    try:
        try:
            links = backend.start(cluster, run_id=run_id, paths=paths, logs=run / "logs")
        except PreflightError as error:
            if os.geteuid() == 0:
                raise
            pytest.skip(f"several hosts on one machine: {error}")
        supervisor = Supervisor(
            links, cluster, console=Console(sys.stderr), interrupts=Interrupts(), hang_timeout_s=300
        )
        try:
            ports = supervisor.hold_ports(servers)
            launch = make_plan(plan, cluster, ports, paths, run_id=run_id, resume=resume)
            specs: Sequence = [
                dataclasses.replace(s, env={**s.env, "OMP_NUM_THREADS": "1", **(env or {})})
                for s in launch.processes
            ]
            if client is not None:
                specs = [
                    dataclasses.replace(s, argv=(s.argv[0], "-P", str(client))) if s.role == "trainer" else s
                    for s in specs
                ]
            supervisor.run_job(
                [s for s in specs if s.role == "server"], [s for s in specs if s.role == "trainer"]
            )
        finally:
            supervisor.stop()
    finally:
        backend.close()
    return run


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """(graph folder, LM folder, store)."""
    root = tmp_path_factory.mktemp("toy")
    return write_graph(root / "graph"), write_lm(root / "lm"), root / "store"
