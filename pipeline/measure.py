"""Short timings of a plan's own model: LM per token on real texts, GNN and loss per batch.

Owns how a cost is measured. Never samples over RPC and never trains: gradients are thrown away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from partition.manifest import PartitionManifest
from partition.reader import open_tokens
from pipeline.batch import Batch, ClassTargets, Edges, Layer, LinkTargets, Ragged
from pipeline.config import EnginePlan, StagePlan
from pipeline.lm import TextEncoder
from pipeline.model import LMGNN, learnable_types, text_types
from pipeline.shapes import BatchShape

_FORWARD_ROWS = 128
_TRAIN_ROWS = 32


@dataclass(frozen=True)
class Cost:
    """One token's or one batch's share."""

    seconds: float = 0.0
    saved_bytes: float = 0.0
    """What autograd keeps for the backward pass, parameters excepted."""


@dataclass(frozen=True)
class LMCosts:
    """Per token: forward only, forward and backward, the same with the masked-LM head."""

    forward: Cost = Cost()
    train: Cost = Cost()
    masked: Cost = Cost()


def sample_texts(manifest: PartitionManifest, folder: Path, rows: int) -> Ragged:
    """About `rows` token lists, evenly over hosts, text types and their ids; int64 values."""
    stored = [open_tokens(folder, h, t) for h in range(manifest.hosts) for t in text_types(manifest)]
    total = max(sum(len(offsets) - 1 for _, offsets in stored), 1)
    lists = []
    for values, offsets in stored:
        count = len(offsets) - 1
        for row in torch.linspace(0, count - 1, min(count, -(-rows * count // total))).long().tolist():
            lists.append(torch.from_numpy(values[offsets[row] : offsets[row + 1]].astype("int64")))
    lengths = torch.tensor([0, *(len(one) for one in lists)])
    return Ragged(torch.cat([torch.zeros(0, dtype=torch.int64), *lists]), lengths.cumsum(0))


def measure_lm(
    encoder: TextEncoder, masked: nn.Module | None, texts: Ragged, *, share: float, engine: EnginePlan
) -> LMCosts:
    """Costs per token on `texts`; `share` of the tokens carry a label for the masked-LM head."""
    device = encoder.base.device
    encoder.requires_grad_(True).train()
    rows = torch.linspace(0, len(texts) - 1, min(_TRAIN_ROWS, len(texts))).long()
    few = _moved(texts.select(rows), device)
    many = _moved(texts, device)
    encoder.encode(few, _FORWARD_ROWS)
    forward = _timed(lambda: encoder.encode(many, _FORWARD_ROWS), engine, device)
    train = _backward_cost(lambda: encoder(few).float().sum(), encoder, engine, device)
    hidden = Cost()
    if masked is not None:
        labels = torch.full_like(few.values, -100)
        every = max(round(1 / share), 1)
        labels[::every] = few.values[::every]
        hidden = _backward_cost(lambda: masked(few, labels)[0], masked, engine, device)
    return LMCosts(
        Cost(forward / max(many.values.numel(), 1)),
        *(
            Cost(c.seconds / max(few.values.numel(), 1), c.saved_bytes / max(few.values.numel(), 1))
            for c in (train, hidden)
        ),
    )


def measure_graph(
    model: LMGNN, manifest: PartitionManifest, stage: StagePlan, shape: BatchShape, engine: EnginePlan
) -> Cost:
    """Cost of one step's graph encoder, head and loss on a random batch of the expected size."""
    device = next(model.parameters()).device
    batch = _random_batch(model, manifest, shape).to(device)
    return _backward_cost(lambda: model(batch, stage)[0], model, engine, device)


def measure_step(parameters: Sequence[nn.Parameter]) -> float:
    """Seconds of one AdamW step over the parameters, which keep their values."""
    if not parameters:
        return 0.0
    device = parameters[0].device
    optimizer = torch.optim.AdamW(parameters, lr=0.0)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # makes the state
    seconds = _timed(optimizer.step, EnginePlan(precision="fp32"), device)
    optimizer.zero_grad(set_to_none=True)
    return seconds


