"""Saved batches give the same losses and gradients on an accelerator as on the CPU. No DGL here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from replay_batches import MANIFEST, STAGES, make_batch
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


@pytest.mark.parametrize("kind", ["mlm", "graph_lm", "gnn_warm", "joint"])
def test_a_replayed_batch_gives_the_cpus_loss_and_gradients(
    plan: TrainPlan, tmp_path: Path, kind: str
) -> None:
    stage = next(s for s in plan.stages if s.kind == kind)
    make_batch(kind).save(tmp_path / "batch.safetensors")
    loss, gradients = run(plan, stage, tmp_path / "batch.safetensors", torch.device("cpu"))
    other, others = run(plan, stage, tmp_path / "batch.safetensors", ACCELERATOR)
    assert other == pytest.approx(loss, rel=1e-4)
    assert others.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-3, atol=1e-4, msg=name)
