"""Two trainers' DeepSpeed steps, in processes of their own, against one torch loop over both's batches."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing import start_processes

from pipeline.config import EnginePlan

RATE, DECAY, CLIP, STEPS = 0.05, 0.1, 0.3, 3


class Uneven(nn.Module):
    """Two maps; one's gradients are many times the other's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.text, self.graph = nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return (50 * self.text(x) + self.graph(x) - y).square().sum(), torch.tensor(y.numel())

    def groups(self) -> dict[str, tuple[list[nn.Parameter], float]]:
        return {"lm": (list(self.text.parameters()), RATE), "rest": (list(self.graph.parameters()), RATE)}


def batch(step: int, rank: int) -> tuple[Tensor, Tensor]:
    """Of different sizes, and far apart, so that the ranks' gradients differ."""
    generator = torch.Generator().manual_seed(10 * step + rank)
    rows = 2 + 3 * rank
    return torch.randn(rows, 5, generator=generator), (1 + 8 * rank) * torch.randn(
        rows, 3, generator=generator
    )


def trainer(rank: int, folder: Path, port: int, zero: int) -> None:
    from pipeline.engine import Engine, start_collectives

    place = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_SIZE": "2"}
    os.environ |= {**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    start_collectives(torch.device("cpu"))
    model = Uneven()
    engine = Engine(
        model,
        model.groups(),
        EnginePlan(zero=zero, clip=CLIP),
        zero=zero,
        batches_per_step=1,
        weight_decay=DECAY,
        device=torch.device("cpu"),
        clip_apart=True,
    )
    norms = []
    for step in range(STEPS):
        loss, count = engine.forward(*batch(step, rank))
        engine.backward(loss, terms=engine.total(count), last=True)
        norms.append(engine.step(1.0))
    engine.close()
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    torch.save({"norms": norms, "weights": weights}, folder / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def by_torch() -> tuple[list[float], dict[str, Tensor]]:
    model, norms = Uneven(), []
    optimizer = torch.optim.AdamW(
        [{"params": parameters, "lr": rate} for parameters, rate in model.groups().values()],
        weight_decay=DECAY,
    )
    for step in range(STEPS):
        both = [model(*batch(step, rank)) for rank in range(2)]
        (torch.stack([loss for loss, _ in both]).sum() / sum(int(count) for _, count in both)).backward()
        norms.append(
            float(nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
        )
        for parameters, _ in model.groups().values():
            assert float(nn.utils.clip_grad_norm_(parameters, CLIP)) > CLIP
        optimizer.step()
        optimizer.zero_grad()
    return norms, {name: p.detach() for name, p in model.named_parameters()}


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_two_trainers_clip_each_group_by_its_norm_over_both(tmp_path: Path, zero: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start_processes(trainer, (tmp_path, port, zero), nprocs=2, start_method="spawn")
    norms, weights = by_torch()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found["norms"] == pytest.approx(norms, rel=1e-4)
        for name, expected in weights.items():
            torch.testing.assert_close(found["weights"][name], expected, msg=name)
