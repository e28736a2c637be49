"""`LMGNN`: text encoders, graph encoder per task, heads; which parameters each stage trains.

A forward pass turns a `Batch` into (sum of losses, how many terms are in the sum). Nothing here
knows of DGL, DeepSpeed or files, so a saved batch replays on any device.
Shape letters: N nodes of one type in a batch, M of them targets, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from partition.errors import UsageError
from partition.manifest import PartitionManifest, RelationInfo
from pipeline.batch import Batch
from pipeline.config import ModelPlan, StagePlan, TaskPlan, TrainPlan
from pipeline.gnn import build_gnn
from pipeline.grouping import split_texts
from pipeline.heads import HEADS, as_head
from pipeline.known_labels import as_features, feature_widths, known_shapes
from pipeline.lm import TextEncoders
from pipeline.naming import module_key

TEXT_ONLY = ("graph_lm", "task_lm")
"""Kinds of stages that look at texts alone."""


def text_types(manifest: PartitionManifest) -> tuple[str, ...]:
    return tuple(t.name for t in manifest.node_types if t.text)


def learnable_types(plan: ModelPlan, manifest: PartitionManifest) -> tuple[str, ...]:
    """Types without text and without features, whose nodes have learnable embeddings instead, unless
    the plan leaves them bare."""
    empty = [t for t in manifest.node_types if not t.text and not t.feature_width and t.count]
    return tuple(t.name for t in empty if t.name not in plan.bare)


def stage_task(stage: StagePlan, plan: TrainPlan, manifest: PartitionManifest) -> TaskPlan:
    """What a stage learns, mlm excepted. A graph_lm stage without a task predicts the links of its
    relations, or of all that join texts, with the settings of the plan's first link task."""
    if stage.task:
        task = plan.tasks[stage.task]
    else:
        text = set(text_types(manifest))
        relations = stage.relations or tuple(
            r.name
            for r in manifest.relations
            if not r.is_reverse and {r.source, r.destination} <= text and _can_be_learnt(r)
        )
        if not relations:
            raise UsageError(
                f"stages.{stage.name}: no relation joins two node types with text", hint="leave it out"
            )
        links = [t for t in plan.tasks.values() if t.kind == "link_prediction"]
        task = replace(links[0], relations=relations) if links else TaskPlan(relations=relations)
    negatives = stage.negatives or task.negatives
    # The ends of a batch are no draws that could be corrected.
    return replace(task, negatives=negatives, log_q=task.log_q and negatives != "batch")


def _can_be_learnt(relation: RelationInfo) -> bool:
    """With training edges, or without a split column: then all edges are taken."""
    return bool(relation.targets.get("train") or (not relation.targets and relation.count))


