"""Node and edge classification as a stage sees them: targets, batches, confusion over all trainers.

Every method that evaluates is called by all trainers together. Shape letters: B targets, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from partition.manifest import SPLITS
from pipeline.batch import Batch, ClassTargets
from pipeline.classes import ClassHead, Confusion
from pipeline.config import TaskPlan
from pipeline.hashing import hash_ids, key_of
from pipeline.objective import Found, Rows, chosen_share
from pipeline.sampling import Sampler, excluded_edges, expand
from pipeline.targets import LabelledLinks, LabelledNodes, Links, read_labelled_links, read_labelled_nodes
from pipeline.trainer import Trainer

_TARGETS = 1024
"""Targets classified at a time."""


class _ClassObjective:
    """What both kinds share: class weights and evaluation."""

    same_order = True
    classes: tuple[str, ...]

    def __init__(self, trainer: Trainer, task: TaskPlan, sampler: Sampler) -> None:
        self._trainer, self._task, self._sampler = trainer, task, sampler
        self.metric = task.chosen_metric

    def targets(self, part: int, split: str) -> Any:
        raise NotImplementedError

    def rows_of(self, rows: Rows, targets: Any) -> tuple[Tensor, Tensor]:
        """What the head sees of targets: rows of (nodes, the same nodes), or of both ends."""
        raise NotImplementedError

    def prepare(self, head: nn.Module) -> None:
        """Give the head its class weights; a collective call."""
        if self._task.class_weights == "balanced":
            counts = torch.zeros(len(self.classes), dtype=torch.int64)
            for part in self._trainer.parts:
                labels = self.targets(part, "train").label
                counts += torch.bincount(labels, minlength=len(self.classes))
            torch.distributed.all_reduce(counts)
            cast(ClassHead, head).balance(counts.to(self._trainer.device))

    @torch.no_grad()
    def evaluate(self, rows: Rows, head: nn.Module, split: str, limit: int) -> dict[str, float]:
        """accuracy, macro_f1, micro_f1 and f1/CLASS over all trainers.

        `limit` > 0 looks at about that many targets of all parts together, chosen by hash.
        """
        trainer, confusion = self._trainer, Confusion(self.classes)
        found = {part: self.targets(part, split) for part in trainer.parts}
        share = chosen_share(trainer, sum(len(targets) for targets in found.values()), limit)
        for targets in found.values():
            chosen = targets.select(share(self._draws(targets, split)))
            for some, probability in self.classified(rows, head, chosen):
                confusion.add(some.label, probability.argmax(1))
        torch.distributed.all_reduce(confusion.totals)
        return confusion.values()

    @torch.no_grad()
    def classified(self, rows: Rows, head: nn.Module, targets: Any) -> Iterator[tuple[Any, Tensor]]:
        """Some targets at a time and the probabilities of their classes, float B x C, on the CPU."""
        training = head.training
        head.eval()
        for start in range(0, len(targets), _TARGETS):
            self._trainer.record.heartbeat("evaluate")
            some = targets.select(torch.arange(start, min(start + _TARGETS, len(targets))))
            logits = cast(ClassHead, head).logits(*self.rows_of(rows, some))
            yield some, logits.softmax(1).cpu()
        head.train(training)

    def _draws(self, targets: Any, split: str) -> Tensor:
        raise NotImplementedError

    def _columns(self, label: Tensor, probability: Tensor, split: Sequence[str | None]) -> dict[str, Any]:
        """Plain columns of a prediction file; no label is null."""
        best = probability.max(1)
        return {
            "predicted": [self.classes[c] for c in best.indices.tolist()],
            "probability": best.values.tolist(),
            "label": [self.classes[c] if c >= 0 else None for c in label.tolist()],
            "split": list(split),
        }


class NodeObjective(_ClassObjective):
    """Name the class of nodes of one type."""

    def __init__(self, trainer: Trainer, task: TaskPlan, sampler: Sampler) -> None:
        super().__init__(trainer, task, sampler)
        self.classes = trainer.graph.manifest.node_type(task.node_type).classes

    def targets(self, part: int, split: str) -> LabelledNodes:
        graph = self._trainer.graph
        return read_labelled_nodes(
            graph.folder, graph.manifest, part=part, node_type=self._task.node_type, split=split
        )

    def clusters(self, targets: LabelledNodes) -> Tensor:
        return self._trainer.graph.ids.cluster_of(self._task.node_type, targets.id)

    def batch(self, targets: LabelledNodes, part: int, key: int) -> Batch:
        ids, order = targets.id.sort()
        nothing = torch.zeros(0, dtype=torch.int64)
        name = self._task.node_type
        seeds = {name: ids} if len(ids) else {}
        nodes, layers = expand(self._trainer.graph, seeds, self._sampler, key=key)
        made = ClassTargets(torch.arange(len(ids)), nothing, targets.label[order])
        return Batch(nodes=nodes, layers=layers, classes={name: made} if len(ids) else {}, key=key)

    def rows_of(self, rows: Rows, targets: LabelledNodes) -> tuple[Tensor, Tensor]:
        found = rows(self._task.node_type, targets.id)
        return found, found

    def _draws(self, targets: LabelledNodes, split: str) -> Tensor:
        return hash_ids(key_of("evaluated", split), targets.id)

    def predictions(self, rows: Rows, head: nn.Module, part: int) -> Iterator[Found]:
        """Every node of the type, labelled or not."""
        name = self._task.node_type
        first, last = self._trainer.graph.manifest.part_range(name, part)
        label = torch.full((last - first,), -1)
        split = np.full(last - first, None, dtype=object)
        for word in SPLITS:
            known = self.targets(part, word)
            label[known.id - first] = known.label
            split[(known.id - first).numpy()] = word
        everyone = LabelledNodes(torch.arange(first, last), label)
        for some, probability in self.classified(rows, head, everyone):
            words = split[(some.id - first).numpy()].tolist()
            yield Found({"id": (name, some.id)}, self._columns(some.label, probability, words))


class EdgeObjective(_ClassObjective):
    """Name the class of edges of one relation (eq. 3). Messages run over the relation as well, but
    never over the batch's own targets, as they never run over validation and test edges."""

    def __init__(self, trainer: Trainer, task: TaskPlan, sampler: Sampler) -> None:
        super().__init__(trainer, task, sampler)
        self.relation = task.relations[0]
        self._info = trainer.graph.manifest.relation(self.relation)
        self.classes = self._info.classes

    def targets(self, part: int, split: str) -> LabelledLinks:
        graph = self._trainer.graph
        return read_labelled_links(
            graph.folder, graph.manifest, part=part, relation=self.relation, split=split
        )

    def clusters(self, targets: LabelledLinks) -> Tensor:
        return self._trainer.graph.ids.cluster_of(self._info.destination, targets.destination)

    def batch(self, targets: LabelledLinks, part: int, key: int) -> Batch:
        graph, info = self._trainer.graph, self._info
        ends: dict[str, list[Tensor]] = {}
        if len(targets):
            ends.setdefault(info.source, []).append(targets.source)
            ends.setdefault(info.destination, []).append(targets.destination)
        seeds = {name: torch.unique(torch.cat(ids)) for name, ids in ends.items()}
        links = Links(torch.zeros_like(targets.source), targets.source, targets.destination)
        excluded = excluded_edges(graph, [self.relation], links)
        nodes, layers = expand(graph, seeds, self._sampler, key=key, excluded=excluded)
        classes = {}
        if len(targets):
            classes[self.relation] = ClassTargets(
                torch.searchsorted(seeds[info.source], targets.source),
                torch.searchsorted(seeds[info.destination], targets.destination),
                targets.label,
            )
        return Batch(nodes=nodes, layers=layers, classes=classes, key=key)

    def rows_of(self, rows: Rows, targets: LabelledLinks) -> tuple[Tensor, Tensor]:
        return rows(self._info.source, targets.source), rows(self._info.destination, targets.destination)

    def _draws(self, targets: LabelledLinks, split: str) -> Tensor:
        return hash_ids(key_of("evaluated", split), targets.source, targets.destination)

    def predictions(self, rows: Rows, head: nn.Module, part: int) -> Iterator[Found]:
        """Every edge with a split and a class."""
        for word in SPLITS:
            for some, probability in self.classified(rows, head, self.targets(part, word)):
                yield Found(
                    {
                        "source": (self._info.source, some.source),
                        "destination": (self._info.destination, some.destination),
                    },
                    self._columns(some.label, probability, [word] * len(some)),
                )
