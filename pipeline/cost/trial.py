"""A few batches of each stage, drawn as the run will draw them: the same targets, negatives, neighbours
and texts, from the partition's files in one process. They tell sizes, LM tokens with padding, and the
time that sampling takes. Never runs a model, but to learn whether it packs texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from partition.manifest import PartitionManifest
from pipeline.batch import Batch, Ragged
from pipeline.cache import EmbeddingCache
from pipeline.config import StagePlan, TrainPlan
from pipeline.cost.offline import OfflineGraph
from pipeline.cost.replay import Replay
from pipeline.graph import Graph
from pipeline.hashing import key_of, permutation
from pipeline.infer import TEXTS
from pipeline.inputs import Inputs
from pipeline.lm import TextEncoder
from pipeline.model import LMGNN, text_types
from pipeline.schedule import Schedule
from pipeline.sharded import Table
from pipeline.stages import HELD_OUT, STAGES, StageRule
from pipeline.targets import Texts, read_texts

_BATCHES = 16
"""Drawn per stage, evenly over its time and parts. Of the default graph, LM tokens of a batch of 32 modules
differ by 15 % (standard deviation; other stages' by 3 %), their mean over 16 by 4 %."""
_CACHED = 128
"""At most so many where the embedding cache makes consecutive ones necessary."""
_CHUNKS = 16
"""Of as many texts or targets each as in evaluations; padding is counted on so many."""
_CHUNK = 1024


_NO_TEXTS: dict[str, Any] = {
    name: {} for name in ("tokens", "train_rows", "embedded", "hits", "stale", "stale_rows", "stale_age")
}


@dataclass(frozen=True)
class Trial:
    """A stage's training batches; floats are means over batches of one part."""

    schedule: Schedule
    nodes: float
    tokens_trained: float
    """LM tokens that gradients reach, padding included."""
    tokens_forward: float
    most_tokens_trained: int
    sample_seconds: float
    """Targets, negatives, neighbours and token lists, all from this process's memory."""
    batch: Batch
    """One of middling size, without inputs."""

    @property
    def batches(self) -> int:
        """Of one part over the whole stage."""
        return self.schedule.steps * self.schedule.accumulate


@dataclass
class _Bench:
    """What a stage's rule takes from a trainer to draw batches and to name what it is judged on."""

    plan: TrainPlan
    graph: Graph
    model: LMGNN
    texts: Mapping[str, Table] = field(default_factory=dict)
    cache: EmbeddingCache | None = None
    """Of the stage that is drawn."""


class Trials:
    """Draws from one partition."""

    def __init__(self, plan: TrainPlan, manifest: PartitionManifest, folder: Path, model: LMGNN) -> None:
        self._plan, self._manifest = plan, manifest
        self._graph = OfflineGraph(folder, manifest)
        self._bench = _Bench(plan, self._graph, model)
        self._inputs = Inputs(plan.model, self._graph, {}, {}, torch.device("cpu"))
        self._encoder = next((_blank(encoder) for encoder in model.text.distinct()), None)

    def of(self, stage: StagePlan) -> Trial:
        """A stage's batches and their sizes."""
        replay = self.replay(stage)
        schedule, parts = replay.schedule, self._manifest.parts
        if replay.has_cache:
            if schedule.steps > self._plan.cache.max_age and self._plan.cache.mode == "bounded":
                # As many steps from an empty cache compute what they will in the long run: each text once.
                replay.empty_cache()
            window = min(
                schedule.steps, self._plan.cache.max_age + 1, max(4, _CACHED // (parts * schedule.accumulate))
            )
            drawn = [cost for step in replay.steps(range(window)) for cost in step]
        else:
            total = schedule.steps * schedule.accumulate * parts
            places = torch.linspace(0, total - 1, min(total, _BATCHES)).long().tolist()
            drawn = [replay.one(*divmod(place, parts)) for place in places]
        drawn.sort(key=lambda cost: _nodes(cost.batch))
        return Trial(
            schedule,
            nodes=mean(_nodes(cost.batch) for cost in drawn),
            tokens_trained=mean(cost.work.tokens_trained for cost in drawn),
            tokens_forward=mean(cost.work.tokens_forward for cost in drawn),
            most_tokens_trained=max(cost.work.tokens_trained for cost in drawn),
            sample_seconds=mean(cost.seconds for cost in drawn),
            batch=replace(drawn[len(drawn) // 2].batch, **_NO_TEXTS),
        )

    def rule(self, stage: StagePlan) -> StageRule:
        """What draws a stage's batches."""
        return STAGES[stage.kind](self._bench, stage)  # type: ignore[no-any-return]

    def replay(self, stage: StagePlan, rule: StageRule | None = None) -> Replay:
        """A stage's batches, one after the other; `rule` in place of the stage's own."""
        encoders = self._bench.model.text
        encoder = next(encoders.distinct(), None)
        replay = Replay(
            self._plan,
            stage,
            self._graph,
            rule or self.rule(stage),
            text_width=encoder.width if encoder else 0,
            full_at_start=stage.evals > 0,
            keep_trained=not encoders.has_dropout,
            packs=encoder.packing.suits if encoder else lambda longest: False,
        )
        self._bench.cache = replay.cache
        return replay

    def whole_graph(self, budget: int) -> float:
        """LM tokens of encoding every text once."""
        found = 0.0
        for name in text_types(self._manifest):
            ranges = [self._manifest.part_range(name, part) for part in range(self._manifest.parts)]
            chunks = [
                torch.arange(start, min(start + TEXTS, last))
                for first, last in ranges
                for start in range(first, last, TEXTS)
            ]
            real = padded = 0
            for ids in _some(chunks):
                tokens = self._graph.tokens(name, ids)
                real += tokens.values.numel()
                padded += self._encoded(tokens, budget)
            found += self._manifest.node_type(name).tokens * padded / max(real, 1)
        return found

    def targets_alone(self, stage: StagePlan) -> float:
        """LM tokens of an evaluation that encodes its validation targets only: held-out texts of an
        mlm stage, classified nodes or the ends of classified edges of a task_lm stage."""
        rule, masked = STAGES[stage.kind](self._bench, stage), stage.kind == "mlm"
        chunks, total = [], 0
        for part in range(self._manifest.parts):
            if masked:
                targets: Any = read_texts(self._manifest, part=part, split="valid")
            else:
                targets = rule.objective.targets(part, "valid")
            order = permutation(key_of("held out", part), len(targets))
            chunks += [targets.select(rows) for rows in order.split(HELD_OUT if masked else _CHUNK)]
            total += len(targets)
        seen = tokens = 0
        for some in _some(chunks):
            seen += len(some)
            tokens += self._held_out_texts(rule, some, stage) if masked else self._ends(rule, some, stage)
        return min(total, stage.eval_targets or total) * tokens / max(seen, 1)

    def _held_out_texts(self, rule: Any, texts: Texts, stage: StagePlan) -> int:
        batch = self._inputs.texts(rule.batch(texts, 0, 0))
        return sum(self._masked(tokens, stage) for tokens in batch.tokens.values())

    def _ends(self, rule: Any, targets: Any, stage: StagePlan) -> int:
        found = 0

        def rows(node_type: str, ids: Tensor) -> Tensor:
            nonlocal found
            found += self._encoded(self._graph.tokens(node_type, ids), stage.forward_tokens)
            return ids

        rule.objective.rows_of(rows, targets)
        return found

    def _masked(self, tokens: Ragged, stage: StagePlan) -> int:
        """As an mlm stage runs them: equal texts too, since each has holes of its own."""

        def run(encoder: TextEncoder) -> None:
            for one in encoder.sub_batches(tokens, stage.forward_tokens):
                if one.layout.text_tokens:
                    encoder.hidden(tokens.select(one.texts), one.layout)

        return self._counted(run)

    def _encoded(self, tokens: Ragged, budget: int) -> int:
        return self._counted(lambda encoder: encoder.encode(tokens, budget))

    def _counted(self, run: Callable[[TextEncoder], object]) -> int:
        """LM tokens of a call."""
        assert self._encoder is not None, "a batch with texts comes of a graph with texts"
        before = self._encoder.work.tokens_run
        run(self._encoder)
        return self._encoder.work.tokens_run - before


class _Blank(nn.Module):
    """Stands where a text encoder has its LM, so that sub-batches and padding are the encoder's own
    and cost nothing."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.config, self._words = base.config, base.get_input_embeddings()

    def get_input_embeddings(self) -> nn.Module:
        return self._words

    def forward(self, input_ids: Tensor, **_: object) -> SimpleNamespace:
        states = torch.zeros(1, 1, 1).expand(*input_ids.shape, self.config.hidden_size)
        return SimpleNamespace(last_hidden_state=states)


def _blank(encoder: TextEncoder) -> TextEncoder:
    return TextEncoder(
        _Blank(encoder.base),
        encoder.tokenizer,
        pooling=encoder.pooling,
        source=encoder.source,
        packing=encoder.packing,
    )


def _some(chunks: Sequence[Any]) -> list[Any]:
    """At most _CHUNKS of them, evenly."""
    rows = torch.linspace(0, len(chunks) - 1, min(len(chunks), _CHUNKS)).long().tolist()
    return [chunks[row] for row in rows]


def _nodes(batch: Batch) -> int:
    return sum(len(ids) for ids in batch.nodes.values())
