"""Saved batches give the same losses and gradients on an accelerator as on the CPU. No DGL here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from replay_batches import CLASS_STAGES, CLASS_TASKS, MANIFEST, STAGES, make_batch, make_class_batch
from toy import plan_of, write_lm

from pipeline.batch import Batch
from pipeline.config import StagePlan, TrainPlan
from pipeline.model import LMGNN

ACCELERATOR = torch.device("cuda")
pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="torch finds no accelerator (torch.cuda.is_available() is False)"
)


@pytest.fixture
def plan(tmp_path: Path) -> TrainPlan:
    return plan_of(tmp_path, write_lm(tmp_path / "lm"), stages=STAGES)


def run(
    plan: TrainPlan, stage: StagePlan, path: Path, device: torch.device
) -> tuple[float, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    model = LMGNN(plan, MANIFEST).to(device)
    model.trained_parameters(stage)
    loss, _ = model(Batch.load(path).to(device), stage)
    loss.backward()
    gradients = {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None}
    return float(loss), gradients


def same_on_both(plan: TrainPlan, stage: StagePlan, path: Path) -> None:
    loss, gradients = run(plan, stage, path, torch.device("cpu"))
    other, others = run(plan, stage, path, ACCELERATOR)
    assert other == pytest.approx(loss, rel=1e-4)
    assert others.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("kind", ["mlm", "graph_lm", "gnn_warm", "joint"])
def test_a_replayed_batch_gives_the_cpus_loss_and_gradients(
    plan: TrainPlan, tmp_path: Path, kind: str
) -> None:
    make_batch(kind).save(tmp_path / "batch.safetensors")
    stage = next(s for s in plan.stages if s.kind == kind)
    same_on_both(plan, stage, tmp_path / "batch.safetensors")


@pytest.mark.parametrize("task", CLASS_TASKS)
def test_a_replayed_batch_with_classes_gives_the_cpus_loss_and_gradients(tmp_path: Path, task: str) -> None:
    plan = plan_of(tmp_path, write_lm(tmp_path / "lm"), tasks=CLASS_TASKS, stages=CLASS_STAGES)
    make_class_batch(task).save(tmp_path / "batch.safetensors")
    stage = next(s for s in plan.stages if s.task == task)
    same_on_both(plan, stage, tmp_path / "batch.safetensors")
