"""What the graph is asked and how well it answers: heads, losses, metrics.

Owns scoring of edges, the two link losses and ranking metrics. Never samples negatives and never
talks to other ranks: losses and metrics come as sums and counts that add up. Shape letters: B true
edges, K negatives, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize, softplus

from pipeline.batch import Batch, LinkTargets
from pipeline.config import TaskPlan
from pipeline.naming import module_key


class RankSums:
    """Mean reciprocal rank and hits@k as sums that add up over batches and ranks of trainers."""

    def __init__(self, *, hits: Sequence[int] = (1, 3, 10), device: torch.device | None = None) -> None:
        self.hits = tuple(hits)
        self.totals = torch.zeros(2 + len(self.hits), dtype=torch.float64, device=device)
        """Count, sum of 1 / rank, sum of hits for each k: all-reduce this with SUM."""

    def add(self, ranks: Tensor) -> None:
        """`ranks` as `rank_of_true` gives them, any shape."""
        ranks = ranks.detach().to(self.totals)
        rows = [torch.ones_like(ranks), 1 / ranks, *((ranks <= k).to(ranks) for k in self.hits)]
        self.totals += torch.stack([row.sum() for row in rows])

    def values(self) -> dict[str, float]:
        """{"mrr", "hits@k"...: means}; NaN before the first rank."""
        count, *sums = self.totals.tolist()
        names = ["mrr", *(f"hits@{k}" for k in self.hits)]
        return {name: value / count if count else math.nan for name, value in zip(names, sums, strict=True)}

    @property
    def count(self) -> int:
        return int(self.totals[0])


def rank_of_true(true: Tensor, others: Tensor, mask: Tensor) -> Tensor:
    """Rank (float32 B, from 1) of the true score (B) among itself and the others (B x K) in `mask`.

    An equal score counts half, so that a constant scorer lands in the middle. NaN always counts
    against the true edge.
    """
    above = ~(others <= true[:, None])
    equal = others == true[:, None]
    return 1 + ((above + 0.5 * equal) * mask).sum(1)


class LinkHead(nn.Module):
    """Scores edges and trains on true ones against negatives.

    Scores: exp(s) * <u, d_r * v>, with one learnable s (initially -log(D) / 2: the dot product of
    random unit-variance vectors then has variance 1) and, for distmult, a learnable diagonal d_r
    per relation (initially ones; dot is distmult without it). cosine is dot of u and v brought to
    length 1, with exp(s) initially 20, the usual inverse temperature of sentence encoders.
    """

    metric = "mrr"
    """Key of RankSums.values() by which models are compared; larger is better."""

    def __init__(
        self, plan: TaskPlan, relations: Sequence[str], width: int, *, scorer: str | None = None
    ) -> None:
        """`scorer`: instead of the plan's."""
        super().__init__()
        scorer = scorer or plan.scorer
        self.normalize = scorer == "cosine"
        self.loss_of = _softmax_losses if plan.loss == "softmax" else _logistic_losses
        # Of one element, not a scalar: DeepSpeed 0.19 cannot broadcast those.
        self.scale = nn.Parameter(
            torch.tensor([math.log(20.0) if self.normalize else -0.5 * math.log(width)])
        )
        self.diagonals = nn.ParameterDict()
        if scorer == "distmult":
            for name in relations:
                self.diagonals[module_key(name)] = nn.Parameter(torch.ones(width))

    def score(self, relation: str, head: Tensor, tail: Tensor) -> Tensor:
        """Scores in float32 of edges head -> tail. B x D with B x D gives B; either side may be
        B x K x D, the result is then B x K."""
        head, tail = self._heads(relation, head), self._tails(tail)
        if head.dim() < tail.dim():
            head = head[:, None]
        elif tail.dim() < head.dim():
            tail = tail[:, None]
        return (head * tail).sum(-1)

    def score_all(self, relation: str, head: Tensor, tail: Tensor) -> Tensor:
        """Scores of every head (B x D) with every tail (K x D), B x K."""
        with torch.autocast(head.device.type, enabled=False):  # or it would be bf16 beside fp32 true scores
            return self._heads(relation, head) @ self._tails(tail).T

    def loss(
        self, h: Mapping[str, Tensor], batch: Batch, ends: Mapping[str, tuple[str, str]]
    ) -> tuple[Tensor, Tensor]:
        """(sum over the true edges of their losses, number of true edges as int64).

        `h[type]` holds the rows that the targets' positions count along; `ends[relation]` is
        (source type, destination type). Without targets the sum is 0 with a gradient of 0.

        softmax: half of -log softmax of the true edge against its tail negatives, half against its
        head negatives, whose scores are corrected where the batch says so (sampled softmax, Bengio &
        Senecal 2008): sums over negatives are then sums over all nodes on average, however they were
        drawn. logistic: eq. (2) with weight 1 for the true edge and 1 / n for each of its
        n usable negatives, so that the number of negatives does not shift the balance.
        """
        total = 0 * self.scale.sum()
        count = 0
        for relation, targets in batch.links.items():
            if targets.head.numel() > 0:
                source, destination = ends[relation]
                total = total + self._losses(relation, h[source], h[destination], targets).sum()
                count += targets.head.numel()
        return total, torch.tensor(count, device=total.device)

    def _losses(self, relation: str, heads: Tensor, tails: Tensor, targets: LinkTargets) -> Tensor:
        head, tail = embedding(targets.head, heads), embedding(targets.tail, tails)
        true = self.score(relation, head, tail)
        other_tails = embedding(targets.negative_tail, tails)
        other_heads = embedding(targets.negative_head, heads)
        if targets.negative_tail.dim() == 1:
            by_tail = self.score_all(relation, head, other_tails)
        else:
            by_tail = self.score(relation, head, other_tails)
        if targets.negative_head.dim() == 1:
            by_head = self.score_all(relation, other_heads, tail).T
        else:
            by_head = self.score(relation, other_heads, tail)
        if targets.tail_log_q is not None:
            by_tail = by_tail - targets.tail_log_q
        if targets.head_log_q is not None:
            by_head = by_head - targets.head_log_q
        return self.loss_of(true, by_tail, targets.tail_mask, by_head, targets.head_mask)

    def _heads(self, relation: str, head: Tensor) -> Tensor:
        weight = self.scale.exp()
        key = module_key(relation)
        if key in self.diagonals:
            weight = weight * self.diagonals[key]
        return self._tails(head) * weight.to(torch.promote_types(weight.dtype, torch.float32))

    def _tails(self, tail: Tensor) -> Tensor:
        tail = _at_least_float(tail)
        return normalize(tail, dim=-1) if self.normalize else tail


def _softmax_losses(
    true: Tensor, by_tail: Tensor, tail_mask: Tensor, by_head: Tensor, head_mask: Tensor
) -> Tensor:
    losses = torch.zeros_like(true)
    for negatives, mask in ((by_tail, tail_mask), (by_head, head_mask)):
        usable = negatives.masked_fill(~mask, -torch.inf)
        losses = losses + torch.cat([true[:, None], usable], dim=1).logsumexp(1) - true
    return losses / 2


def _logistic_losses(
    true: Tensor, by_tail: Tensor, tail_mask: Tensor, by_head: Tensor, head_mask: Tensor
) -> Tensor:
    mask = torch.cat([tail_mask, head_mask], dim=1)
    negatives = softplus(torch.cat([by_tail, by_head], dim=1)) * mask
    return softplus(-true) + negatives.sum(1) / mask.sum(1).clamp(min=1)


def _at_least_float(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