class GraphEncoder(nn.Module):
    """What a node is made of -> hidden width -> GNN (eq. 1: h^0 is the text embedding, here
    together with features or a learnable row, projected to one width for all types)."""

    def __init__(
        self,
        plan: ModelPlan,
        manifest: PartitionManifest,
        text_widths: Mapping[str, int],
        known_widths: Mapping[str, int],
    ) -> None:
        """Widths by node type: of text embeddings, and of what known labels become."""
        super().__init__()
        self.hidden = plan.hidden
        learnable = learnable_types(plan, manifest)
        widths = {
            t.name: text_widths.get(t.name, 0) + t.feature_width + (plan.hidden if t.name in learnable else 0)
            for t in manifest.node_types
            if t.count and t.name not in plan.bare
        }
        self.bare = nn.ParameterDict(
            {module_key(name): nn.Parameter(0.1 * torch.randn(plan.hidden)) for name in plan.bare}
        )
        self.project = nn.ModuleDict(
            {module_key(n): nn.Linear(width, plan.hidden) for n, width in widths.items()}
        )
        self.known = nn.ModuleDict(
            {module_key(n): nn.Linear(width, plan.hidden, bias=False) for n, width in known_widths.items()}
        )
        self.gnn = build_gnn(
            plan,
            [t.name for t in manifest.node_types],
            [(r.name, r.source, r.destination) for r in manifest.relations],
        )

    def inputs(self, batch: Batch, text: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Type -> N x hidden."""
        device = next(self.parameters()).device
        projected = {}
        for node_type, ids in batch.nodes.items():
            given = (text, batch.features, batch.learnable)
            parts = [source[node_type].float() for source in given if node_type in source]
            if parts:
                projected[node_type] = self.project[module_key(node_type)](torch.cat(parts, dim=1))
            elif module_key(node_type) in self.bare:
                projected[node_type] = self.bare[module_key(node_type)].expand(len(ids), -1)
            else:  # none of this type in the batch
                projected[node_type] = torch.zeros(len(ids), self.hidden, device=device)
            if node_type in batch.known:
                told = self.known[module_key(node_type)](as_features(batch.known[node_type]))
                projected[node_type] = projected[node_type] + told
        return projected

    def forward(self, batch: Batch, text: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Type -> M x hidden, for the batch's targets and their negatives."""
        return self.gnn(batch.layers, self.inputs(batch, text))


class LMGNN(nn.Module):
    """All that a plan can train. `stage` picks what takes part in a forward pass."""

    def __init__(self, plan: TrainPlan, manifest: PartitionManifest) -> None:
        super().__init__()
        self.plan = plan
        self.computed: dict[str, Tensor] = {}
        """Text embeddings of the last forward pass: type -> N x D."""
        self.forward_only: dict[str, Tensor] = {}
        """Which of them ran forward only in it, and so without dropout: type -> bool N."""
        types = text_types(manifest)
        self.text = TextEncoders.from_plan(plan.model, types)
        widths = {t: self.text.of(t).width for t in types}
        if plan.engine.checkpoint_activations:
            for encoder in self.text.distinct():
                encoder.checkpoint_activations()
        self.ends = {r.name: (r.source, r.destination) for r in manifest.relations}
        self.classes = {
            name: manifest.node_type(task.node_type).classes
            if task.node_type
            else manifest.relation(task.relations[0]).classes
            for name, task in plan.tasks.items()
            if task.kind != "link_prediction"
        }
        """Task -> names of its classes, by label; of tasks that have some."""
        self.encoders = nn.ModuleDict(
            {
                module_key(name): GraphEncoder(
                    plan.model.of_task(name), manifest, widths, feature_widths(known_shapes(task, manifest))
                )
                for name, task in plan.tasks.items()
            }
        )
        self.heads = nn.ModuleDict(
            {
                module_key(name): HEADS[task.kind](task, manifest, plan.model.hidden, text=False)
                for name, task in plan.tasks.items()
            }
        )
        self.text_heads = nn.ModuleDict()
        self.masked = nn.ModuleList()
        for stage in plan.stages:
            if stage.kind in TEXT_ONLY:
                task = stage_task(stage, plan, manifest)
                head = HEADS[task.kind](task, manifest, max(widths.values()), text=True)
                self.text_heads[module_key(stage.name)] = head
            elif stage.kind == "mlm":
                self.masked = nn.ModuleList([e.masked_lm() for e in self.text.distinct()])

    def encoder(self, task: str) -> GraphEncoder:
        return cast(GraphEncoder, self.encoders[module_key(task)])

    def head(self, task: str) -> nn.Module:
        return self.heads[module_key(task)]

    def text_head(self, stage: str) -> nn.Module:
        """The head of a graph_lm or task_lm stage, which looks at text embeddings alone."""
        return self.text_heads[module_key(stage)]

    def trained_parameters(self, stage: StagePlan) -> dict[str, list[nn.Parameter]]:
        """{"lm": …, "rest": …}: what the stage trains; everything else is frozen by this call."""
        chosen: list[nn.Module] = [] if stage.kind == "gnn_warm" else [self.text]
        if stage.kind == "mlm":
            chosen += [self.masked]
        elif stage.kind in TEXT_ONLY:
            chosen += [self.text_head(stage.name)]
        else:
            chosen += [self.encoder(stage.task), self.head(stage.task)]
        trained = {id(p) for module in chosen for p in module.parameters()}
        lm = {id(p) for module in (self.text, self.masked) for p in module.parameters()}
        groups: dict[str, list[nn.Parameter]] = {"lm": [], "rest": []}
        for parameter in self.parameters():
            parameter.requires_grad_(id(parameter) in trained)
            if id(parameter) in trained:
                groups["lm" if id(parameter) in lm else "rest"].append(parameter)
        return groups

    def shaped_by_classes(self, task: str) -> list[str]:
        """Prefixes of the names of weights that mean something for a task's own classes only."""
        stages = [s.name for s in self.plan.stages if s.task == task and s.kind in TEXT_ONLY]
        key = module_key(task)
        return [
            f"heads.{key}.",
            f"encoders.{key}.known.",
            *(f"text_heads.{module_key(s)}." for s in stages),
        ]

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight once, although the LM and its mlm head share some."""
        yield from self.named_parameters()
        yield from self.named_buffers()

    def embed_texts(self, batch: Batch, *, budget: int) -> dict[str, Tensor]:
        """Type -> N x D. Gradients reach `train_rows`; rows of `hits` are given; the other texts run
        forward only, in sub-batches of `budget` tokens (paper 4.4.2, "back-propagate on samples"). Equal
        texts of a type run once: one that equals a trained text shares its vector and adds to its
        gradient."""
        embedded, self.forward_only = dict(batch.embedded), {}
        for node_type, tokens in batch.tokens.items():
            encoder, split = self.text.of(node_type), split_texts(tokens, batch.train_rows[node_type])
            vectors = [torch.zeros(0, encoder.width, device=split.row.device)]
            if len(split.trained):
                vectors = [_scaled(encoder(tokens.select(split.trained), budget), batch.train_scale)]
            if len(split.forward):
                encoded = encoder.encode(tokens.select(split.forward), budget)
                vectors.append(encoded.to(vectors[0].dtype))
            rows = torch.cat(vectors).index_select(0, split.row)
            if batch.train_scale != 1.0:
                # Unbiased only if no other row of an equal text adds to the gradient.
                chosen = torch.zeros(len(tokens), 1, dtype=torch.bool, device=rows.device)
                chosen[batch.train_rows[node_type]] = True
                rows = torch.where(chosen, rows, rows.detach())
            self.forward_only[node_type] = split.row >= len(split.trained)
            if node_type in batch.hits:  # their token lists are empty
                hits = batch.hits[node_type]
                rows = rows.index_copy(0, hits, batch.embedded[node_type].to(rows.dtype))
                self.forward_only[node_type][hits] = False
            embedded[node_type] = rows
        return embedded

    def forward(self, batch: Batch, stage: StagePlan) -> tuple[Tensor, Tensor]:
        """(sum of losses, number of terms), both scalars."""
        if stage.kind == "mlm":
            return self._masked_loss(batch, stage.forward_tokens)
        text = self.embed_texts(batch, budget=stage.forward_tokens)
        self.computed = {name: rows.detach() for name, rows in text.items()}
        if stage.kind in TEXT_ONLY:
            return as_head(self.text_head(stage.name)).loss(text, batch, self.ends)
        hidden = self.encoder(stage.task)(batch, text)
        return as_head(self.head(stage.task)).loss(hidden, batch, self.ends)

    def _masked_loss(self, batch: Batch, budget: int) -> tuple[Tensor, Tensor]:
        heads = {id(head.encoder): head for head in self.masked}
        parts = [
            heads[id(self.text.of(node_type))](tokens, batch.hidden[node_type], budget)
            for node_type, tokens in batch.tokens.items()
            if len(tokens)
        ]
        if not parts:
            # Of a graph, since every trainer goes backward at every step.
            zero = torch.stack([p.sum() for p in self.parameters() if p.requires_grad]).sum() * 0.0
            return zero, zero.detach()
        return torch.stack([loss for loss, _ in parts]).sum(), torch.stack([n for _, n in parts]).sum()


def _scaled(rows: Tensor, scale: float) -> Tensor:
    """The same rows; their gradients are multiplied by `scale`."""
    if rows.requires_grad and scale != 1.0:
        rows.register_hook(lambda gradient: gradient * scale)
    return rows
