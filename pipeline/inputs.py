"""Fills a sampled batch with what its nodes are made of: tokens or stored text embeddings,
numeric features, learnable rows. Each remote row and token list is fetched once per batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from pipeline.batch import Batch, Ragged
from pipeline.config import ModelPlan, StagePlan
from pipeline.graph import Embedding, Graph, Table
from pipeline.hashing import key_of
from pipeline.lm import TextEncoders
from pipeline.model import learnable_types, text_types
from pipeline.text import mask_tokens
from pipeline.trainrows import choose_train_rows


class Inputs:
    """Where inputs come from on this trainer."""

    def __init__(
        self,
        plan: ModelPlan,
        graph: Graph,
        tables: Mapping[str, Table],
        embeddings: Mapping[str, Embedding],
        device: torch.device,
    ) -> None:
        """`tables`: text type -> stored text embeddings, used by `stored`."""
        self._graph, self._tables, self._embeddings, self._device = graph, tables, embeddings, device
        self._text = text_types(graph.manifest)
        self._learnable = learnable_types(plan, graph.manifest)

    def texts(self, batch: Batch) -> Batch:
        """Tokens of every text node; gradients reach all of them."""
        types = self._text_types(batch)
        rows = {t: torch.arange(len(batch.nodes[t])) for t in types}
        return replace(batch, tokens=self._tokens(batch, types), train_rows=rows)

    def texts_with_budget(self, batch: Batch, stage: StagePlan) -> Batch:
        """Tokens of every text node; gradients reach `train_nodes` of them."""
        types = self._text_types(batch)
        chosen = choose_train_rows(
            batch, self._graph.manifest, types, budget=stage.train_nodes, choice=stage.train_choice
        )
        return replace(
            batch, tokens=self._tokens(batch, types), train_rows=chosen.rows, train_scale=chosen.scale
        )

    def _text_types(self, batch: Batch) -> list[str]:
        return [t for t in self._text if len(batch.nodes.get(t, ()))]

    def _tokens(self, batch: Batch, types: Sequence[str]) -> dict[str, Ragged]:
        return {t: self._graph.tokens(t, batch.nodes[t]) for t in types}

    def hide_tokens(self, batch: Batch, encoders: TextEncoders, *, share: float) -> Batch:
        """Hide a share of the batch's tokens, for masked LM."""
        tokens, hidden = {}, {}
        for node_type, lists in batch.tokens.items():
            encoder = encoders.of(node_type)
            tokens[node_type], hidden[node_type] = mask_tokens(
                lists,
                batch.nodes[node_type],
                key=key_of(batch.key, node_type),
                share=share,
                special_ids=encoder.special_ids,
                mask_id=encoder.mask_id,
                vocabulary=encoder.vocabulary,
            )
        return replace(batch, tokens=tokens, hidden=hidden)

    def stored(self, batch: Batch) -> Batch:
        """Text embeddings that were computed before."""
        types = self._text_types(batch)
        return replace(batch, embedded={t: self._tables[t].read(batch.nodes[t]) for t in types})

    def others(self, batch: Batch) -> Batch:
        """Numeric features and learnable rows."""
        graph, nodes = self._graph, batch.nodes
        featured = [t.name for t in graph.manifest.node_types if t.feature_width]
        return replace(
            batch,
            features={t: graph.features(t, nodes[t]) for t in featured if len(nodes.get(t, ()))},
            learnable={
                t: self._embeddings[t].read(nodes[t], self._device)
                for t in self._learnable
                if len(nodes.get(t, ()))
            },
        )
