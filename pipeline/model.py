"""`LMGNN`: text encoders, graph encoder per task, heads; which parameters each stage trains.

A forward pass turns a `Batch` into (sum of losses, how many terms are in the sum). Nothing here
knows of DGL, DeepSpeed or files, so a saved batch replays on any device.
Shape letters: N nodes of one type in a batch, M of them targets, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from partition.manifest import PartitionManifest
from pipeline.batch import Batch
from pipeline.config import ModelPlan, StagePlan, TrainPlan
from pipeline.gnn import build_gnn
from pipeline.lm import TextEncoders
from pipeline.naming import module_key
from pipeline.tasks import TASKS, LinkHead


def text_types(manifest: PartitionManifest) -> tuple[str, ...]:
    return tuple(t.name for t in manifest.node_types if t.text)


def learnable_types(manifest: PartitionManifest) -> tuple[str, ...]:
    """Types without text and without features: all they can have is a learnable embedding."""
    return tuple(t.name for t in manifest.node_types if not t.text and not t.feature_width and t.count)


def stage_relations(stage: StagePlan, plan: TrainPlan, manifest: PartitionManifest) -> tuple[str, ...]:
    """Relations that a link-predicting stage learns."""
    if stage.task:
        return plan.tasks[stage.task].relations
    if stage.relations:
        return stage.relations
    text = set(text_types(manifest))
    return tuple(
        r.name
        for r in manifest.relations
        if not r.is_reverse and r.source in text and r.destination in text and r.targets.get("train")
    )


class GraphEncoder(nn.Module):
    """What a node is made of -> hidden width -> GNN (eq. 1: h^0 is the text embedding, here
    together with features or a learnable row, projected to one width for all types)."""

    def __init__(self, plan: ModelPlan, manifest: PartitionManifest, text_widths: Mapping[str, int]) -> None:
        super().__init__()
        self.hidden = plan.hidden
        learnable = learnable_types(manifest)
        widths = {
            t.name: text_widths.get(t.name, 0) + t.feature_width + (plan.hidden if t.name in learnable else 0)
            for t in manifest.node_types
            if t.count
        }
        self.project = nn.ModuleDict(
            {module_key(n): nn.Linear(width, plan.hidden) for n, width in widths.items()}
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
            else:  # none of this type in the batch
                projected[node_type] = torch.zeros(len(ids), self.hidden, device=device)
        return projected

    def forward(self, batch: Batch, text: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Type -> M x hidden, for the batch's targets and their negatives."""
        return self.gnn(batch.layers, self.inputs(batch, text))


