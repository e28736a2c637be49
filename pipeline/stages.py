"""The paper's stages as small differences over one loop: MLM, graph-aware LM, the LM tuned for a task,
GNN warm start with a frozen LM, joint fine-tuning. Owns what each trains on and is judged by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.aging import CacheState, first_state
from pipeline.batch import Batch
from pipeline.cache import EmbeddingCache
from pipeline.config import StagePlan, TaskPlan
from pipeline.fresh import FreshNodes
from pipeline.graph import Graph
from pipeline.hashing import key_of, permutation
from pipeline.labelling import EdgeObjective, NodeObjective
from pipeline.linking import LinkObjective
from pipeline.model import stage_task, text_types
from pipeline.objective import Objective, Rows
from pipeline.registry import Registry
from pipeline.sampling import Sampler, sampler_of
from pipeline.sharded import RowSource
from pipeline.slots import Slots
from pipeline.stored_texts import store_texts
from pipeline.targets import Texts, read_texts
from pipeline.trainer import Trainer


class StageRule(Protocol):
    """What distinguishes a stage; the loop does the rest."""

    trains_lm: bool
    one_order: bool
    """Whether every batch uses every trained parameter, so that all trainers go backward alike."""
    metric: str

    def begin(self) -> None:
        """Called once by all trainers together, before the optimiser is made."""
        ...

    def cache(self, state: CacheState | None) -> EmbeddingCache | None:
        """What the stage reads and writes embeddings by, if it does; `state` comes of a checkpoint of
        the stage. A collective call."""
        ...

    def targets(self, part: int) -> Any: ...

    def clusters(self, targets: Any) -> Tensor:
        """int64: the cluster of each target."""
        ...

    def batch(self, targets: Any, part: int, key: int) -> Batch:
        """A sampled batch without inputs."""
        ...

    def inputs(self, batch: Batch) -> Batch: ...

    def evaluate(self, split: str, limit: int) -> dict[str, float]:
        """Metrics on a split, over all trainers; `self.metric` is among them, larger is better."""
        ...


HELD_OUT = 1024
"""Held-out texts of an mlm stage that are fetched at a time."""
STAGES: Registry[Any] = Registry("stage")
OBJECTIVES: Mapping[str, type[Objective]] = {
    "link_prediction": LinkObjective,
    "node_classification": NodeObjective,
    "edge_classification": EdgeObjective,
}


@STAGES.add("mlm")
class MaskedLMStage:
    """Guess hidden tokens of the graph's own texts."""

    trains_lm = True
    metric = "negative_loss"

    def __init__(self, trainer: Trainer, stage: StagePlan) -> None:
        self._trainer, self._stage = trainer, stage
        self.one_order = len(trainer.texts) == 1
        self._types = trainer.graph.ids.types

    def begin(self) -> None:
        pass

    def cache(self, state: CacheState | None) -> EmbeddingCache | None:
        return None

    def targets(self, part: int) -> Texts:
        return read_texts(self._trainer.graph.manifest, part=part, split="train")

    def clusters(self, targets: Texts) -> Tensor:
        found = torch.zeros(len(targets), dtype=torch.int64)
        for number, name in enumerate(self._types):
            rows = targets.node_type == number
            found[rows] = self._trainer.graph.ids.cluster_of(name, targets.id[rows])
        return found

    def batch(self, targets: Texts, part: int, key: int) -> Batch:
        return Batch(nodes=self._nodes(targets), key=key)

    def _nodes(self, texts: Texts) -> dict[str, Tensor]:
        nodes = {name: texts.id[texts.node_type == n].sort().values for n, name in enumerate(self._types)}
        return {name: ids for name, ids in nodes.items() if len(ids)}

    def inputs(self, batch: Batch) -> Batch:
        inputs, encoders = self._trainer.inputs, self._trainer.model.text
        return inputs.hide_tokens(inputs.texts(batch), encoders, share=self._stage.mask)

    @torch.no_grad()
    def evaluate(self, split: str, limit: int) -> dict[str, float]:
        """Loss on the few texts held out, with the same holes at every evaluation."""
        trainer, sums = self._trainer, torch.zeros(2, dtype=torch.float64)
        trainer.model.eval()
        for part in trainer.parts:
            texts = read_texts(trainer.graph.manifest, part=part, split="valid")
            share = max(1, limit // trainer.graph.manifest.parts) if limit else None
            rows = permutation(key_of("held out", part), len(texts))[:share].sort().values
            for chosen in rows.split(HELD_OUT):
                trainer.record.heartbeat("evaluate")
                key = key_of(trainer.plan.seed, "held out", part)
                batch = self.inputs(Batch(nodes=self._nodes(texts.select(chosen)), key=key))
                loss, count = trainer.model(batch.to(trainer.device), self._stage)
                sums += torch.tensor([float(loss), float(count)])
        trainer.model.train()
        torch.distributed.all_reduce(sums)
        return {self.metric: -float(sums[0] / sums[1]) if sums[1] else math.nan}


class TaskStage:
    """What the stages that learn a task share."""

    trains_lm = True
    text_only = False

    def __init__(self, trainer: Trainer, stage: StagePlan) -> None:
        self._trainer, self._stage = trainer, stage
        plan, graph = trainer.plan, trainer.graph
        task = stage_task(stage, plan, graph.manifest)
        uses_edges = not self.text_only and trainer.model.encoder(stage.task).gnn.uses_edges
        sampler = sampler_of(graph, plan.model) if uses_edges else Sampler()
        self.objective = OBJECTIVES[task.kind](trainer, task, sampler)
        self.metric = self.objective.metric
        self.one_order = self.text_only and len(trainer.texts) == 1 and self.objective.same_order

    def begin(self) -> None:
        self.objective.prepare(self.head())

    def cache(self, state: CacheState | None) -> EmbeddingCache | None:
        return None

    def targets(self, part: int) -> Any:
        return self.objective.targets(part, "train")

    def clusters(self, targets: Any) -> Tensor:
        return self.objective.clusters(targets)

    def batch(self, targets: Any, part: int, key: int) -> Batch:
        return self.objective.batch(targets, part, key)

    def _encode_texts(self) -> None:
        store_texts(self._trainer, budget=self._stage.forward_tokens, frozen=not self.trains_lm)

    def tables(self) -> Mapping[str, RowSource]:
        """What targets are judged on: type -> representation of every node."""
        trainer, task = self._trainer, self._stage.task
        if trainer.has_room:
            self._encode_texts()
        known = trainer.known_labels(task)
        return trainer.inference.embed(task, known, budget=self._stage.forward_tokens)

    def graph_inputs(self, batch: Batch) -> Batch:
        """What the graph encoder sees beside texts."""
        known = self._trainer.known_labels(self._stage.task)
        batch = self._trainer.inputs.others(batch)
        return known.fill(batch) if known else batch

    def head(self) -> nn.Module:
        return self._trainer.model.head(self._stage.task)

    def evaluate(self, split: str, limit: int) -> dict[str, float]:
        return self.judge(self.tables(), split, limit)

    def judge(self, tables: Mapping[str, RowSource], split: str, limit: int) -> dict[str, float]:
        """`evaluate` on representations computed before."""
        return self.objective.evaluate(self.rows(tables), self.head(), split, limit)

    def rows(self, tables: Mapping[str, RowSource]) -> Rows:
        device = self._trainer.device
        return lambda node_type, ids: tables[node_type].read(ids).to(device).float()


@dataclass(frozen=True)
class _Encoding:
    """A RowSource of texts that are encoded whenever they are asked for: there is no room for all."""

    encoded: Rows
    node_type: str

    def read(self, ids: Tensor) -> Tensor:
        return self.encoded(self.node_type, ids)


@STAGES.add("graph_lm")
class GraphLMStage(TaskStage):
    """Link prediction on text embeddings alone (paper 4.4.1)."""

    text_only = True

    def inputs(self, batch: Batch) -> Batch:
        return self._trainer.inputs.texts(batch)

    def tables(self) -> Mapping[str, RowSource]:
        if not self._trainer.has_room:
            return {name: _Encoding(self._encoded, name) for name in self._trainer.texts}
        self._encode_texts()
        return self._trainer.texts

    def head(self) -> nn.Module:
        return self._trainer.model.text_head(self._stage.name)

    def _encoded(self, node_type: str, ids: Tensor) -> Tensor:
        return self._trainer.inference.encoded(node_type, ids, budget=self._stage.forward_tokens)


@STAGES.add("task_lm")
class TaskLMStage(GraphLMStage):
    """Fine-tune the LM for a task through the texts of its targets alone (paper, table 1, row 2)."""

    def evaluate(self, split: str, limit: int) -> dict[str, float]:
        """Encodes the texts of targets and candidates only: most of the graph need not be."""
        if self._trainer.plan.tasks[self._stage.task].kind == "link_prediction":
            return super().evaluate(split, limit)
        return self.objective.evaluate(self._encoded, self.head(), split, limit)


@STAGES.add("gnn_warm")
class WarmStage(TaskStage):
    """Train graph encoder and head while the LM is frozen: each text is encoded once."""

    trains_lm = False

    def inputs(self, batch: Batch) -> Batch:
        self._encode_texts()
        return self.graph_inputs(self._trainer.inputs.stored(batch))


@STAGES.add("joint")
class JointStage(TaskStage):
    """Fine-tune everything; gradients reach `train_nodes` texts of a batch, the others come from the
    cache or run forward only."""

    def cache(self, state: CacheState | None) -> EmbeddingCache | None:
        trainer, plan = self._trainer, self._trainer.plan.cache
        manifest = trainer.graph.manifest
        if plan.mode == "exact" or not trainer.texts:
            return None
        return EmbeddingCache(
            plan,
            trainer.texts,
            manifest,
            state=state or first_state(plan, self._stage.name, trainer.lm_version),
            parts_of=trainer.gather(list(trainer.parts)),
            keep_trained=not trainer.model.text.has_dropout,
            fresh=fresh_nodes(
                stage_task(self._stage, trainer.plan, manifest),
                trainer.graph,
                {name: table.slots for name, table in trainer.texts.items()},
            ),
        )

    def inputs(self, batch: Batch) -> Batch:
        trainer = self._trainer
        return self.graph_inputs(trainer.inputs.texts_with_budget(batch, self._stage, trainer.cache))


def fresh_nodes(task: TaskPlan, graph: Graph, slots: Mapping[str, Slots]) -> FreshNodes | None:
    """What a task's negatives ask of the cache, if they do."""
    if task.kind != "link_prediction" or task.negatives == "batch" or "fresh" not in task.negative_mix:
        return None
    return FreshNodes({name: graph.ids.count[name] for name in text_types(graph.manifest)}, slots)
