"""How large the stages of somebody's first plan may be: texts, batches, steps.

Owns the budgets of a run on two CPU cores. An expectation from counts: `lmgnn plan` measures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from partition.tables import GraphTables

TRAINERS = 2
"""Trainers that `lmgnn run` starts on a host without accelerators."""
BATCH = 32
_TOKENS_PER_WORD = 1.4
"""Of MiniLM's vocabulary on CiteSeer's abstracts."""
_BUDGET = {"mlm": 0.6e6, "graph_lm": 2.1e6, "joint": 3e6}
"""Tokens that a stage may send forward through MiniLM's six layers, a trained token counting as three.
One core does about 1,500 a second (32 texts of 64 tokens): 3, 12 and 17 minutes on two."""
_MOST_STEPS = 1500
_MANY_TOKENS = 1e6
"""A graph of more tokens keeps half of the layers: each stage that trains the LM encodes all texts again."""
_NODES_PER_NEGATIVE = 10
"""Nodes of a destination type for each candidate of a true edge: among fewer, candidates repeat from edge to
edge, and chance alone ranks well."""
_FANOUTS = ((10, 10), (10, 5), (5, 5), (5, 3))
_JOINT_TOKENS = 20_000
"""Tokens in one batch of a joint stage that the fan-out is chosen for."""


@dataclass(frozen=True)
class TaskSize:
    """What a task's batches are made of."""

    ends: tuple[str, ...]
    """Node types of one target."""
    links: bool
    """Whether as many negatives come with the ends."""


@dataclass(frozen=True)
class Sizes:
    """What the numbers of the plan rest on."""

    max_length: int
    tokens: Mapping[str, float]
    """Type with text -> expected tokens of one."""
    count: Mapping[str, int]
    lm_layers: int
    """0 = all."""
    fanout: tuple[int, int]
    joint_tokens: Mapping[str, float]
    """Task -> tokens of one batch of its joint stage."""

    def cost(self, draws: Mapping[str, float]) -> float:
        """Tokens of so many texts of each type."""
        return sum(self.tokens.get(name, 0.0) * number for name, number in draws.items())

    def epochs(self, stage: str, targets: int, *, tokens: float, most: float) -> float:
        """Passes over the targets that the stage's budget allows; `tokens` forward in one trainer's step."""
        budget = _BUDGET[stage] * (2 if self.lm_layers else 1)
        steps = min(_MOST_STEPS, budget / max(tokens * TRAINERS, 1))
        return two_digits(min(most, steps * BATCH * TRAINERS / max(targets, 1)))


def sizes_of(tables: GraphTables, tasks: Mapping[str, TaskSize]) -> Sizes:
    """Count texts and choose max_length, layers and fan-out."""
    texts = {name: t.texts for name, t in tables.nodes.items() if t.texts is not None}
    count = {name: len(table.ids) for name, table in tables.nodes.items()}
    long = any(mean_tokens(text, most=512) > 48 for text in texts.values())
    most = 128 if long else 64
    tokens = {name: mean_tokens(text, most=most) for name, text in texts.items()}
    layers = 3 if sum(tokens[name] * count[name] for name in tokens) > _MANY_TOKENS else 0
    for fanout in _FANOUTS:
        draft = Sizes(most, tokens, count, layers, fanout, {})
        joint = {name: draft.cost(_batch(tables, count, task, fanout)) for name, task in tasks.items()}
        if all(cost <= _JOINT_TOKENS for cost in joint.values()):
            break
    return Sizes(most, tokens, count, layers, fanout, joint)


def mean_tokens(texts: pa.Array, *, most: int) -> float:
    """Expected tokens of a text (large_string N), cut at `most`, the two special ones included."""
    words = pc.list_value_length(pc.utf8_split_whitespace(texts)).to_numpy(zero_copy_only=False)
    return float(np.minimum(words * _TOKENS_PER_WORD + 2, most).mean()) if len(words) else 0.0


def most_negatives(nodes: int) -> int:
    """The most eval_negatives that are drawn from so many nodes of a destination type with good reason."""
    return max(1, nodes // _NODES_PER_NEGATIVE)


def two_digits(value: float) -> float:
    """Rounded to what a person would write."""
    return float(f"{value:.2g}")


def _batch(
    tables: GraphTables, count: Mapping[str, int], task: TaskSize, fanout: Sequence[int]
) -> dict[str, float]:
    """Type -> expected distinct nodes in one batch of a joint stage, negatives included."""
    layer = dict.fromkeys(tables.nodes, 0.0)
    for end in task.ends:
        layer[end] += BATCH * (2 if task.links else 1)
    total = dict(layer)
    for fan in fanout:
        drawn = dict.fromkeys(tables.nodes, 0.0)
        for edge in tables.edges.values():
            ends = (edge.schema.source, edge.source), (edge.schema.destination, edge.destination)
            for (here, rows), (there, _) in (ends, ends[::-1]):
                degree = np.bincount(rows, minlength=1)
                drawn[there] += layer[here] * np.minimum(degree, fan).sum() / max(count[here], 1)
        layer = drawn
        total = {name: total[name] + layer[name] for name in total}
    return {name: n * -math.expm1(-total[name] / n) if n else 0.0 for name, n in count.items()}
