"""A hand-made batch per stage and per kind of classes over three node types; no DGL, no partition."""

from __future__ import annotations

from dataclasses import replace

import torch

from partition.manifest import NodeTypeInfo, PartitionManifest, RelationInfo
from pipeline.batch import Batch, ClassTargets, Edges, Layer, LinkTargets, Ragged

PAPERS, AUTHORS, VENUES = 40, 15, 6
MANIFEST = PartitionManifest(
    id="gpu",
    graph_name="gpu",
    hosts=1,
    trainers=1,
    node_types=(
        NodeTypeInfo("paper", PAPERS, text=True, classes=("art", "biology", "chess")),
        NodeTypeInfo("author", AUTHORS),
        NodeTypeInfo("venue", VENUES, feature_width=2),
    ),
    relations=(
        RelationInfo("cites", "paper", "paper", 100, classes=("for", "against"), targets={"train": 10}),
        RelationInfo("writes", "author", "paper", 60),
        RelationInfo("shows", "venue", "paper", 40),
    ),
    clusters=(1,),
    offsets={"paper": (0, PAPERS), "author": (0, AUTHORS), "venue": (0, VENUES)},
    options={},
    inputs={},
    stats={},
    files={},
)
STAGES = [
    {"name": "mlm", "kind": "mlm"},
    {"name": "graph_lm", "kind": "graph_lm", "task": "cites"},
    {"name": "warm", "kind": "gnn_warm", "task": "cites"},
    {"name": "joint", "kind": "joint", "task": "cites", "forward_tokens": 64},
]

CLASS_TASKS = {
    "topic": {"kind": "node_classification", "node_type": "paper", "class_weights": "balanced"},
    "tone": {"kind": "edge_classification", "relations": ["cites"]},
}
CLASS_STAGES = [
    {"name": "topic", "kind": "joint", "task": "topic", "forward_tokens": 64},
    {"name": "tone", "kind": "joint", "task": "tone", "forward_tokens": 64},
]


def make_class_batch(task: str) -> Batch:
    """The joint stage's batch with classes of nodes (topic) or of edges (tone) in place of links."""
    generator = torch.Generator().manual_seed(6)
    head, tail = torch.randint(16, (2, 10), generator=generator)
    if task == "topic":
        targets = {"paper": ClassTargets(head, tail[:0], torch.randint(3, (10,), generator=generator))}
    else:
        targets = {"cites": ClassTargets(head, tail, torch.randint(2, (10,), generator=generator))}
    return replace(make_batch("joint"), links={}, classes=targets)


def make_batch(kind: str) -> Batch:
    generator = torch.Generator().manual_seed(5)

    def some(below: int, *shape: int) -> torch.Tensor:
        return torch.randint(below, shape, generator=generator)

    lengths = torch.cat([torch.zeros(1, dtype=torch.int64), 3 + some(8, PAPERS)]).cumsum(0)
    tokens = Ragged(5 + some(70, int(lengths[-1])).to(torch.int32), lengths)

    def edges(sources: int, rows: int) -> Edges:
        return Edges(some(sources, 50), some(rows, 50).sort().values, 1 + some(3, 50).float())

    everything = {"paper": PAPERS, "author": AUTHORS, "venue": VENUES}
    middle, last = {"paper": 25, "author": 0, "venue": 0}, {"paper": 16, "author": 0, "venue": 0}
    joining = {"cites": edges(PAPERS, 25), "writes": edges(AUTHORS, 25), "shows": edges(VENUES, 25)}
    layers = (Layer(everything, middle, joining), Layer(middle, last, {"cites": edges(25, 16)}))
    end = 16
    links = LinkTargets(
        head=some(end, 6),
        tail=some(end, 6),
        negative_tail=some(end, 6),
        negative_head=some(end, 6),
        tail_mask=some(2, 6, 6).bool(),
        head_mask=some(2, 6, 6).bool(),
    )
    labels = torch.where(some(4, int(lengths[-1])) == 0, tokens.values.long(), -100)
    text = {"embedded": {"paper": torch.randn(PAPERS, 32, generator=generator)}}
    if kind != "gnn_warm":
        text = {"tokens": {"paper": tokens}, "train_rows": {"paper": torch.arange(0, PAPERS, 3)}}  # type: ignore[dict-item]
    graph = {
        "layers": layers,
        "features": {"venue": torch.randn(VENUES, 2, generator=generator)},
        "learnable": {"author": torch.randn(AUTHORS, 16, generator=generator)},
    }
    nodes = {"paper": torch.arange(PAPERS), "author": torch.arange(AUTHORS), "venue": torch.arange(VENUES)}
    if kind == "mlm":
        return Batch(nodes={"paper": nodes["paper"]}, hidden={"paper": labels}, **text)  # type: ignore[arg-type]
    if kind == "graph_lm":
        return Batch(nodes={"paper": nodes["paper"]}, links={"cites": links}, **text)  # type: ignore[arg-type]
    return Batch(nodes=nodes, links={"cites": links}, **graph, **text)  # type: ignore[arg-type]
