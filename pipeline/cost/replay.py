"""Consecutive training batches of a stage with the embedding cache as it would be, drawn from the partition's
files in one process: what each costs in texts, LM tokens and bytes from other hosts. Never runs a model;
whoever has one says whether it packs texts.

Batches, trained texts, look-ups and sub-batches are those of a run (the code is the same); the bound on the
cache's age stays where the plan has it, since nothing drifts here. Shape letter: N nodes.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from pipeline.aging import CacheState, first_state
from pipeline.batch import Batch
from pipeline.cache import EmbeddingCache
from pipeline.config import StagePlan, TrainPlan
from pipeline.cost.hosttables import WIDTH, HostTables
from pipeline.cost.offline import OfflineGraph
from pipeline.fresh import NEVER, FreshNodes
from pipeline.grouping import TextSplit, split_texts
from pipeline.hashing import key_of
from pipeline.inputs import Inputs
from pipeline.lm_work import LMWork
from pipeline.model import stage_task, text_types
from pipeline.records import Stamp, words
from pipeline.room import copied_share, text_share
from pipeline.schedule import stage_schedule
from pipeline.stages import StageRule, fresh_nodes
from pipeline.text_layout import sub_batches


@dataclass(frozen=True)
class BatchCost:
    """One batch of one part."""

    part: int
    targets: int
    batch: Batch
    """Without features and learnable rows."""
    stage: StagePlan
    found: int
    """Texts that the cache had."""
    remote_bytes: int
    """Requests to other hosts and their answers: edges, tokens and embeddings; features, learnable rows and
    framing left out."""
    seconds: float
    """Of targets, negatives, neighbours and tokens, all from this process's memory."""
    packs: Callable[[int], bool]
    """As of `sub_batches`."""

    @cached_property
    def work(self) -> LMWork:
        """What the LM has to do. Made when it is asked for: comparing texts takes as long as drawing them."""
        return sum((self._work(t) for t in self.batch.tokens), LMWork())

    @cached_property
    def splits(self) -> Mapping[str, TextSplit]:
        """Of each text type."""
        batch = self.batch
        return {t: split_texts(tokens, batch.train_rows[t]) for t, tokens in batch.tokens.items()}

    def _work(self, node_type: str) -> LMWork:
        """For a type's texts: distinct ones, in sub-batches with their padding; in mlm all of them, since
        each has holes of its own."""
        tokens = self.batch.tokens[node_type]
        if self.stage.kind == "mlm":
            padded_all = self._padded(tokens.lengths())
            return LMWork(
                rows_trained=len(tokens),
                tokens_trained=padded_all,
                padding_trained=padded_all - tokens.values.numel(),
            )
        lengths, split = tokens.lengths(), self.splits[node_type]
        real = [int(lengths[rows].sum()) for rows in (split.trained, split.forward)]
        padded = [self._padded(lengths[rows]) for rows in (split.trained, split.forward)]
        with_text = int((lengths[split.forward] > 0).sum())
        return LMWork(
            rows_trained=len(split.trained),
            rows_forward=with_text,
            tokens_trained=padded[0],
            tokens_forward=padded[1],
            padding_trained=padded[0] - real[0],
            padding_forward=padded[1] - real[1],
        )

    def _padded(self, lengths: Tensor) -> int:
        """Tokens of texts in sub-batches, padding included."""
        some = sub_batches(lengths, self.stage.forward_tokens, self.packs)
        return sum(one.layout.tokens for one in some)


