"""Class heads and the confusion matrix against torch's loss, a dense formula and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipeline.batch import Batch, ClassTargets
from pipeline.classes import ClassHead, Confusion
from pipeline.config import TaskPlan

WIDTH, CLASSES = 6, ("red", "green", "blue", "grey")
NODES = TaskPlan(kind="node_classification", node_type="paper")
EDGES = TaskPlan(kind="edge_classification", relations=("cites",), decoder="linear")
ENDS = {"cites": ("author", "paper")}
NOTHING = torch.zeros(0, dtype=torch.int64)


def rows(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def test_the_loss_of_nodes_is_the_cross_entropy_summed() -> None:
    torch.manual_seed(0)
    head, h = ClassHead(NODES, CLASSES, WIDTH), {"paper": rows(9)}
    targets = ClassTargets(torch.tensor([4, 0, 7]), NOTHING, torch.tensor([1, 3, 1]))
    total, count = head.loss(h, Batch({}, classes={"paper": targets}), ENDS)
    expected = cross_entropy(head.decode(h["paper"][[4, 0, 7]]), targets.label, reduction="sum")
    assert (total.item(), count.item()) == (pytest.approx(expected.item()), 3)


def test_a_linear_decoder_of_edges_is_equation_3() -> None:
    torch.manual_seed(0)
    head, u, v = ClassHead(EDGES, CLASSES, WIDTH), rows(5), rows(5, 1)
    weight, bias = head.decode.weight, head.decode.bias
    dense = torch.stack([weight @ torch.cat([a, b]) + bias for a, b in zip(u, v, strict=True)])
    torch.testing.assert_close(head.logits(u, v), dense)


def test_an_edge_is_told_by_its_source_and_its_destination() -> None:
    torch.manual_seed(0)
    plan = TaskPlan(kind="edge_classification", relations=("cites",), decoder="mlp")
    head, h = ClassHead(plan, CLASSES, WIDTH), {"author": rows(4), "paper": rows(7, 1)}
    targets = ClassTargets(torch.tensor([3, 0]), torch.tensor([6, 2]), torch.tensor([0, 2]))
    total, _ = head.loss(h, Batch({}, classes={"cites": targets}), ENDS)
    logits = head.logits(h["author"][[3, 0]], h["paper"][[6, 2]])
    assert total.item() == pytest.approx(cross_entropy(logits, targets.label, reduction="sum").item())


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    head = ClassHead(NODES, CLASSES, WIDTH)
    head.balance(torch.tensor([10, 1, 5, 4]))
    labels = [0] * 10 + [1] + [2] * 5 + [3] * 4
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    torch.testing.assert_close(head.weights, torch.tensor(expected, dtype=torch.float32))


def test_a_class_without_training_targets_keeps_a_finite_weight() -> None:
    head = ClassHead(NODES, CLASSES, WIDTH)
    head.balance(torch.tensor([10, 0, 5, 5]))
    assert head.weights.tolist() == pytest.approx([20 / 30, 1.0, 20 / 15, 20 / 15])


def test_weights_multiply_the_losses_of_their_classes() -> None:
    torch.manual_seed(0)
    head, h = ClassHead(NODES, CLASSES, WIDTH), {"paper": rows(6)}
    head.balance(torch.tensor([3, 1, 1, 1]))
    targets = ClassTargets(torch.arange(6), NOTHING, torch.tensor([0, 0, 0, 1, 2, 3]))
    total, _ = head.loss(h, Batch({}, classes={"paper": targets}), ENDS)
    expected = cross_entropy(head.decode(h["paper"]), targets.label, weight=head.weights, reduction="sum")
    assert total.item() == pytest.approx(expected.item())


def test_a_batch_without_targets_has_a_loss_of_zero_that_goes_backward() -> None:
    head = ClassHead(NODES, CLASSES, WIDTH)
    total, count = head.loss({"paper": rows(2)}, Batch({}), ENDS)
    total.backward()
    assert (total.item(), count.item()) == (0.0, 0)
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in head.parameters() if p.grad is not None)
    assert head.decode.weight.grad is not None


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_scikit_learn_however_the_targets_come(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    true = torch.randint(3, (80,), generator=generator)  # grey never occurs
    named = torch.where(torch.rand(80, generator=generator) < 0.5, true, torch.randint(3, (80,)))
    confusion = Confusion(CLASSES)
    for part in torch.arange(80).split(33):
        confusion.add(true[part], named[part])
    found = confusion.values()
    assert found["accuracy"] == pytest.approx(accuracy_score(true, named))
    assert found["micro_f1"] == pytest.approx(f1_score(true, named, average="micro"))
    assert found["macro_f1"] == pytest.approx(f1_score(true, named, average="macro"))
    each = f1_score(true, named, average=None, labels=[0, 1, 2])
    assert [found[f"f1/{name}"] for name in CLASSES[:3]] == pytest.approx(each.tolist())
