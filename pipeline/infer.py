"""Text embeddings and layer-wise inference over the whole graph, and evaluation on top of them.

Each trainer computes the rows of its own parts; each text is encoded once and each layer sees every
stored neighbour, so nothing is sampled and nothing is computed twice. Never trains.
Shape letters: B targets, K candidates, D width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from pipeline.batch import Batch
from pipeline.candidates import eval_candidates
from pipeline.config import TaskPlan
from pipeline.graph import Graph, Table
from pipeline.hashing import hash_ids, key_of
from pipeline.inputs import Inputs
from pipeline.model import LMGNN, GraphEncoder
from pipeline.sampling import expand
from pipeline.targets import Links, read_links
from pipeline.tasks import LinkHead, RankSums, rank_of_true

_TEXTS = 1024
"""Texts fetched at a time."""
_NODES = 1024
"""Nodes whose full neighbourhood is fetched at a time."""
_TARGETS = 256
"""Targets scored at a time."""


class Inference:
    """Whole-graph passes of one trainer; every method is called by all trainers together."""

    def __init__(
        self,
        graph: Graph,
        model: LMGNN,
        inputs: Inputs,
        texts: Mapping[str, Table],
        parts: Sequence[int],
        device: torch.device,
        *,
        alive: Callable[[], None],
    ) -> None:
        """`texts`: text type -> where text embeddings are stored; `alive` is called now and then."""
        self._graph, self._model, self._inputs, self._texts = graph, model, inputs, texts
        self._parts, self._device, self._alive = parts, device, alive
        self._text_version: object = None
        self.encoded_texts = 0
        """Texts that this trainer has encoded so far."""

    def encode_texts(self, *, version: object, rows_per_batch: int) -> None:
        """Store the embedding of every text; skipped when `version` says that nothing changed."""
        if version == self._text_version:
            return
        for node_type, table in self._texts.items():
            encoder = self._model.text.of(node_type)
            for ids in self._own(node_type, _TEXTS):
                tokens = self._graph.tokens(node_type, ids)
                batch = Batch(nodes={node_type: ids}, tokens={node_type: tokens}).to(self._device)
                rows = encoder.encode(batch.tokens[node_type], rows_per_batch=rows_per_batch)
                table.write(int(ids[0]), rows.float().cpu().to(table.dtype))
                self.encoded_texts += len(ids)
        self._meet()
        self._text_version = version

    @torch.no_grad()
    def embed(self, task: str) -> dict[str, Table]:
        """Final representation of every node under a task's graph encoder: type -> D = hidden."""
        encoder = self._model.encoder(task)
        encoder.eval()
        tables = self._hidden_tables(0, encoder.hidden)
        for node_type in tables:
            for ids in self._own(node_type, _NODES):
                batch = self._inputs.others(self._inputs.stored(Batch(nodes={node_type: ids})))
                batch = batch.to(self._device)
                rows = encoder.inputs(batch, batch.embedded)[node_type]
                tables[node_type].write(int(ids[0]), rows.float().cpu())
        self._meet()
        for index in range(len(encoder.gnn.layers)):
            tables = self._layer(encoder, index, tables)
        encoder.train()
        return tables

    def _layer(self, encoder: GraphEncoder, index: int, below: Mapping[str, Table]) -> dict[str, Table]:
        tables = self._hidden_tables(index + 1, encoder.hidden)
        everyone = torch.full((len(self._graph.relations),), -1 if encoder.gnn.uses_edges else 0)
        nothing = torch.zeros(0, dtype=torch.int64)
        for node_type, table in tables.items():
            for ids in self._own(node_type, _NODES):
                nodes, layers = expand(self._graph, {node_type: ids}, [everyone], key=0, excluded=nothing)
                batch = Batch(
                    nodes=nodes,
                    layers=layers,
                    embedded={t: below[t].read(n) for t, n in nodes.items() if len(n)},
                ).to(self._device)
                rows = encoder.gnn.step(index, batch.layers[0], self._zeros_where_missing(batch, encoder))
                table.write(int(ids[0]), rows[node_type].float().cpu())
        self._meet()
        return tables

    def _zeros_where_missing(self, batch: Batch, encoder: GraphEncoder) -> dict[str, Tensor]:
        return {
            t: batch.embedded.get(t, torch.zeros(0, encoder.hidden, device=self._device)) for t in batch.nodes
        }

    def _hidden_tables(self, layer: int, width: int) -> dict[str, Table]:
        return {
            t.name: self._graph.table(f"hidden{layer}-{width}", t.name, width, torch.float32)
            for t in self._graph.manifest.node_types
            if t.count
        }

    def _meet(self) -> None:
        """Wait for the other trainers, showing that this one lives."""
        arrival = torch.distributed.barrier(async_op=True)
        while not arrival.is_completed():
            self._alive()
            time.sleep(0.001)
        arrival.wait()

    def _own(self, node_type: str, rows: int) -> Iterator[Tensor]:
        """Ids of this trainer's parts, `rows` at a time; never across parts, so that what is
        computed together does not depend on how many trainers there are."""
        for part in self._parts:
            first, last = self._graph.manifest.part_range(node_type, part)
            for start in range(first, last, rows):
                self._alive()
                yield torch.arange(start, min(start + rows, last))

    @torch.no_grad()
    def rank_links(
        self,
        tables: Mapping[str, Table],
        head: LinkHead,
        task: TaskPlan,
        relations: Sequence[str],
        *,
        split: str,
        limit: int,
        seed: int,
    ) -> dict[str, float]:
        """mrr and hits@k of true tails among `task.eval_negatives` uniform ones, over all trainers.

        `limit` > 0 looks at that many targets of all parts together, chosen by hash.
        """
        sums = RankSums()
        head.eval()
        for part in self._parts:
            links = read_links(
                self._graph.folder, self._graph.manifest, part=part, relations=relations, split=split
            )
            links = self._limited(links, relations, split, limit)
            for number, name in enumerate(relations):
                chosen = links.select((links.relation == number).nonzero().squeeze(1))
                for start in range(0, len(chosen), _TARGETS):
                    self._alive()
                    rows = torch.arange(start, min(start + _TARGETS, len(chosen)))
                    ranks = self._ranks(tables, head, task, name, chosen.select(rows), split, seed)
                    sums.add(ranks)
        head.train()
        torch.distributed.all_reduce(sums.totals)
        return sums.values()

    def _limited(self, links: Links, relations: Sequence[str], split: str, limit: int) -> Links:
        manifest = self._graph.manifest
        total = sum(manifest.relation(name).targets.get(split, 0) for name in relations)
        if not limit or total <= limit:
            return links
        draws = hash_ids(key_of("evaluated", split), links.relation, links.source, links.destination)
        share = (draws & 0x3FFFFFFF).to(torch.float64) / 0x40000000
        return links.select((share < limit / total).nonzero().squeeze(1))

    def _ranks(
        self,
        tables: Mapping[str, Table],
        head: LinkHead,
        task: TaskPlan,
        relation: str,
        links: Links,
        split: str,
        seed: int,
    ) -> Tensor:
        """float B: rank of each true tail, ties counted half."""
        info = self._graph.manifest.relation(relation)
        others = eval_candidates(
            seed, relation, split, links.source, links.destination, task.eval_negatives,
            self._graph.ids.count[info.destination],
        )  # fmt: skip
        everyone = torch.cat([links.destination[:, None], others], dim=1)
        distinct, position = torch.unique(everyone, return_inverse=True)
        tails = tables[info.destination].read(distinct).to(self._device).float()
        heads = tables[info.source].read(links.source).to(self._device).float()
        scores = head.score(relation, heads, tails[position.to(self._device)])
        return rank_of_true(scores[:, 0], scores[:, 1:], torch.ones_like(scores[:, 1:])).cpu()
