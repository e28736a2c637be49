"""Text embeddings shared between the batches and the trainers of a joint stage (paper 4.4.2, "Cache BERT
embeddings"), with a bound on how old they may be.

At each step a batch's texts are looked up in the stored embeddings (texttable.py). Those young enough
need no language model; texts that gradients reach never come from the store; the oldest share of
the others is computed again, which shows how far embeddings drift, and the bound follows the drift.
What was computed goes to the trainer whose part owns the node; it alone writes, and all see it from
the next step on. So what is found depends neither on timing nor on who asks.
Shape letters: N texts of a batch, H found among them, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from partition.manifest import PartitionManifest
from pipeline.batch import Batch
from pipeline.config import CachePlan
from pipeline.exchange import Exchange, first_of_each
from pipeline.hashing import hash_ids, key_of
from pipeline.records import Stamp, pack
from pipeline.texttable import TextTable

_ENOUGH = 64
"""Recomputed texts, of all trainers together, before the bound follows the drift."""
_TAIL = 0.05
"""The bound halves when more than this share of the recomputed texts has drifted too far."""

_FOR_EVER = 1 << 31


@dataclass
class CacheState:
    """What a checkpoint must hold beside the records."""

    model: int
    """Stamp.model of what the stage computes itself."""
    start: int
    """Stamp.model of what the model that the stage starts from computed: age 0 at the first step."""
    max_age: int
    """The bound in steps, as it is now."""
    steps: int = 0
    """That the stage has made."""
    drifted: int = 0
    """Recomputed texts since the bound was last looked at that had drifted too far."""
    recomputed: int = 0


def model_number(*labels: int | str) -> int:
    """A Stamp.model for whatever the labels name."""
    return key_of("model", *labels) & 0x7FFFFFFF


def first_state(plan: CachePlan, stage: str, lm_version: str) -> CacheState:
    """Of a stage that starts from the language model `lm_version`."""
    endless = plan.mode in ("unbounded", "frozen")
    return CacheState(
        model=model_number(stage, lm_version),
        start=model_number(lm_version),
        max_age=_FOR_EVER if endless else plan.max_age,
    )


class EmbeddingCache:
    """The cache of one stage on one trainer."""

    def __init__(
        self,
        plan: CachePlan,
        tables: Mapping[str, TextTable],
        manifest: PartitionManifest,
        *,
        state: CacheState,
        parts_of: Sequence[Sequence[int]],
        keep_trained: bool,
    ) -> None:
        """`parts_of`: parts of every trainer, by rank. `keep_trained`: store what was computed for
        gradients as well; not for a language model with dropout, whose noise is larger than the drift of many
        steps (MiniLM: mean cosine .97 to the embedding without)."""
        self._plan, self._tables, self.state = plan, tables, state
        self._keep_trained = keep_trained
        self._exchange = Exchange(manifest, parts_of)
        self._computed: list[tuple[str, Tensor, Tensor]] = []
        self._drift: list[Tensor] = []
        self._counts: dict[str, float] = {}

    @property
    def stamp(self) -> Stamp:
        """For what is computed now."""
        return Stamp(self.state.model, self.state.steps)

    def find(self, batch: Batch) -> Batch:
        """Put stored embeddings into a batch whose `train_rows` are chosen: `embedded` and `hits`, and
        what is to be compared with its recomputation, `stale` and `stale_rows`."""
        embedded, hits, stale, stale_rows = {}, {}, {}, {}
        for node_type in batch.train_rows:
            ids = batch.nodes[node_type]
            found = self._tables[node_type].look_up(ids)
            age = self._age(found.model, found.step)
            usable = found.whole & (age >= 0) & (age <= self.state.max_age)
            usable[batch.train_rows[node_type]] = False
            again = self._oldest(usable, age, hash_ids(key_of(batch.key, "refresh", node_type), ids))
            self._count(texts=len(ids), usable=int(usable.sum()), age=float(age[usable].sum()))
            usable[again] = False
            hits[node_type] = usable.nonzero().squeeze(1)
            embedded[node_type] = found.rows[hits[node_type]]
            stale[node_type], stale_rows[node_type] = again, found.rows[again]
        return replace(batch, embedded=embedded, hits=hits, stale=stale, stale_rows=stale_rows)

    def _age(self, model: Tensor, computed: Tensor) -> Tensor:
        """int64 N, steps; -1 for embeddings of other models."""
        own, before = model == self.state.model, model == self.state.start
        return torch.where(own, self.state.steps - computed, torch.where(before, self.state.steps, -1))

    def _oldest(self, usable: Tensor, age: Tensor, draws: Tensor) -> Tensor:
        """Positions of the `refresh` share of the usable rows that are oldest; the hash decides
        between equals."""
        rows = usable.nonzero().squeeze(1)
        count = math.ceil(self._plan.refresh * len(rows)) if self._plan.mode == "bounded" else 0
        rows = rows[draws[rows].argsort(stable=True)]
        return rows[age[rows].argsort(descending=True, stable=True)][:count].sort().values

    def keep(self, batch: Batch, text: Mapping[str, Tensor], forward_only: Mapping[str, Tensor]) -> None:
        """Take what a forward pass computed: type -> N x D, and which of the rows ran without gradients,
        bool N."""
        for node_type in batch.train_rows:
            rows, computed = text[node_type].float().cpu(), forward_only[node_type].cpu()
            if self._keep_trained:
                computed = torch.ones(len(rows), dtype=torch.bool)
                computed[batch.hits[node_type]] = False
            chosen = computed.nonzero().squeeze(1)
            self._count(computed=len(chosen))
            self._computed.append((node_type, batch.nodes[node_type][chosen], rows[chosen]))
            again, stored = batch.stale[node_type], batch.stale_rows[node_type]
            clean = forward_only[node_type].cpu()[again]
            if len(again):
                self._drift.append(cosine_similarity(rows[again][clean], stored.float()[clean]))

    def commit(self) -> dict[str, float]:
        """Hand over what this step computed, to be seen from the next step on; figures of the step.
        A collective call."""
        for node_type in self._tables if self._plan.mode != "frozen" else ():
            mine = [(ids, rows) for name, ids, rows in self._computed if name == node_type]
            table = self._tables[node_type]
            ids = torch.cat([torch.zeros(0, dtype=torch.int64), *(i for i, _ in mine)])
            rows = torch.cat([torch.zeros(0, table.width), *(r for _, r in mine)])
            arrived = self._exchange(node_type, ids, pack(rows, ids, self.stamp))
            ids, records = first_of_each(*arrived)
            table.records.put(ids, records)
        self._computed.clear()
        drift = torch.cat(self._drift) if self._drift else torch.zeros(0)
        self._drift.clear()
        totals = torch.tensor([len(drift), int((drift < self._plan.drift).sum())], dtype=torch.float64)
        torch.distributed.all_reduce(totals)  # after it, all have written: the barrier before the next step
        self._follow(int(totals[0]), int(totals[1]))
        self.state.steps += 1
        counts, self._counts = self._counts, {}
        found = counts.pop("age", 0.0) / max(counts.get("usable", 0.0), 1.0)
        figures = {f"cache_{name}": value for name, value in counts.items()}
        figures |= {"cache_age": found, "cache_max_age": float(self.state.max_age)}
        return figures | ({"cache_cosine": float(drift.mean())} if len(drift) else {})

    def _follow(self, recomputed: int, drifted: int) -> None:
        """Halve the bound when embeddings drift too far within it, raise it again when none does."""
        state = self.state
        state.recomputed += recomputed
        state.drifted += drifted
        if self._plan.mode != "bounded" or state.recomputed < _ENOUGH:
            return
        if state.drifted > _TAIL * state.recomputed:
            state.max_age = max(1, state.max_age // 2)
        elif not state.drifted:
            state.max_age = min(self._plan.max_age, 2 * state.max_age)
        state.recomputed = state.drifted = 0

    def _count(self, **values: float) -> None:
        for name, value in values.items():
            self._counts[name] = self._counts.get(name, 0.0) + value