def _random_batch(model: LMGNN, manifest: PartitionManifest, shape: BatchShape) -> Batch:
    generator = torch.Generator().manual_seed(0)

    def positions(count: int, below: int) -> Tensor:
        return torch.randint(max(below, 1), (count if below else 0,), generator=generator)

    layers = []
    for depth, drawn in enumerate(shape.edges):
        inner, outer = shape.nodes[depth], shape.nodes[depth + 1]
        edges = {}
        for info in manifest.relations:
            count = drawn[info.name] if outer[info.source] else 0
            to = positions(count, inner[info.destination]).sort().values
            edges[info.name] = Edges(positions(len(to), outer[info.source]), to, torch.ones(len(to)))
        layers.append(Layer(outer, inner, edges))
    counts, seeds = shape.nodes[-1], shape.nodes[0]
    text, learnable = text_types(manifest), learnable_types(model.plan.model, manifest)
    return Batch(
        nodes={name: torch.arange(count) for name, count in counts.items()},
        layers=tuple(reversed(layers)),
        embedded={t: torch.randn(counts[t], model.text.of(t).width) for t in text},
        features={
            t.name: torch.randn(counts[t.name], t.feature_width)
            for t in manifest.node_types
            if t.feature_width
        },
        learnable={t: torch.randn(counts[t], model.plan.model.hidden, requires_grad=True) for t in learnable},
        links={
            name: _random_links(manifest, name, count, shape.negatives[name], seeds, positions)
            for name, count in shape.targets.items()
            if name in shape.negatives
        },
        classes={
            name: _random_classes(manifest, name, count, seeds, positions)
            for name, count in shape.targets.items()
            if name not in shape.negatives
        },
    )


def _random_classes(
    manifest: PartitionManifest,
    name: str,
    count: int,
    seeds: Mapping[str, int],
    positions: Callable[[int, int], Tensor],
) -> ClassTargets:
    """Of a node type, or else of a relation."""
    if name in seeds:
        classes = len(manifest.node_type(name).classes)
        return ClassTargets(positions(count, seeds[name]), positions(0, 0), positions(count, classes))
    info = manifest.relation(name)
    ends = (positions(count, seeds[info.source]), positions(count, seeds[info.destination]))
    return ClassTargets(*ends, positions(count, len(info.classes)))


def _random_links(
    manifest: PartitionManifest,
    relation: str,
    count: int,
    negatives: int,
    seeds: Mapping[str, int],
    positions: Callable[[int, int], Tensor],
) -> LinkTargets:
    heads, tails = (seeds[end] for end in (manifest.relation(relation).source,
                                           manifest.relation(relation).destination))  # fmt: skip
    usable = torch.ones(count, negatives, dtype=torch.bool)
    return LinkTargets(
        positions(count, heads),
        positions(count, tails),
        positions(negatives, tails),
        positions(negatives, heads),
        usable,
        usable,
    )


def _backward_cost(
    loss: Callable[[], Tensor], module: nn.Module, engine: EnginePlan, device: torch.device
) -> Cost:
    """A first run counts what autograd keeps, a second one is timed."""
    with _counted_bytes(module) as kept, _precision(engine, device):
        value = loss()
    value.backward()
    seconds = _timed(lambda: loss().backward(), engine, device)
    module.zero_grad(set_to_none=True)
    return Cost(seconds, float(sum(kept.values())))


@contextmanager
def _counted_bytes(module: nn.Module) -> Iterator[dict[int, int]]:
    """Address -> bytes of each tensor saved for backward inside."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def _timed(run: Callable[[], object], engine: EnginePlan, device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    with _precision(engine, device):
        run()
    _wait(device)
    return time.perf_counter() - started


def _precision(engine: EnginePlan, device: torch.device) -> torch.autocast:
    """As the engine runs; repeated here because importing the engine means importing DeepSpeed."""
    able = device.type == "cuda" and torch.cuda.is_bf16_supported()
    enabled = engine.precision == "bf16" or (engine.precision == "auto" and able)
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _moved(tokens: Ragged, device: torch.device) -> Ragged:
    return Ragged(tokens.values.to(device), tokens.offsets.to(device))
