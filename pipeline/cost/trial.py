"""A few batches of each stage, drawn as the run will draw them: the same targets, negatives, neighbours
and texts, from the partition's files in one process. They tell sizes, LM tokens with padding, and the
time that sampling takes. Never runs a model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from partition.manifest import PartitionManifest
from pipeline.batch import Batch, Ragged
from pipeline.config import StagePlan, TrainPlan
from pipeline.cost.offline import OfflineGraph
from pipeline.graph import Graph, Table
from pipeline.hashing import key_of, permutation
from pipeline.inputs import Inputs
from pipeline.lm import TextEncoder
from pipeline.model import LMGNN, text_types
from pipeline.schedule import Schedule, stage_schedule
from pipeline.stages import STAGES
from pipeline.targets import Texts, read_texts

_BATCHES = 16
"""Drawn per stage, evenly over its time and parts. Of the default graph, LM tokens of a batch of 32 modules
differ by 15 % (standard deviation; other stages' by 3 %), their mean over 16 by 4 %."""
_CHUNKS = 16
"""Of 1,024 texts or targets each, as in evaluations; padding is counted on so many."""
_CHUNK = 1024


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


@dataclass(frozen=True)
class _Bench:
    """What a stage's rule takes from a trainer to draw batches and to name what it is judged on."""

    plan: TrainPlan
    graph: Graph
    model: LMGNN
    texts: Mapping[str, Table] = field(default_factory=dict)


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
        plan, rule = self._plan, STAGES[stage.kind](self._bench, stage)
        parts = range(self._manifest.parts)
        targets = [rule.targets(part) for part in parts]
        sizes = tuple(len(some) for some in targets)
        clusters = {part: rule.clusters(targets[part]) for part in parts if stage.clusters}
        schedule = stage_schedule(plan, stage, sizes, clusters)
        total = schedule.steps * plan.engine.accumulate * len(parts)
        drawn: list[Batch] = []
        counts: list[tuple[int, int, int]] = []
        seconds = 0.0
        for position in torch.linspace(0, total - 1, min(total, _BATCHES)).long().tolist():
            number, part = divmod(position, len(parts))
            started = time.perf_counter()
            chosen = targets[part].select(schedule.rows(number, part))
            batch = rule.batch(chosen, part, key_of(plan.seed, stage.name, number))
            filled = self._with_texts(batch, stage)
            seconds += time.perf_counter() - started
            drawn.append(batch)
            counts.append((_nodes(batch), *self._step_tokens(filled, stage)))
        nodes, trained, forward = torch.tensor(counts, dtype=torch.float64).mean(0).tolist()
        drawn.sort(key=_nodes)
        return Trial(
            schedule,
            nodes=nodes,
            tokens_trained=trained,
            tokens_forward=forward,
            most_tokens_trained=max(count[1] for count in counts),
            sample_seconds=seconds / len(counts),
            batch=drawn[len(drawn) // 2],
        )

    def whole_graph(self, rows_per_batch: int) -> float:
        """LM tokens of encoding every text once."""
        found = 0.0
        for name in text_types(self._manifest):
            ranges = [self._manifest.part_range(name, part) for part in range(self._manifest.parts)]
            chunks = [
                torch.arange(start, min(start + _CHUNK, last))
                for first, last in ranges
                for start in range(first, last, _CHUNK)
            ]
            real = padded = 0
            for ids in _some(chunks):
                tokens = self._graph.tokens(name, ids)
                real += tokens.values.numel()
                padded += self._encoded(tokens, rows_per_batch)
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
            chunks += [targets.select(rows) for rows in order.split(stage.forward_rows if masked else _CHUNK)]
            total += len(targets)
        seen = tokens = 0
        for some in _some(chunks):
            seen += len(some)
            tokens += self._held_out_texts(rule, some) if masked else self._ends(rule, some, stage)
        return min(total, stage.eval_targets or total) * tokens / max(seen, 1)

    def _with_texts(self, batch: Batch, stage: StagePlan) -> Batch:
        """Token lists of the texts that run through the LM."""
        if stage.kind == "gnn_warm":
            return batch
        if stage.kind == "joint":
            return self._inputs.texts_with_budget(batch, stage)
        return self._inputs.texts(batch)

    def _step_tokens(self, batch: Batch, stage: StagePlan) -> tuple[int, int]:
        """(tokens that gradients reach, tokens that run forward only) of one batch."""
        trained = forward = 0
        for name, tokens in batch.tokens.items():
            if stage.kind == "mlm":
                trained += self._padded(tokens)
                continue
            others = torch.ones(len(tokens), dtype=torch.bool)
            others[batch.train_rows[name]] = False
            trained += self._trained(tokens.select(batch.train_rows[name]))
            forward += self._encoded(tokens.select(others.nonzero().squeeze(1)), stage.forward_rows)
        return trained, forward

    def _held_out_texts(self, rule: Any, texts: Texts) -> int:
        batch = self._inputs.texts(rule.batch(texts, 0, 0))
        return sum(self._padded(tokens) for tokens in batch.tokens.values())

    def _ends(self, rule: Any, targets: Any, stage: StagePlan) -> int:
        found = 0

        def rows(node_type: str, ids: Tensor) -> Tensor:
            nonlocal found
            found += self._encoded(self._graph.tokens(node_type, ids), stage.forward_rows)
            return ids

        rule.objective.rows_of(rows, targets)
        return found

    def _padded(self, tokens: Ragged) -> int:
        """As an mlm stage runs them: all in one piece."""
        return self._counted(lambda encoder: encoder.hidden(tokens)) if tokens.values.numel() else 0

    def _trained(self, tokens: Ragged) -> int:
        return self._counted(lambda encoder: encoder(tokens))

    def _encoded(self, tokens: Ragged, rows_per_batch: int) -> int:
        return self._counted(lambda encoder: encoder.encode(tokens, rows_per_batch))

    def _counted(self, run: Callable[[TextEncoder], object]) -> int:
        """LM tokens of a call."""
        assert self._encoder is not None, "a batch with texts comes of a graph with texts"
        before = self._encoder.tokens_run
        run(self._encoder)
        return self._encoder.tokens_run - before


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
        _Blank(encoder.base), encoder.tokenizer, pooling=encoder.pooling, source=encoder.source
    )


def _some(chunks: Sequence[Any]) -> list[Any]:
    """At most _CHUNKS of them, evenly."""
    rows = torch.linspace(0, len(chunks) - 1, min(len(chunks), _CHUNKS)).long().tolist()
    return [chunks[row] for row in rows]


def _nodes(batch: Batch) -> int:
    return sum(len(ids) for ids in batch.nodes.values())
