"""Task kind -> the head that answers it, over hidden rows or over text embeddings alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast

from torch import Tensor, nn

from partition.manifest import PartitionManifest
from pipeline.batch import Batch
from pipeline.classes import ClassHead
from pipeline.config import TaskPlan
from pipeline.registry import Registry
from pipeline.tasks import LinkHead


class Head(Protocol):
    """What the model asks of a head."""

    def loss(
        self, h: Mapping[str, Tensor], batch: Batch, ends: Mapping[str, tuple[str, str]]
    ) -> tuple[Tensor, Tensor]:
        """(sum of losses, number of terms); with no target in the batch a sum of 0 with gradients of 0."""
        ...


class HeadFactory(Protocol):
    def __call__(
        self, task: TaskPlan, manifest: PartitionManifest, width: int, *, text: bool
    ) -> nn.Module: ...


HEADS: Registry[HeadFactory] = Registry("task")


@HEADS.add("link_prediction")
def link_head(task: TaskPlan, manifest: PartitionManifest, width: int, *, text: bool) -> nn.Module:
    return LinkHead(task, task.relations, width, scorer=task.text_scorer if text else None)


@HEADS.add("node_classification")
def node_head(task: TaskPlan, manifest: PartitionManifest, width: int, *, text: bool) -> nn.Module:
    return ClassHead(task, manifest.node_type(task.node_type).classes, width)


@HEADS.add("edge_classification")
def edge_head(task: TaskPlan, manifest: PartitionManifest, width: int, *, text: bool) -> nn.Module:
    return ClassHead(task, manifest.relation(task.relations[0]).classes, width)


def as_head(module: nn.Module) -> Head:
    return cast(Head, module)
