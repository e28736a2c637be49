"""Fills a sampled batch with what its nodes are made of: tokens or stored text embeddings,
numeric features, learnable rows. Each remote row and token list is fetched once per batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from pipeline.batch import Batch, Ragged
from pipeline.cache import EmbeddingCache
from pipeline.config import ModelPlan, StagePlan
from pipeline.graph import Graph
from pipeline.hashing import key_of
from pipeline.lm import TextEncoders
from pipeline.model import learnable_types, text_types
from pipeline.sharded import Embedding
from pipeline.text import mask_tokens
from pipeline.texttable import TextTable
from pipeline.trainrows import choose_train_rows


class Inputs:
    """Where inputs come from on this trainer."""

    def __init__(
        self,
        plan: ModelPlan,
        graph: Graph,
        tables: Mapping[str, TextTable],
        embeddings: Mapping[str, Embedding],
        device: torch.device,
    ) -> None:
        """`tables`: text type -> stored text embeddings, used by `stored`."""
        self._graph, self._tables, self._embeddings, self._device = graph, tables, embeddings, device
        self._text = text_types(graph.manifest)
        self._learnable = learnable_types(plan, graph.manifest)

    def texts(self, batch: Batch) -> Batch:
        """Tokens of every text node; gradients reach all of them."""
        rows = {t: torch.arange(len(batch.nodes[t])) for t in self._text_types(batch)}
        return self._with_tokens(replace(batch, train_rows=rows))

    def texts_with_budget(self, batch: Batch, stage: StagePlan, cache: EmbeddingCache | None) -> Batch:
        """Tokens of every text node that the cache does not know; gradients reach `train_nodes` of
        them."""
        types, manifest = self._text_types(batch), self._graph.manifest
        chosen = choose_train_rows(
            batch, manifest, types, budget=stage.train_nodes, choice=stage.train_choice
        )
        batch = replace(batch, train_rows=chosen.rows, train_scale=chosen.scale)
        return self._with_tokens(cache.find(batch) if cache is not None else batch)

    def _text_types(self, batch: Batch) -> list[str]:
        return [t for t in self._text if len(batch.nodes.get(t, ()))]

    def _with_tokens(self, batch: Batch) -> Batch:
        return replace(batch, tokens={t: self._tokens(batch, t) for t in batch.train_rows})

    def _tokens(self, batch: Batch, node_type: str) -> Ragged:
        """Token lists of a type's nodes; empty, and not fetched, for those with an embedding."""
        ids = batch.nodes[node_type]
        if node_type not in batch.hits:
            return self._graph.tokens(node_type, ids)
        wanted = torch.ones(len(ids), dtype=torch.bool)
        wanted[batch.hits[node_type]] = False
        found = self._graph.tokens(node_type, ids[wanted])
        lengths = torch.zeros(len(ids), dtype=torch.int64)
        lengths[wanted] = found.lengths()
        return Ragged(found.values, torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))

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
