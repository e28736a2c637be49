"""Short timings of a plan's own model: LM per token on real texts, GNN and loss per batch.

Owns how a cost is measured. Never draws a batch and never trains: gradients are thrown away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from partition.manifest import PartitionManifest
from partition.reader import open_tokens
from pipeline.batch import Batch, Ragged
from pipeline.config import EnginePlan, StagePlan
from pipeline.cost.figures import Cost, LMCosts
from pipeline.lm import TextEncoder
from pipeline.model import LMGNN, learnable_types, text_types

_TRAIN_ROWS = 32


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
    encoder: TextEncoder,
    masked: nn.Module | None,
    texts: Ragged,
    *,
    budget: int,
    share: float,
    engine: EnginePlan,
) -> LMCosts:
    """Costs per token on `texts`, `budget` of them at a time; `share` of the tokens carry a label for the
    masked-LM head."""
    device = encoder.base.device
    encoder.requires_grad_(True).train()
    rows = torch.linspace(0, len(texts) - 1, min(_TRAIN_ROWS, len(texts))).long()
    few = _moved(texts.select(rows), device)
    many = _moved(texts, device)
    started = encoder.work.tokens_run
    encoder.encode(many, budget)
    count = max(encoder.work.tokens_run - started, 1)
    forward = Cost(_timed(lambda: encoder.encode(many, budget), engine, device) / count)
    train = _per_token(lambda: encoder(few, budget).float().sum(), encoder, encoder, engine)
    hidden = Cost()
    if masked is not None:
        labels = torch.full_like(few.values, -100)
        every = max(round(1 / share), 1)
        labels[::every] = few.values[::every]
        hidden = _per_token(lambda: masked(few, labels, budget)[0], masked, encoder, engine)
    return LMCosts(forward, train, hidden)


def _per_token(
    loss: Callable[[], Tensor], module: nn.Module, encoder: TextEncoder, engine: EnginePlan
) -> Cost:
    started = encoder.work.tokens_run
    cost = _backward_cost(loss, module, engine, encoder.base.device)
    count = max((encoder.work.tokens_run - started) / 2, 1)  # it ran twice
    return Cost(cost.seconds / count, cost.saved_bytes / count)


def measure_graph(
    model: LMGNN, manifest: PartitionManifest, stage: StagePlan, batch: Batch, engine: EnginePlan
) -> Cost:
    """Cost of graph encoder, head and loss on a sampled batch, whose texts count as encoded."""
    device = next(model.parameters()).device
    filled = _with_inputs(model, manifest, batch).to(device)
    return _backward_cost(lambda: model(filled, stage)[0], model, engine, device)


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


def _with_inputs(model: LMGNN, manifest: PartitionManifest, batch: Batch) -> Batch:
    """Rows of every kind, random ones: only their sizes matter."""
    counts, learnable = {t: len(ids) for t, ids in batch.nodes.items()}, model.plan.model.hidden
    return replace(
        batch,
        embedded={t: torch.randn(counts[t], model.text.of(t).width) for t in text_types(manifest)},
        features={
            t.name: torch.randn(counts[t.name], t.feature_width)
            for t in manifest.node_types
            if t.feature_width
        },
        learnable={
            t: torch.randn(counts[t], learnable, requires_grad=True)
            for t in learnable_types(model.plan.model, manifest)
        },
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
