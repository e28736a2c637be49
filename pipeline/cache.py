"""Text embeddings shared between the batches and the trainers of a joint stage (paper 4.4.2, "Cache BERT
embeddings"), with a bound on how old they may be.

At each step a batch's texts are looked up in the stored embeddings (texttable.py). Those young enough
need no language model; texts that gradients reach never come from the store; some of the others are
computed again, which shows how far embeddings drift. Which ones, and how old one may be: aging.py.
What was computed goes to the trainer whose part owns the node; it alone writes, and all see it from
the next step on. So what is found depends neither on timing nor on who asks.
Shape letters: N texts of a batch, H found among them, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from partition.manifest import PartitionManifest
from pipeline.aging import CacheState, Drift, again, follow, lifetimes, promised_age
from pipeline.batch import Batch
from pipeline.config import CachePlan
from pipeline.exchange import Exchange, first_of_each, of_all
from pipeline.fresh import NEVER, FreshNodes
from pipeline.hashing import hash_ids, key_of
from pipeline.records import Stamp, pack
from pipeline.texttable import TextTable

_STAMPS = 65536
"""Records whose stamps are read at a time."""


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
        fresh: FreshNodes | None = None,
    ) -> None:
        """`parts_of`: parts of every trainer, by rank. `keep_trained`: store what was computed for
        gradients as well; not for a language model with dropout, whose noise is larger than the drift of many
        steps (MiniLM: mean cosine .97 to the embedding without). `fresh`: kept up to date, if negatives are
        drawn from it."""
        self._plan, self._tables, self.state = plan, tables, state
        self._keep_trained, self._fresh = keep_trained, fresh
        self._manifest, self._parts_of = manifest, parts_of
        self._exchange = Exchange(manifest, parts_of)
        self._computed: list[tuple[str, Tensor, Tensor]] = []
        self._drift: list[tuple[Tensor, Tensor]] = []
        """Cosine of old and new embedding, and age of the old one."""
        self._counts: dict[str, float] = {}

    @property
    def stamp(self) -> Stamp:
        """For what is computed now."""
        return Stamp(self.state.model, self.state.steps)

    @property
    def draws_wait(self) -> bool:
        """Whether a step's batches depend on what the step before it stored."""
        return self._fresh is not None

    def fresh(self, node_type: str) -> Tensor:
        """int64, ascending: nodes that the next look-up finds, unless it is to compute them again."""
        if self._fresh is None:
            return torch.zeros(0, dtype=torch.int64)
        return self._fresh.at(node_type, self.state.steps, promised_age(self._plan))

    def read_stamps(self) -> None:
        """Learn what is fresh from the records themselves, if something else than `commit` may have written
        them. A collective call."""
        if self._fresh is None:
            return
        own_parts = self._parts_of[torch.distributed.get_rank()]
        for node_type, table in self._tables.items():
            ranges = [self._manifest.part_range(node_type, part) for part in own_parts]
            ids = torch.cat([torch.arange(first, last) for first, last in ranges])
            written = torch.cat([ids[:0], *(self._written(table, some) for some in ids.split(_STAMPS))])
            everyone = of_all(torch.stack([ids, written], dim=1))
            self._fresh.wrote(node_type, everyone[:, 0], everyone[:, 1])

    def _written(self, table: TextTable, ids: Tensor) -> Tensor:
        """int64 N: the step at which each embedding was computed, or NEVER."""
        found = table.look_up(ids)
        age = torch.where(found.whole, self._age(found.model, found.step), -1)
        return torch.where(age < 0, NEVER, self.state.steps - age)

    def find(self, batch: Batch) -> Batch:
        """Put stored embeddings into a batch whose `train_rows` are chosen: `embedded` and `hits`, and
        what is to be compared with its recomputation, `stale`, `stale_rows` and `stale_age`."""
        embedded, hits, stale, stale_rows, stale_age = {}, {}, {}, {}, {}
        promised = promised_age(self._plan)
        for node_type in batch.train_rows:
            ids = batch.nodes[node_type]
            found = self._tables[node_type].look_up(ids, self._wanted(promised))
            age = self._age(found.model, found.step)
            usable = found.whole & (age >= 0) & (age <= promised)
            usable[batch.train_rows[node_type]] = False
            self._count(texts=len(ids), usable=int(usable.sum()), age=float(age[usable].sum()))
            chosen = self._again(usable, age, age > lifetimes(ids, found.step, promised), batch, node_type)
            usable[chosen] = False
            hits[node_type] = usable.nonzero().squeeze(1)
            embedded[node_type] = found.rows.index_select(0, hits[node_type])
            stale[node_type], stale_rows[node_type] = chosen, found.rows[chosen]
            stale_age[node_type] = age[chosen]
        return replace(
            batch, embedded=embedded, hits=hits, stale=stale, stale_rows=stale_rows, stale_age=stale_age
        )

    def _wanted(self, promised: int) -> Tensor:
        """int64 S x 2, see records.would_serve: what is no older than `promised`."""
        rows = [[self.state.model, self.state.steps - promised]]
        if self.state.steps <= promised:
            rows.append([self.state.start, 0])
        return torch.tensor(rows)

    def _age(self, model: Tensor, computed: Tensor) -> Tensor:
        """int64 N, steps; -1 for embeddings of other models."""
        own, before = model == self.state.model, model == self.state.start
        return torch.where(own, self.state.steps - computed, torch.where(before, self.state.steps, -1))

    def _again(self, usable: Tensor, age: Tensor, ended: Tensor, batch: Batch, node_type: str) -> Tensor:
        """Positions of usable rows that are computed again all the same."""
        rows = usable.nonzero().squeeze(1)
        if self._plan.mode != "bounded":
            return rows[:0]
        draws = hash_ids(key_of(batch.key, "refresh", node_type), batch.nodes[node_type][rows])
        return rows[again(age[rows], ended[rows], draws, self._plan, self.state.aim)]

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
            compared, stored = batch.stale[node_type], batch.stale_rows[node_type]
            clean = forward_only[node_type].cpu()[compared]
            if len(compared):
                cosine = cosine_similarity(rows[compared][clean], stored.float()[clean])
                self._drift.append((cosine, batch.stale_age[node_type][clean]))

    def commit(self) -> dict[str, float]:
        """Hand over what this step computed, to be seen from the next step on; figures of the step.
        A collective call."""
        for node_type in self._tables if self._plan.mode != "frozen" else ():
            mine = [(ids, rows) for name, ids, rows in self._computed if name == node_type]
            table = self._tables[node_type]
            ids = torch.cat([torch.zeros(0, dtype=torch.int64), *(i for i, _ in mine)])
            rows = torch.cat([torch.zeros(0, table.width), *(r for _, r in mine)])
            records = pack(rows, ids, self.stamp)
            table.sent(ids, records)
            arrived = self._exchange(node_type, ids, records)
            stored = table.put(*first_of_each(*arrived))
            if self._fresh is not None:
                self._fresh.wrote(node_type, of_all(stored[:, None])[:, 0], self.state.steps)
        self._computed.clear()
        cosine = self._follow()
        self.state.steps += 1
        counts, self._counts = self._counts, {}
        found = counts.pop("age", 0.0) / max(counts.get("usable", 0.0), 1.0)
        figures = {f"cache_{name}": value for name, value in counts.items()}
        return figures | {"cache_age": found, "cache_aim": float(self.state.aim)} | cosine

    def _follow(self) -> dict[str, float]:
        """Let the aim follow what all trainers saw drift; `cache_cosine` of this one's. A collective call,
        before which all have written: the barrier before the next step."""
        cosine = torch.cat([torch.zeros(0), *(found for found, _ in self._drift)])
        age = torch.cat([torch.zeros(0, dtype=torch.int64), *(when for _, when in self._drift)])
        self._drift.clear()
        drifted, young = cosine < self._plan.drift, age <= self.state.aim
        totals = torch.tensor([len(cosine), drifted.sum(), young.sum(), (drifted & young).sum()])
        torch.distributed.all_reduce(totals)
        follow(self.state, self._plan, Drift(*totals.tolist()))
        return {"cache_cosine": float(cosine.mean())} if len(cosine) else {}

    def _count(self, **values: float) -> None:
        for name, value in values.items():
            self._counts[name] = self._counts.get(name, 0.0) + value
