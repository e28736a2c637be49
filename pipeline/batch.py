"""`Batch`: all that one training step of one part needs, as plain tensors. No DGL, no files open.

A batch can be saved and replayed, which is what oracles, benchmarks and tests/gpu live on.
Shape letters: N nodes of one type in the batch, M of them that are seeds of a layer, E sampled
edges, B targets, K negatives, T tokens, D width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

_TEXTS = ("train_rows", "hidden", "embedded", "hits", "stale", "stale_rows", "stale_age")
_BY_TYPE = ("nodes", *_TEXTS, "features", "learnable", "known")


@dataclass(frozen=True)
class Ragged:
    """Lists of different lengths: list i is values[offsets[i]:offsets[i + 1]]."""

    values: Tensor
    """int32 or int64, all lists one after the other."""
    offsets: Tensor
    """int64, one longer than there are lists."""

    def __len__(self) -> int:
        return self.offsets.numel() - 1

    def lengths(self) -> Tensor:
        return self.offsets[1:] - self.offsets[:-1]

    def select(self, rows: Tensor) -> Ragged:
        """The lists `rows` (int64), in that order."""
        lengths = self.lengths()[rows]
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        starts = torch.repeat_interleave(self.offsets[:-1][rows] - offsets[:-1], lengths)
        return Ragged(self.values[starts + torch.arange(starts.numel(), device=starts.device)], offsets)

    def padded(self, fill: int) -> tuple[Tensor, Tensor]:
        """(ids int64, mask bool), both lists x longest list."""
        lengths = self.lengths()
        width = int(lengths.max()) if len(self) else 0
        mask = torch.arange(width, device=lengths.device)[None, :] < lengths[:, None]
        ids = torch.full(mask.shape, fill, dtype=torch.int64, device=lengths.device)
        ids[mask] = self.values.to(torch.int64)
        return ids, mask


@dataclass(frozen=True)
class Edges:
    """Sampled edges of one relation in one layer."""

    source: Tensor
    """int64 E: position in the layer's source nodes of the relation's source type."""
    destination: Tensor
    """int64 E, ascending: position in the layer's destination nodes of the destination type."""
    scale: Tensor
    """float32 E: in-degree of the destination under the relation, without excluded edges, over
    the number of edges drawn there: the weight that makes a sampled sum unbiased."""


@dataclass(frozen=True)
class Layer:
    """One message-passing layer. The first `destinations[t]` source nodes of type t are its
    destination nodes, in the same order; positions count along the batch's node lists."""

    sources: Mapping[str, int]
    destinations: Mapping[str, int]
    edges: Mapping[str, Edges]


@dataclass(frozen=True)
class LinkTargets:
    """True edges of one relation and their negatives; all positions count along `Batch.nodes`.

    Negatives: joint (K shared by the batch, shape K) or independent (shape B x K). `mask` is true
    where a negative may be used: false ones (existing edges) are out.
    """

    head: Tensor
    tail: Tensor
    negative_tail: Tensor
    negative_head: Tensor
    tail_mask: Tensor
    """bool B x K."""
    head_mask: Tensor
    """bool B x K."""
    tail_log_q: Tensor | None = None
    """float32 K or B x K: what is subtracted from scores of negative tails, log(q N) where a draw is each
    of the N nodes with probability q; None = nothing."""
    head_log_q: Tensor | None = None
    """The same of negative heads."""


@dataclass(frozen=True)
class ClassTargets:
    """Nodes of one type or edges of one relation with their classes; positions count along
    `Batch.nodes`."""

    head: Tensor
    """int64 B: the node, or the edge's source."""
    tail: Tensor
    """int64 B: the edge's destination; empty for nodes."""
    label: Tensor
    """int64 B."""