class Replay:
    """The batches of one stage. Every trainer has one part."""

    def __init__(
        self,
        plan: TrainPlan,
        stage: StagePlan,
        graph: OfflineGraph,
        rule: StageRule,
        *,
        text_width: int,
        full_at_start: bool,
        keep_trained: bool,
        packs: Callable[[int], bool],
    ) -> None:
        """`rule`: the stage's; `text_width`: of text embeddings; `full_at_start`: every embedding is there
        and fresh at the first step, as after an evaluation, or none is (always so without room for
        all); `keep_trained`: as of the EmbeddingCache; `packs`: as of `sub_batches`."""
        self._packs = packs
        self._plan, self._stage, self._graph, self._rule = plan, stage, graph, rule
        self._row_bytes, self._keep_trained = 8 * words(text_width), keep_trained
        manifest = graph.manifest
        self._parts = range(manifest.parts)
        self._targets = [rule.targets(part) for part in self._parts]
        clusters = {part: rule.clusters(self._targets[part]) for part in self._parts if stage.clusters}
        self.schedule = stage_schedule(plan, stage, tuple(len(some) for some in self._targets), clusters)
        self._inputs = Inputs(plan.model, graph, {}, {}, torch.device("cpu"))
        self.cache: EmbeddingCache | None = None
        """As a trainer has it."""
        self._fresh: FreshNodes | None = None
        self._tables: dict[str, HostTables] = {}
        joint = stage.kind == "joint" and plan.cache.mode != "exact"
        if joint or stage.kind == "gnn_warm":
            widths = dict.fromkeys(text_types(manifest), text_width)
            share, copied = text_share(plan, manifest, widths), copied_share(plan, manifest, widths)
            self._tables = {t: HostTables(graph, t, share, copied) for t in widths}
            full_at_start = full_at_start and share == 1
        if joint:
            self._start_cache(first_state(plan.cache, stage.name, ""))
        if self._tables and (full_at_start or not joint):
            for table in self._tables.values():
                table.fill(Stamp(self.cache.state.start if self.cache else 0, 0))
            self._wrote_all(0)

    def _start_cache(self, state: CacheState) -> None:
        plan, stage, graph = self._plan, self._stage, self._graph
        slots = {name: table.slots for name, table in self._tables.items()}
        self._fresh = fresh_nodes(stage_task(stage, plan, graph.manifest), graph, slots)
        self.cache = EmbeddingCache(
            plan.cache,
            self._tables,  # type: ignore[arg-type]
            graph.manifest,
            state=state,
            parts_of=[[part] for part in self._parts],
            keep_trained=self._keep_trained,
            fresh=self._fresh,
        )

    def empty_cache(self) -> None:
        for table in self._tables.values() if self.has_cache else ():
            table.empty()
        self._wrote_all(NEVER)

    def _wrote_all(self, step: int) -> None:
        if self._fresh is not None:
            for name in self._tables:
                self._fresh.wrote(name, torch.arange(self._graph.ids.count[name]), step)

    @property
    def has_cache(self) -> bool:
        return self.cache is not None

    def steps(self, numbers: Iterable[int], parts: Sequence[int] | None = None) -> Iterator[list[BatchCost]]:
        """All parts' batches of each step, `accumulate` of each part; steps must be consecutive for the
        cache to be right. Of some `parts` alone, the cache holds what these compute and no more."""
        turns, chosen = self.schedule.accumulate, self._parts if parts is None else parts
        for step in numbers:
            batches = range(step * turns, (step + 1) * turns)
            made = [self.one(number, part) for number in batches for part in chosen]
            if self.cache is not None:
                self._store(made)
            yield made

    def one(self, number: int, part: int) -> BatchCost:
        """Batch `number` of a part; the cache stays as it is."""
        graph, started = self._graph, time.perf_counter()
        graph.host = part // graph.manifest.trainers
        graph.take_costs()
        chosen = self._targets[part].select(self.schedule.rows(number, part))
        batch = self._rule.batch(chosen, part, key_of(self._plan.seed, self._stage.name, number))
        if self._stage.kind == "gnn_warm":
            for name, table in self._tables.items():
                table.look_up(batch.nodes[name])
        else:
            joint, inputs = self._stage.kind == "joint", self._inputs
            batch = inputs.texts_with_budget(batch, self._stage, self.cache) if joint else inputs.texts(batch)
        seconds = time.perf_counter() - started
        costs = graph.take_costs()
        left_out = costs.get("remote_records", 0) * (self._row_bytes - 8 * words(WIDTH))
        found = sum(len(rows) for rows in batch.hits.values())
        remote_bytes = int(costs.get("remote_bytes", 0) + left_out)
        return BatchCost(part, len(chosen), batch, self._stage, found, remote_bytes, seconds, self._packs)

    def _store(self, made: Sequence[BatchCost]) -> None:
        """Note which embeddings the step computed and keeps."""
        assert self.cache is not None
        state = self.cache.state
        for node_type, table in self._tables.items() if self._plan.cache.mode != "frozen" else ():
            computed = defaultdict(list)
            for cost in made:
                if node_type in cost.batch.train_rows:
                    ids = cost.batch.nodes[node_type][self._kept(cost, node_type)]
                    computed[cost.part // self._graph.manifest.trainers].append(ids)
            stored = table.put(computed, self.cache.stamp)
            if self._fresh is not None:
                self._fresh.wrote(node_type, stored, state.steps)
        self.cache.state = replace(state, steps=state.steps + 1)

    def _kept(self, cost: BatchCost, node_type: str) -> Tensor:
        """bool N: what ran, without texts that gradients reached, or equal ones, unless they are kept."""
        kept = torch.ones(len(cost.batch.nodes[node_type]), dtype=torch.bool)
        if not self._keep_trained:
            split = cost.splits[node_type]
            kept = split.row >= len(split.trained)
        kept[cost.batch.hits[node_type]] = False
        return kept
