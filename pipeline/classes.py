"""Classes of nodes and edges: the heads that name them and the figures that judge them.

Owns eq. (3), the weighted cross-entropy and the confusion matrix. Never samples and never talks to
other ranks: losses and metrics come as sums and counts that add up.
Shape letters: B targets, C classes, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding

from pipeline.batch import Batch
from pipeline.config import TaskPlan


class ClassHead(nn.Module):
    """Logits of nodes (a linear layer over h_n) or of edges: linear over both ends, eq. (3), or with
    `decoder = "mlp"` a hidden layer over both ends and their product."""

    def __init__(self, plan: TaskPlan, classes: Sequence[str], width: int) -> None:
        super().__init__()
        self.target = plan.node_type or plan.relations[0]
        """Key of Batch.classes: the node type, or the relation."""
        self.of_edges = plan.kind == "edge_classification"
        self.product = self.of_edges and plan.decoder == "mlp"
        if self.product:
            self.decode: nn.Module = nn.Sequential(
                nn.Linear(3 * width, width), nn.ReLU(), nn.Linear(width, len(classes))
            )
        else:
            self.decode = nn.Linear(2 * width if self.of_edges else width, len(classes))
        self.register_buffer("weights", torch.ones(len(classes)))
        self.weights: Tensor
        """float32 C: what a target of each class weighs in the loss; mean 1 over the training targets."""

    def balance(self, counts: Tensor) -> None:
        """Weigh classes by number of targets / (classes * targets of the class), as scikit-learn's
        "balanced"; `counts` is int64 C. A class without a training target keeps weight 1."""
        present = int((counts > 0).sum())
        weights = counts.sum() / (present * counts.clamp(min=1))
        self.weights.copy_(torch.where(counts > 0, weights, torch.ones_like(weights)))

    def logits(self, head: Tensor, tail: Tensor) -> Tensor:
        """float32 or wider, B x C, from rows B x D; `tail` is not looked at for nodes."""
        parts = [head, tail] if self.of_edges else [head]
        if self.product:
            parts.append(head * tail)
        out: Tensor = self.decode(torch.cat(parts, dim=1))
        return out.to(torch.promote_types(out.dtype, torch.float32))

    def loss(
        self, h: Mapping[str, Tensor], batch: Batch, ends: Mapping[str, tuple[str, str]]
    ) -> tuple[Tensor, Tensor]:
        """(sum of weighted cross-entropies, number of targets as int64); see LinkHead.loss."""
        targets = batch.classes.get(self.target)
        if targets is None or not targets.head.numel():
            zero = torch.stack([p.sum() for p in self.parameters()]).sum() * 0.0
            return zero, torch.tensor(0, device=zero.device)
        source, destination = ends[self.target] if self.of_edges else (self.target, self.target)
        head = embedding(targets.head, h[source])
        tail = embedding(targets.tail, h[destination]) if self.of_edges else head
        losses = cross_entropy(self.logits(head, tail), targets.label, reduction="none")
        return (losses * self.weights[targets.label]).sum(), torch.tensor(len(losses), device=losses.device)


class Confusion:
    """How often each class was taken for which; adds up over batches and ranks of trainers."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.totals = torch.zeros(len(classes), len(classes), dtype=torch.float64)
        """C x C, true class by predicted class: all-reduce this with SUM."""

    def add(self, true: Tensor, predicted: Tensor) -> None:
        """Both int64 B."""
        width = len(self.classes)
        found = torch.bincount(true.cpu() * width + predicted.cpu(), minlength=width * width)
        self.totals += found.reshape(width, width)

    def f1(self) -> dict[str, float]:
        """F1 of every class that is true or predicted somewhere."""
        right, true, named = self.totals.diagonal(), self.totals.sum(1), self.totals.sum(0)
        values = 2 * right / (true + named).clamp(min=1)
        kept = zip(self.classes, values.tolist(), (true + named).tolist(), strict=True)
        return {name: value for name, value, count in kept if count}

    def values(self) -> dict[str, float]:
        """accuracy, macro_f1 and micro_f1 as scikit-learn has them, and f1/CLASS; NaN before the
        first target. With one class a target, micro_f1 is the accuracy."""
        of_class, count = self.f1(), float(self.totals.sum())
        accuracy = float(self.totals.diagonal().sum()) / count if count else math.nan
        macro = sum(of_class.values()) / len(of_class) if of_class else math.nan
        named = {f"f1/{name}": value for name, value in of_class.items()}
        return {"accuracy": accuracy, "macro_f1": macro, "micro_f1": accuracy, **named}
