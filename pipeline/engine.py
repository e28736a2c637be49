"""One DeepSpeed engine per stage: gradients averaged over trainers, clipped, applied.

Owns precision, accumulation and ZeRO; never decides what is trained. Losses come as sums with
their number of terms: a step follows the gradient of (sum of all losses) / (number of all terms)
over all trainers and accumulated batches, however unevenly they are spread.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn

from pipeline.config import EnginePlan


def start_collectives(device: torch.device) -> None:
    """Join the trainers' process group; RANK, WORLD_SIZE and MASTER_* are in os.environ."""
    if device.type == "cpu":
        # DeepSpeed 0.19 would compile this for minutes, and a killed build locks the next out.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # Gradients travel over the accelerators; counts, metrics and sparse rows over gloo.
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=_store(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), rank, world),
        rank=rank,
        world_size=world,
        timeout=_PATIENCE,
    )
    deepspeed.init_distributed(dist_init_required=False, verbose=False)


_PATIENCE = timedelta(days=1)
"""The supervisor finds hangs by heartbeats; gloo's own 30 minutes would end a long evaluation."""


def _store(address: str, port: int, rank: int, world: int) -> torch.distributed.TCPStore:
    """The rendezvous, listening on the job's own address; torch's default listens on all of them."""
    listener = -1
    if rank == 0:
        with socket.create_server((address, port), backlog=max(world, 16)) as server:
            listener = server.detach()
    return torch.distributed.TCPStore(
        address,
        port,
        world,
        is_master=rank == 0,
        master_listen_fd=listener if rank == 0 else None,
        use_libuv=False,
    )


def pick_precision(plan: EnginePlan, device: torch.device) -> torch.dtype:
    """auto: bf16 where an accelerator has it. A CPU without AMX runs bf16 several times slower."""
    if plan.precision == "auto":
        good = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if good else torch.float32
    return torch.bfloat16 if plan.precision == "bf16" else torch.float32


def zero_stage(plan: EnginePlan, *, same_order: bool) -> int:
    """The ZeRO stage for a training stage. ZeRO-2 (DeepSpeed 0.19) adds up wrong gradients without a
    word where two trainers go backward in different orders, as they do when a batch lacks a relation
    or one of several LMs; `same_order` says that this cannot happen."""
    return plan.zero if same_order else min(plan.zero, 1)


class Engine:
    """Steps the parameters of one stage."""

    def __init__(
        self,
        model: nn.Module,
        groups: Mapping[str, tuple[list[nn.Parameter], float]],
        plan: EnginePlan,
        *,
        zero: int,
        batches_per_step: int,
        weight_decay: float,
        device: torch.device,
        clip_apart: bool = False,
    ) -> None:
        """`groups`: name -> (parameters, learning rate); `zero`: ZeRO stage, see `zero_stage`;
        `batches_per_step`: on this trainer; `clip_apart`: clip the gradients of each group to
        `plan.clip` by themselves, not all together."""
        self.zero, self._device = zero, device
        self._rates = {name: rate for name, (_, rate) in groups.items()}
        self._precision = pick_precision(plan, device)
        self._parameters = [p for parameters, _ in groups.values() for p in parameters]
        self._world = torch.distributed.get_world_size()
        optimizer = torch.optim.AdamW(
            [
                {"params": parameters, "lr": rate, "name": name}
                for name, (parameters, rate) in groups.items()
                if parameters
            ],
            weight_decay=weight_decay,
        )
        config = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": batches_per_step,
            # DeepSpeed 0.19 clips to 1.0 when this is left out.
            "gradient_clipping": 0.0 if clip_apart else plan.clip,
            "zero_optimization": {"stage": zero},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 1 << 60,
        }
        self._engine, self._optimizer, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=config, dist_init_required=False
        )
        self._clip_apart = plan.clip if clip_apart else 0.0
        if self._clip_apart and zero:
            # DeepSpeed calls this once per group with the share of the gradients that this rank steps.
            self._optimizer.unscale_and_clip_grads = self._clip_shares

    def forward(self, *inputs: Any) -> tuple[Tensor, Tensor]:
        """(sum of losses, number of terms) of one batch."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision is torch.bfloat16):
            return self._engine(*inputs)

    def total(self, count: Tensor) -> Tensor:
        """Sum of a number over all trainers."""
        count = count.detach().clone().to(torch.float64)
        torch.distributed.all_reduce(count)
        return count

    def backward(self, loss: Tensor, *, terms: Tensor, last: bool) -> None:
        """Back-propagate one batch's sum of losses; `terms`: number of terms of the whole step,
        `last`: whether it is the step's last batch on this trainer."""
        # DeepSpeed averages over the trainers; undo that.
        weight = (self._world / terms.clamp(min=1)).to(loss.dtype)
        loss = loss * weight
        if self.zero:
            # A parameter without a gradient on one rank breaks ZeRO's flat buffers (DeepSpeed 0.19).
            # Plain averaging fills in zeros by itself, and this costs two passes over the weights.
            loss = loss + torch.stack([p.sum() for p in self._parameters]).sum() * 0.0
        self._engine.backward(loss, scale_wrt_gas=False)
        if not last:
            self._engine.step()  # counts the batch; the gradients wait for the last one

    @property
    def embedding_weight(self) -> float:
        """What learnable rows' gradients must be multiplied by, since `backward` scaled them."""
        return 1.0 / self._world

    def step(self, factor: float) -> float:
        """Apply the gradients at `factor` times the learning rates; returns their norm before
        clipping."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._rates[group["name"]] * factor
        norm: Any = None
        if not self.zero:  # then DeepSpeed clips without keeping the norm
            gradients = [p.grad for p in self._parameters if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            if self._clip_apart:
                for group in self._optimizer.param_groups:
                    torch.nn.utils.clip_grad_norm_(group["params"], self._clip_apart)
        self._engine.step()
        return float(self._engine.get_global_grad_norm() if norm is None else norm)

    def _clip_shares(self, shares: list[Tensor], _: Tensor) -> None:
        """Clip one group's gradients, of which each rank has a share."""
        norm = torch.stack([share.square().sum() for share in shares]).sum()
        torch.distributed.all_reduce(norm)
        for share in shares:
            share.mul_((self._clip_apart / (norm.sqrt() + 1e-6)).clamp(max=1.0))

    def state(self) -> dict[str, Any]:
        """This rank's optimiser state; plain tensors, numbers and containers."""
        if self.zero == 0:
            return {"optimizer": self._optimizer.state_dict()}
        return {
            "optimizer": self._optimizer.optimizer.state_dict(),
            "partitions": [p.detach().clone() for p in self._optimizer.single_partition_of_fp32_groups],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`; the model's own weights must have been loaded before."""
        if self.zero == 0:
            self._optimizer.load_state_dict(state["optimizer"])
            return
        self._optimizer.optimizer.load_state_dict(state["optimizer"])
        for current, saved in zip(
            self._optimizer.single_partition_of_fp32_groups, state["partitions"], strict=True
        ):
            current.data.copy_(saved)

    def close(self) -> None:
        """Take DeepSpeed's hooks and buffers off the model."""
        self._engine.destroy()