@dataclass(frozen=True)
class Batch:
    """Inputs of one step of one part; `layers` go from the input to the targets."""

    nodes: Mapping[str, Tensor]
    """Node type -> int64 N, ids without repeats; targets and their negatives come first."""
    layers: tuple[Layer, ...] = ()
    tokens: Mapping[str, Ragged] = field(default_factory=dict)
    """Text type -> token ids of nodes[type], where the LM runs."""
    train_rows: Mapping[str, Tensor] = field(default_factory=dict)
    """Text type -> int64, positions that gradients reach; all others run forward only."""
    train_scale: float = 1.0
    """What gradients of those texts are multiplied by on their way into the LM."""
    hidden: Mapping[str, Tensor] = field(default_factory=dict)
    """Text type -> int64 T: labels of the tokens that mlm hid in `tokens`; -100 for the others."""
    embedded: Mapping[str, Tensor] = field(default_factory=dict)
    """Text type -> float N x D, text embeddings computed before; instead of tokens (frozen LM), or, for
    a type in `hits`, float H x D of those positions alone."""
    hits: Mapping[str, Tensor] = field(default_factory=dict)
    """Text type -> int64 H, positions whose embeddings came from the cache; none of `train_rows`."""
    stale: Mapping[str, Tensor] = field(default_factory=dict)
    """Text type -> int64 S, positions found in the cache that are computed again all the same."""
    stale_rows: Mapping[str, Tensor] = field(default_factory=dict)
    """Text type -> float S x D, what the cache held of them."""
    stale_age: Mapping[str, Tensor] = field(default_factory=dict)
    """Text type -> int64 S, how old that was, in steps."""
    features: Mapping[str, Tensor] = field(default_factory=dict)
    """Type -> float32 N x D, numeric features."""
    learnable: Mapping[str, Tensor] = field(default_factory=dict)
    """Type -> float32 N x D, rows of the learnable embeddings; may require gradients."""
    known: Mapping[str, Tensor] = field(default_factory=dict)
    """Type -> float32 N x sides x classes: training targets of each class at a node without this batch's
    own; sides are the node itself, or edges out of it, edges into it, or both in this order."""
    links: Mapping[str, LinkTargets] = field(default_factory=dict)
    """Relation -> true edges and negatives."""
    classes: Mapping[str, ClassTargets] = field(default_factory=dict)
    """Node type or relation -> targets to classify."""
    key: int = 0
    """Names stage and batch; seeds dropout and the tokens that mlm hides."""
    stats: Mapping[str, float] = field(default_factory=dict)
    """Costs of making it: remote rows, seconds and the like."""

    @property
    def terms(self) -> int:
        """Terms that the batch's loss is the sum of: targets, or hidden tokens."""
        hidden = sum(int((labels >= 0).sum()) for labels in self.hidden.values())
        links = sum(t.head.numel() for t in self.links.values())
        return hidden + links + sum(t.head.numel() for t in self.classes.values())

    def to(self, device: torch.device) -> Batch:
        """A copy on a device."""
        return _restore(*_flatten(self), device=device)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file; the structure goes into its metadata."""
        tensors, structure = _flatten(self)
        # Copies, because safetensors refuses tensors that share memory.
        copies = {k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
        save_file(copies, str(path), {"structure": structure})

    @classmethod
    def load(cls, path: str | Path) -> Batch:
        with safe_open(str(path), framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            return _restore(tensors, stored.metadata()["structure"], device=torch.device("cpu"))


def _flatten(batch: Batch) -> tuple[dict[str, Tensor], str]:
    tensors: dict[str, Tensor] = {}
    for kind in _BY_TYPE:
        tensors.update({f"{kind}|{name}": value for name, value in getattr(batch, kind).items()})
    for name, ragged in batch.tokens.items():
        tensors[f"tokens|{name}|values"] = ragged.values
        tensors[f"tokens|{name}|offsets"] = ragged.offsets
    for index, layer in enumerate(batch.layers):
        for name, edges in layer.edges.items():
            for part in ("source", "destination", "scale"):
                tensors[f"edges|{index}|{name}|{part}"] = getattr(edges, part)
    for name, link in batch.links.items():
        for part in LinkTargets.__dataclass_fields__:
            if getattr(link, part) is not None:
                tensors[f"links|{name}|{part}"] = getattr(link, part)
    for name, targets in batch.classes.items():
        for part in ClassTargets.__dataclass_fields__:
            tensors[f"classes|{name}|{part}"] = getattr(targets, part)
    structure = {
        "layers": [[dict(layer.sources), dict(layer.destinations)] for layer in batch.layers],
        "key": batch.key,
        "train_scale": batch.train_scale,
        "stats": dict(batch.stats),
    }
    return tensors, json.dumps(structure)


def _restore(tensors: Mapping[str, Tensor], structure: str, *, device: torch.device) -> Batch:
    raw = json.loads(structure)
    plain: dict[str, dict[str, Tensor]] = {kind: {} for kind in _BY_TYPE}
    tokens: dict[str, dict[str, Tensor]] = {}
    edges: list[dict[str, dict[str, Tensor]]] = [{} for _ in raw["layers"]]
    links: dict[str, dict[str, Tensor]] = {}
    classes: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, *rest = key.split("|")
        value = value.to(device)
        if kind in plain:
            plain[kind][rest[0]] = value
        elif kind == "tokens":
            tokens.setdefault(rest[0], {})[rest[1]] = value
        elif kind == "edges":
            edges[int(rest[0])].setdefault(rest[1], {})[rest[2]] = value
        else:
            kinds = links if kind == "links" else classes
            kinds.setdefault(rest[0], {})[rest[1]] = value
    return Batch(
        layers=tuple(
            Layer(sources, destinations, {name: Edges(**parts) for name, parts in edges[i].items()})
            for i, (sources, destinations) in enumerate(raw["layers"])
        ),
        tokens={name: Ragged(**parts) for name, parts in tokens.items()},
        links={name: LinkTargets(**parts) for name, parts in links.items()},
        classes={name: ClassTargets(**parts) for name, parts in classes.items()},
        key=raw["key"],
        train_scale=raw["train_scale"],
        stats=raw["stats"],
        **plain,  # type: ignore[arg-type]
    )
