"""Text embeddings and layer-wise inference over the whole graph.

Each trainer computes the rows of its own parts; each text is encoded once and each layer sees every
stored neighbour, so nothing is sampled and nothing is computed twice. Never trains.
Shape letter: D width.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from partition.errors import DiskFullError
from pipeline.batch import Batch
from pipeline.graph import Graph
from pipeline.inputs import Inputs
from pipeline.kept_texts import KeptTexts, is_kept, keep_texts, text_hashes
from pipeline.known_labels import KnownLabels
from pipeline.model import LMGNN, GraphEncoder
from pipeline.records import Stamp
from pipeline.sampling import Sampler, expand
from pipeline.sharded import Table
from pipeline.texttable import TextTable

TEXTS = 8192
"""Texts fetched at a time: enough of each length for sub-batches with little padding."""
_NODES = 1024
"""Nodes whose full neighbourhood is fetched at a time."""
_log = logging.getLogger(__name__)


class Inference:
    """Whole-graph passes of one trainer; every method is called by all trainers together."""

    def __init__(
        self,
        graph: Graph,
        model: LMGNN,
        inputs: Inputs,
        texts: Mapping[str, TextTable],
        parts: Sequence[int],
        device: torch.device,
        *,
        runs: Sequence[Path],
        alive: Callable[[], None],
    ) -> None:
        """`texts`: text type -> where text embeddings are stored; `runs`: this run's folder, then others
        whose kept texts count; `alive` is called now and then."""
        self._graph, self._model, self._inputs, self._texts = graph, model, inputs, texts
        self._parts, self._device, self._alive = parts, device, alive
        self._runs, self._text_version, self._kept_version = runs, "", ""
        self._incomplete: set[tuple[str, int]] = set()
        """Type and part of texts that were not all found in files, whether there are any or not."""
        self.encoded_texts = 0
        """Texts that this trainer has encoded so far."""

    def encode_texts(self, *, version: str, stamp: Stamp, budget: int) -> dict[str, tuple[int, int]]:
        """Store the embedding of every text with a stamp: those kept by a run as they are, the others
        encoded, `budget` tokens at a time. Type -> texts of this trainer's parts (taken over, encoded);
        skipped, and empty, when `version`, that of the LM, says that nothing changed."""
        if version == self._text_version:
            return {}
        self._incomplete.clear()
        counts = {}
        for node_type, table in self._texts.items():
            kept, taken, encoded = KeptTexts(self._runs, version, node_type, table.width), 0, 0
            for part in self._parts:
                missing = self._take_over(node_type, part, kept, stamp)
                if len(missing):
                    self._incomplete.add((node_type, part))
                for ids in missing.split(TEXTS) if len(missing) else ():
                    table.write(ids, self.encoded(node_type, ids, budget=budget).cpu(), stamp)
                first, last = self._graph.manifest.part_range(node_type, part)
                taken, encoded = taken + last - first - len(missing), encoded + len(missing)
            self.encoded_texts += encoded
            counts[node_type] = taken, encoded
        self._meet()
        self._text_version = version
        return counts

    def _take_over(self, node_type: str, part: int, kept: KeptTexts, stamp: Stamp) -> Tensor:
        """Store those of a part's texts that are kept; int64, ids of the others."""
        start, end = self._graph.manifest.part_range(node_type, part)
        if kept.empty:
            return torch.arange(start, end)
        missing = [torch.zeros(0, dtype=torch.int64)]
        for ids in self._of_part(node_type, part, TEXTS):
            tokens = self._graph.tokens(node_type, ids)
            found, rows = kept.find(tokens, part=part, first=int(ids[0]) - start)
            self._texts[node_type].write(ids[found], rows, stamp)
            missing.append(ids[~found])
        return torch.cat(missing)

    def keep_texts(self, version: str, node_types: Sequence[str]) -> bool:
        """Leave the embeddings of some types in the run's folder, if all that is stored is of this `version`
        of the LM. Whether that was done now. Where it fails a warning says why: training needs none of it."""
        if version != self._text_version or version == self._kept_version:
            return False
        try:
            for node_type, part in product(node_types, self._parts):
                there = is_kept(self._runs[0], version, node_type, part)
                if not there or (node_type, part) in self._incomplete:
                    self._keep_part(version, node_type, part)
        except (DiskFullError, OSError) as error:
            _log.warning("text embeddings are not kept for later runs: %s", error)
        self._meet()
        self._kept_version = version
        return True

    def _keep_part(self, version: str, node_type: str, part: int) -> None:
        table, hashes = self._texts[node_type], [torch.zeros(0, 2, dtype=torch.int64)]
        for ids in self._of_part(node_type, part, TEXTS):
            hashes.append(text_hashes(self._graph.tokens(node_type, ids)))
        blocks = (table.read(ids) for ids in self._of_part(node_type, part, TEXTS))
        place = self._runs[0], version, node_type, part
        keep_texts(*place, hashes=torch.cat(hashes), blocks=blocks, width=table.width)

    def forget_texts(self) -> None:
        """To be called when stored embeddings were overwritten by others than those of one model."""
        self._text_version = ""

    @torch.no_grad()
    def encoded(self, node_type: str, ids: Tensor, *, budget: int) -> Tensor:
        """float32 embeddings of some texts under the LM as it is, on the device; nothing is stored."""
        tokens = self._graph.tokens(node_type, ids)
        batch = Batch(nodes={node_type: ids}, tokens={node_type: tokens}).to(self._device)
        encoder = self._model.text.of(node_type)
        return encoder.encode(batch.tokens[node_type], budget, alive=self._alive).float()

    @torch.no_grad()
    def embed(self, task: str, known: KnownLabels | None, *, budget: int) -> dict[str, Table]:
        """Final representation of every node under a task's graph encoder: type -> D = hidden.

        `known`: what the encoder sees of training labels. Texts of types whose embeddings are not all
        stored are encoded here, `budget` tokens at a time."""
        encoder = self._model.encoder(task)
        encoder.eval()
        tables = self._hidden_tables(0, encoder.hidden)
        for node_type in tables:
            for ids in self._own(node_type, _NODES):
                batch = self._inputs.others(self._with_texts(node_type, ids, budget))
                batch = (known.fill(batch) if known else batch).to(self._device)
                rows = encoder.inputs(batch, batch.embedded)[node_type]
                tables[node_type].write(int(ids[0]), rows.float().cpu())
        self._meet()
        for index in range(len(encoder.gnn.layers)):
            tables = self._layer(encoder, index, tables)
        encoder.train()
        return tables

    def _with_texts(self, node_type: str, ids: Tensor, budget: int) -> Batch:
        """Nodes of one type with the embeddings of their texts, if they have some."""
        batch = Batch(nodes={node_type: ids})
        if node_type not in self._texts or self._texts[node_type].slots.complete:
            return self._inputs.stored(batch)
        self.encoded_texts += len(ids)
        return replace(batch, embedded={node_type: self.encoded(node_type, ids, budget=budget)})

    def _layer(self, encoder: GraphEncoder, index: int, below: Mapping[str, Table]) -> dict[str, Table]:
        tables = self._hidden_tables(index + 1, encoder.hidden)
        everyone = torch.full((len(self._graph.relations),), -1 if encoder.gnn.uses_edges else 0)
        sampler = Sampler((everyone,))
        for node_type, table in tables.items():
            for ids in self._own(node_type, _NODES):
                nodes, layers = expand(self._graph, {node_type: ids}, sampler, key=0)
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
            yield from self._of_part(node_type, part, rows)

    def _of_part(self, node_type: str, part: int, rows: int) -> Iterator[Tensor]:
        first, last = self._graph.manifest.part_range(node_type, part)
        for start in range(first, last, rows):
            self._alive()
            yield torch.arange(start, min(start + rows, last))