class LMGNN(nn.Module):
    """All that a plan can train. `stage` picks what takes part in a forward pass."""

    def __init__(self, plan: TrainPlan, manifest: PartitionManifest) -> None:
        super().__init__()
        self.plan = plan
        types = text_types(manifest)
        self.text = TextEncoders.from_plan(plan.model, types)
        widths = {t: self.text.of(t).width for t in types}
        self.ends = {r.name: (r.source, r.destination) for r in manifest.relations}
        self.encoders = nn.ModuleDict(
            {module_key(name): GraphEncoder(plan.model, manifest, widths) for name in plan.tasks}
        )
        self.heads = nn.ModuleDict(
            {
                module_key(name): TASKS[task.kind](task, task.relations, plan.model.hidden)
                for name, task in plan.tasks.items()
            }
        )
        self.text_heads = nn.ModuleDict()
        self.masked = nn.ModuleList()
        for stage in plan.stages:
            if stage.kind == "graph_lm":
                task = next(iter(plan.tasks.values())) if not stage.task else plan.tasks[stage.task]
                relations = stage_relations(stage, plan, manifest)
                self.text_heads[module_key(stage.name)] = TASKS[task.kind](
                    task, relations, max(widths.values()), scorer=task.text_scorer
                )
            elif stage.kind == "mlm":
                self.masked = nn.ModuleList([e.masked_lm() for e in self.text.distinct()])

    def encoder(self, task: str) -> GraphEncoder:
        return cast(GraphEncoder, self.encoders[module_key(task)])

    def head(self, task: str) -> LinkHead:
        return cast(LinkHead, self.heads[module_key(task)])

    def text_head(self, stage: str) -> LinkHead:
        """The head of a graph_lm stage, which scores text embeddings."""
        return cast(LinkHead, self.text_heads[module_key(stage)])

    def trained_parameters(self, stage: StagePlan) -> dict[str, list[nn.Parameter]]:
        """{"lm": …, "rest": …}: what the stage trains; everything else is frozen by this call."""
        modules: dict[str, list[nn.Module]] = {
            "mlm": [self.text, self.masked],
            "graph_lm": [self.text],
            "gnn_warm": [],
            "joint": [self.text],
        }
        chosen = list(modules[stage.kind])
        if stage.kind == "graph_lm":
            chosen += [self.text_head(stage.name)]
        elif stage.kind != "mlm":
            chosen += [self.encoder(stage.task), self.head(stage.task)]
        trained = {id(p) for module in chosen for p in module.parameters()}
        lm = {id(p) for module in (self.text, self.masked) for p in module.parameters()}
        groups: dict[str, list[nn.Parameter]] = {"lm": [], "rest": []}
        for parameter in self.parameters():
            parameter.requires_grad_(id(parameter) in trained)
            if id(parameter) in trained:
                groups["lm" if id(parameter) in lm else "rest"].append(parameter)
        return groups

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight once, although the LM and its mlm head share some."""
        yield from self.named_parameters()
        yield from self.named_buffers()

    def embed_texts(self, batch: Batch, *, forward_rows: int) -> dict[str, Tensor]:
        """Type -> N x D. Gradients reach `train_rows`; the other texts run forward only, in
        sub-batches of `forward_rows` (paper 4.4.2, "back-propagate on samples")."""
        embedded = dict(batch.embedded)
        for node_type, tokens in batch.tokens.items():
            encoder = self.text.of(node_type)
            rows = batch.train_rows[node_type]
            forward_only = torch.ones(len(tokens), dtype=torch.bool, device=rows.device)
            forward_only[rows] = False
            others = forward_only.nonzero().squeeze(1)
            trained = encoder(tokens.select(rows)) if len(rows) else None
            width = encoder.width
            dtype = trained.dtype if trained is not None else torch.float32
            out = torch.zeros(len(tokens), width, device=rows.device, dtype=dtype)
            if len(others):
                encoded = encoder.encode(tokens.select(others), rows_per_batch=forward_rows)
                out = out.index_copy(0, others, encoded.to(dtype))
            embedded[node_type] = out if trained is None else out.index_copy(0, rows, trained)
        return embedded

    def forward(self, batch: Batch, stage: StagePlan) -> tuple[Tensor, Tensor]:
        """(sum of losses, number of terms), both scalars."""
        if stage.kind == "mlm":
            return self._masked_loss(batch)
        text = self.embed_texts(batch, forward_rows=stage.forward_rows)
        if stage.kind == "graph_lm":
            return self.text_head(stage.name).loss(text, batch.links, self.ends)
        hidden = self.encoder(stage.task)(batch, text)
        return self.head(stage.task).loss(hidden, batch.links, self.ends)

    def _masked_loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        heads = {id(head.encoder): head for head in self.masked}
        parts = [
            heads[id(self.text.of(node_type))](tokens, batch.hidden[node_type])
            for node_type, tokens in batch.tokens.items()
            if len(tokens)
        ]
        if not parts:
            # Of a graph, since every trainer goes backward at every step.
            zero = torch.stack([p.sum() for p in self.parameters() if p.requires_grad]).sum() * 0.0
            return zero, zero.detach()
        return torch.stack([loss for loss, _ in parts]).sum(), torch.stack([n for _, n in parts]).sum()
