"""DeepSpeed steps against a plain torch loop."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from pipeline.config import EnginePlan
from pipeline.engine import Engine, start_collectives, zero_stage
from pipeline.loop import rate_factor
from pipeline.statefiles import load_optimizer, save_optimizer

RATE, DECAY = 0.05, 0.1


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    """A process group of one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "LOCAL_SIZE": "1"}
    before = dict(os.environ)
    os.environ |= {**names, "MASTER_PORT": str(port)}
    start_collectives(torch.device("cpu"))
    yield
    torch.distributed.destroy_process_group()
    os.environ.clear()
    os.environ |= before


class Squares(nn.Module):
    """Sum of squared errors and their number; one of the two maps may be left unused."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.used, self.idle = nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return (self.used(x) - y).square().sum(), torch.tensor(y.numel())


def batches(steps: int, per_step: int) -> list[list[tuple[Tensor, Tensor]]]:
    generator = torch.Generator().manual_seed(2)
    return [
        [
            (torch.randn(n + 1, 5, generator=generator), 9 * torch.randn(n + 1, 3, generator=generator))
            for n in range(per_step)
        ]
        for _ in range(steps)
    ]


def by_torch(data: list[list[tuple[Tensor, Tensor]]], clip: float) -> dict[str, Tensor]:
    model = Squares()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    for step, group in enumerate(data):
        for options in optimizer.param_groups:
            options["lr"] = RATE * rate_factor(step, len(data), 0.5)
        losses = [model(x, y)[0] for x, y in group]
        (torch.stack(losses).sum() / sum(y.numel() for _, y in group)).backward()
        for parameter in model.idle.parameters():
            parameter.grad = torch.zeros_like(parameter)
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def make_engine(model: Squares, plan: EnginePlan, per_step: int, *, clip_apart: bool = False) -> Engine:
    return Engine(
        model,
        {"lm": (list(model.used.parameters()), RATE), "rest": (list(model.idle.parameters()), RATE)},
        plan,
        zero=zero_stage(plan, same_order=True),
        batches_per_step=per_step,
        weight_decay=DECAY,
        device=torch.device("cpu"),
        clip_apart=clip_apart,
    )


def train(engine: Engine, data: list[list[tuple[Tensor, Tensor]]], steps: range) -> list[float]:
    norms = []
    for step in steps:
        terms = engine.total(torch.tensor(sum(y.numel() for _, y in data[step])))
        for position, (x, y) in enumerate(data[step]):
            loss, _ = engine.forward(x, y)
            engine.backward(loss, terms=terms, last=position == len(data[step]) - 1)
        norms.append(engine.step(rate_factor(step, len(data), 0.5)))
    return norms


@pytest.mark.parametrize("zero", [0, 1])
@pytest.mark.parametrize("clip", [0.0, 0.3])
@pytest.mark.parametrize("per_step", [1, 3])
def test_steps_equal_a_plain_loop(zero: int, clip: float, per_step: int) -> None:
    data, model = batches(6, per_step), Squares()
    engine = make_engine(model, EnginePlan(zero=zero, clip=clip), per_step)
    train(engine, data, range(6))
    engine.close()
    for name, expected in by_torch(data, clip).items():
        torch.testing.assert_close(dict(model.named_parameters())[name].detach(), expected, msg=name)


def test_clipping_changes_the_result_and_the_norm_is_reported_before_it() -> None:
    data = batches(4, 1)
    assert not torch.equal(by_torch(data, 0.3)["used.weight"], by_torch(data, 0.0)["used.weight"])
    norms = []
    for zero in (0, 1):
        engine = make_engine(Squares(), EnginePlan(zero=zero, clip=0.3), 1)
        norms.append(train(engine, data, range(1))[0])
        engine.close()
    model = Squares()
    (x, y), *_ = data[0]
    (model(x, y)[0] / y.numel()).backward()
    expected = float(nn.utils.get_total_norm([p.grad for p in model.used.parameters() if p.grad is not None]))
    assert norms == pytest.approx([expected, expected], rel=1e-5)


class Uneven(Squares):
    """One map's gradients are many times the other's."""

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return (50 * self.used(x) + self.idle(x) - y).square().sum(), torch.tensor(y.numel())


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_groups_clipped_apart_do_not_shrink_each_other(zero: int) -> None:
    data, model, expected = batches(4, 2), Uneven(), Uneven()
    engine = make_engine(model, EnginePlan(zero=zero, clip=0.3), 2, clip_apart=True)
    norms = train(engine, data, range(4))
    engine.close()
    maps = (expected.used, expected.idle)
    optimizer = torch.optim.AdamW([{"params": list(m.parameters())} for m in maps], weight_decay=DECAY)
    for step, group in enumerate(data):
        for options in optimizer.param_groups:
            options["lr"] = RATE * rate_factor(step, len(data), 0.5)
        (
            torch.stack([expected(x, y)[0] for x, y in group]).sum() / sum(y.numel() for _, y in group)
        ).backward()
        gradients = [p.grad for p in expected.parameters() if p.grad is not None]
        assert norms[step] == pytest.approx(float(nn.utils.get_total_norm(gradients)), rel=1e-4)
        for one in maps:
            assert float(nn.utils.clip_grad_norm_(one.parameters(), 0.3)) > 0.3
        optimizer.step()
        optimizer.zero_grad()
    for name, parameter in expected.named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[name], parameter, msg=name)


@pytest.mark.parametrize("zero", [0, 1])
def test_a_saved_state_goes_on_exactly(zero: int, tmp_path) -> None:  # type: ignore[no-untyped-def]
    data, plan = batches(6, 2), EnginePlan(zero=zero, clip=0.3)
    whole = Squares()
    engine = make_engine(whole, plan, 2)
    train(engine, data, range(6))
    engine.close()
    first = Squares()
    engine = make_engine(first, plan, 2)
    train(engine, data, range(3))
    save_optimizer(tmp_path / "optimizer.pt", engine.state())
    engine.close()
    second = Squares()
    second.load_state_dict(first.state_dict())
    engine = make_engine(second, plan, 2)
    engine.load_state(load_optimizer(tmp_path / "optimizer.pt"))
    train(engine, data, range(3, 6))
    engine.close()
    for name, expected in whole.named_parameters():
        assert torch.equal(dict(second.named_parameters())[name], expected), name


def test_zero_2_is_used_only_where_all_trainers_go_backward_in_one_order() -> None:
    assert [zero_stage(EnginePlan(zero=z), same_order=True) for z in range(3)] == [0, 1, 2]
    assert [zero_stage(EnginePlan(zero=z), same_order=False) for z in range(3)] == [0, 1, 1]


def test_rates_rise_linearly_and_fall_to_zero() -> None:
    factors = [rate_factor(step, 10, 0.3) for step in range(11)]
    assert factors[:3] == pytest.approx([0.25, 0.5, 0.75])
    assert factors[3] == 1.0
    assert factors[3:] == pytest.approx([(10 - s) / 7 for s in range(3, 11)])
