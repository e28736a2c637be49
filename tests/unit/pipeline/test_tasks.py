"""Scores, losses and metrics against explicit lists, torch's own losses and numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from pipeline.batch import Batch, LinkTargets
from pipeline.config import TaskPlan
from pipeline.tasks import LinkHead, RankSums, rank_of_true

WIDTH, TRUE, NEGATIVES = 8, 5, 6
ENDS = {"writes": ("author", "paper"), "cites.v1": ("paper", "paper")}


def head(**values: object) -> LinkHead:
    plan = TaskPlan(**{"relations": tuple(ENDS), **values})  # type: ignore[arg-type]
    made = LinkHead(plan, plan.relations, WIDTH)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    return made.double()


def rows() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)
        for name, count in (("author", 12), ("paper", 15))
    }


def links(relation: str, *, joint: bool, seed: int = 1, corrected: bool = False) -> LinkTargets:
    generator = torch.Generator().manual_seed(seed)
    heads, tails = ({"author": 12, "paper": 15}[end] for end in ENDS[relation])
    shape = (NEGATIVES,) if joint else (TRUE, NEGATIVES)
    return LinkTargets(
        head=torch.randint(heads, (TRUE,), generator=generator),
        tail=torch.randint(tails, (TRUE,), generator=generator),
        negative_tail=torch.randint(tails, shape, generator=generator),
        negative_head=torch.randint(heads, shape, generator=generator),
        tail_mask=torch.rand(TRUE, NEGATIVES, generator=generator) > 0.3,
        head_mask=torch.rand(TRUE, NEGATIVES, generator=generator) > 0.3,
        tail_log_q=torch.randn(shape, generator=generator) if corrected else None,
        head_log_q=torch.randn(shape, generator=generator) if corrected else None,
    )


def plain_score(made: LinkHead, relation: str, u: Tensor, v: Tensor) -> Tensor:
    """The documented formula, one edge at a time."""
    diagonal = torch.ones(WIDTH, dtype=torch.float64)
    if made.diagonals:
        diagonal = dict(zip(ENDS, made.diagonals.values(), strict=True))[relation]
    return made.scale[0].exp() * sum(u[i] * diagonal[i] * v[i] for i in range(WIDTH))


def score_lists(made: LinkHead, relation: str, h: dict[str, Tensor], targets: LinkTargets, i: int):
    """(true score, usable tail negatives, usable head negatives) of true edge i, corrected."""
    heads, tails = (h[end] for end in ENDS[relation])
    u, v = heads[targets.head[i]], tails[targets.tail[i]]

    def row(x: Tensor | None) -> Tensor:
        if x is None:
            return torch.zeros(NEGATIVES)
        return x if x.dim() == 1 else x[i]

    by_tail = [
        plain_score(made, relation, u, tails[j]) - log_q
        for j, log_q, usable in zip(
            row(targets.negative_tail), row(targets.tail_log_q), targets.tail_mask[i], strict=True
        )
        if usable
    ]
    by_head = [
        plain_score(made, relation, heads[j], v) - log_q
        for j, log_q, usable in zip(
            row(targets.negative_head), row(targets.head_log_q), targets.head_mask[i], strict=True
        )
        if usable
    ]
    return plain_score(made, relation, u, v), by_tail, by_head


@pytest.mark.parametrize("scorer", ["dot", "distmult"])
@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("corrected", [True, False])
def test_softmax_loss_equals_torch_cross_entropy_over_score_lists(scorer, joint, corrected):
    made, h = head(scorer=scorer), rows()
    targets = {name: links(name, joint=joint, corrected=corrected) for name in ENDS}
    expected = torch.zeros((), dtype=torch.float64)
    first = torch.tensor(0)
    for name, target in targets.items():
        for i in range(TRUE):
            true, by_tail, by_head = score_lists(made, name, h, target, i)
            for negatives in (by_tail, by_head):
                expected = expected + cross_entropy(torch.stack([true, *negatives]), first) / 2
    total, count = made.loss(h, Batch({}, links=targets), ENDS)
    assert int(count) == 2 * TRUE
    assert torch.allclose(total, expected, atol=1e-10)


@pytest.mark.parametrize("scorer", ["dot", "distmult"])
@pytest.mark.parametrize("joint", [True, False])
def test_logistic_loss_equals_weighted_equation_2(scorer, joint):
    made, h = head(scorer=scorer, loss="logistic"), rows()
    target = links("writes", joint=joint)
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(TRUE):
        true, by_tail, by_head = score_lists(made, "writes", h, target, i)
        negatives = torch.stack([*by_tail, *by_head])
        expected = expected + binary_cross_entropy_with_logits(true, torch.ones_like(true))
        expected = expected + binary_cross_entropy_with_logits(negatives, torch.zeros_like(negatives))
    total, _ = made.loss(h, Batch({}, links={"writes": target}), ENDS)
    assert torch.allclose(total, expected, atol=1e-10)


@pytest.mark.parametrize("loss", ["softmax", "logistic"])
def test_a_true_edge_without_usable_negatives_has_a_finite_loss_and_gradient(loss):
    made, h = head(loss=loss), rows()
    h["author"].requires_grad_()
    target = links("writes", joint=True)
    none = torch.zeros_like(target.tail_mask)
    target = LinkTargets(
        target.head, target.tail, target.negative_tail, target.negative_head, none, none
    )  # fmt: skip
    total, _ = made.loss(h, Batch({}, links={"writes": target}), ENDS)
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(h["author"].grad).all()


def test_corrected_negatives_in_right_numbers_give_the_gradient_of_a_softmax_over_all_nodes():
    """Nodes as often among the negatives as their probabilities say: no noise is left, only the bias."""
    often = torch.tensor([1, 1, 2, 5, 1, 1, 9, 1, 1, 1, 1, 1, 2, 2, 1])
    drawn = torch.arange(15).repeat_interleave(often)
    log_q = (often * 15 / len(drawn)).log()[drawn]
    everyone = torch.arange(15).repeat(len(drawn) // 15)
    assert len(everyone) == len(drawn)
    edge, gradients = torch.tensor([3]), []
    for tails, correction in ((everyone, None), (drawn, log_q), (drawn, None)):
        usable = (tails != 3)[None]
        target = LinkTargets(edge, edge, tails, tails, usable, usable, correction, correction)
        made, h = head(), rows()
        h["paper"].requires_grad_()
        made.loss(h, Batch({}, links={"cites.v1": target}), ENDS)[0].backward()
        gradients.append((h["paper"].grad, made.scale.grad))
    for whole, corrected, plain in zip(*gradients, strict=True):
        assert torch.allclose(corrected, whole, rtol=1e-6)
        assert not torch.allclose(plain, whole, rtol=0.05)


@pytest.mark.parametrize("loss", ["softmax", "logistic"])
def test_masked_negatives_get_no_gradient(loss):
    made, h = head(loss=loss), {name: values.requires_grad_() for name, values in rows().items()}
    target = LinkTargets(
        head=torch.tensor([0]),
        tail=torch.tensor([0]),
        negative_tail=torch.tensor([5, 6]),
        negative_head=torch.tensor([7, 8]),
        tail_mask=torch.tensor([[True, False]]),
        head_mask=torch.tensor([[False, True]]),
    )
    made.loss(h, Batch({}, links={"writes": target}), ENDS)[0].backward()
    assert set(h["paper"].grad.abs().sum(1).nonzero().flatten().tolist()) == {0, 5}
    assert set(h["author"].grad.abs().sum(1).nonzero().flatten().tolist()) == {0, 8}


def test_losses_of_two_halves_add_up_to_the_whole():
    made, h, target = head(), rows(), links("writes", joint=False, corrected=True)
    halves = [
        LinkTargets(**{name: getattr(target, name)[part] for name in LinkTargets.__dataclass_fields__})
        for part in (slice(0, 2), slice(2, None))
    ]
    parts = [made.loss(h, Batch({}, links={"writes": half}), ENDS) for half in halves]
    total, count = made.loss(h, Batch({}, links={"writes": target}), ENDS)
    assert torch.allclose(sum(loss for loss, _ in parts), total)
    assert sum(int(n) for _, n in parts) == int(count)


def test_no_targets_give_zero_with_a_gradient():
    made = head()
    total, count = made.loss(rows(), Batch({}, links={}), ENDS)
    total.backward()
    assert (float(total.detach()), int(count)) == (0.0, 0)
    assert made.scale.grad.item() == 0


def test_the_first_scale_gives_random_vectors_scores_of_variance_one():
    made = LinkHead(TaskPlan(relations=("writes",)), ["writes"], 256)
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.randn(4000, 256, generator=generator) for _ in range(2))
    assert made.scale.item() == pytest.approx(-0.5 * math.log(256))
    assert made.score("writes", u, v).std().item() == pytest.approx(1, abs=0.05)


def test_distmult_starts_as_the_dot_product():
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.randn(4, WIDTH, generator=generator) for _ in range(2))
    made = {
        scorer: LinkHead(TaskPlan(relations=("writes",), scorer=scorer), ["writes"], WIDTH)
        for scorer in ("dot", "distmult")
    }
    assert torch.allclose(made["dot"].score("writes", u, v), made["distmult"].score("writes", u, v))


def test_scores_of_all_shapes_agree():
    made = head(scorer="distmult")
    u, v = rows()["author"][:4], rows()["paper"][:6]
    expected = torch.tensor([[plain_score(made, "cites.v1", a, b).item() for b in v] for a in u]).double()
    matrix = made.score_all("cites.v1", u, v)
    assert torch.allclose(matrix, expected, atol=1e-5)
    assert torch.allclose(made.score("cites.v1", u, v.expand(4, 6, WIDTH)), matrix)
    assert torch.allclose(made.score("cites.v1", u.expand(6, 4, WIDTH), v), matrix.T)
    assert torch.allclose(made.score("cites.v1", u, v[:4]), matrix.diagonal())


def test_bfloat16_vectors_are_scored_in_float32():
    made = LinkHead(TaskPlan(relations=("writes",)), ["writes"], WIDTH)
    u = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(made.score("writes", u, u), made.score("writes", u.float(), u.float()))


def brute_force_ranks(true: np.ndarray, others: np.ndarray, mask: np.ndarray) -> list[float]:
    """The mean of the best and the worst place that the true score can take in a sorted list."""
    ranks = []
    for score, row, usable in zip(true, others, mask, strict=True):
        together = np.sort(np.append(row[usable], score))[::-1]
        places = np.flatnonzero(together == score) + 1
        ranks.append((places[0] + places[-1]) / 2)
    return ranks


def test_ranks_equal_a_brute_force_sort_with_ties():
    generator = np.random.default_rng(0)
    true = generator.integers(0, 5, 200).astype(np.float32)
    others = generator.integers(0, 5, (200, 12)).astype(np.float32)
    mask = generator.random((200, 12)) > 0.3
    got = rank_of_true(torch.tensor(true), torch.tensor(others), torch.tensor(mask))
    assert got.tolist() == brute_force_ranks(true, others, mask)


def test_nan_scores_never_look_good():
    nan = float("nan")
    true, others = torch.tensor([nan, 1.0]), torch.tensor([[0.0, 1.0], [nan, 0.0]])
    assert rank_of_true(true, others, torch.ones(2, 2, dtype=torch.bool)).tolist() == [3.0, 2.0]


def test_metrics_are_means_over_all_ranks_added():
    ranks = torch.tensor([1.0, 2.5, 4.0, 40.0, 1.0, 10.0])
    whole, first, second = RankSums(), RankSums(), RankSums()
    whole.add(ranks)
    first.add(ranks[:2])
    second.add(ranks[2:])
    first.totals += second.totals
    expected = {
        "mrr": np.mean(1 / ranks.numpy()),
        "hits@1": 2 / 6,
        "hits@3": 3 / 6,
        "hits@10": 5 / 6,
    }
    assert whole.values() == pytest.approx(expected)
    assert first.values() == pytest.approx(expected)
    assert whole.count == 6


def test_metrics_of_nothing_are_nan():
    assert all(math.isnan(value) for value in RankSums().values().values())
