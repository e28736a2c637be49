"""What a stage is told of its task: where targets come from, how a batch is made of them, and how
well a head does on rows of all nodes. linking.py and labelling.py are the two kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.batch import Batch
from pipeline.config import TaskPlan
from pipeline.sampling import Sampler
from pipeline.trainer import Trainer

Rows = Callable[[str, Tensor], Tensor]
"""(node type, typed ids) -> float rows on the trainer's device."""


@dataclass(frozen=True)
class Found:
    """Some rows of a task's prediction file."""

    nodes: Mapping[str, tuple[str, Tensor]]
    """Column -> (node type, typed ids)."""
    columns: Mapping[str, Sequence[Any]]
    """Column -> plain values."""


class Objective(Protocol):
    """A task on one trainer."""

    metric: str
    """Key of `evaluate` by which models are compared; larger is better."""
    same_order: bool
    """Whether every batch with targets uses every parameter of the head."""

    def __init__(self, trainer: Trainer, task: TaskPlan, sampler: Sampler) -> None: ...

    def prepare(self, head: nn.Module) -> None:
        """Tell the head what it must know of the training targets; a collective call."""
        ...

    def targets(self, part: int, split: str) -> Any:
        """Targets of a part: something with a length and `select(rows)`."""
        ...

    def clusters(self, targets: Any) -> Tensor:
        """int64: the cluster of each target; an edge belongs to its destination's."""
        ...

    def batch(self, targets: Any, part: int, key: int) -> Batch:
        """A sampled batch without inputs."""
        ...

    def evaluate(self, rows: Rows, head: nn.Module, split: str, limit: int) -> dict[str, float]:
        """Figures of a split over all trainers, from rows of all nodes that are targets or candidates."""
        ...

    def predictions(self, rows: Rows, head: nn.Module, part: int) -> Iterator[Found]:
        """What is foretold of a part's nodes or edges: all nodes of the type, all target edges with a
        class, or the test edges of link prediction."""
        ...


def chosen_share(trainer: Trainer, own: int, limit: int) -> Callable[[Tensor], Tensor]:
    """int64 hashes of targets -> rows of those to look at, when all trainers together shall look at
    about `limit` (0: all); `own` is the number of this trainer's targets. A collective call."""
    total = sum(trainer.gather(own))
    if not limit or total <= limit:
        return lambda draws: torch.arange(len(draws))

    def choose(draws: Tensor) -> Tensor:
        share = (draws & 0x3FFFFFFF).to(torch.float64) / 0x40000000
        return (share < limit / total).nonzero().squeeze(1)

    return choose
