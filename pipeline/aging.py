"""How old a stored text embedding may be: the promise, each embedding's own time within it, and the aim that
follows the drift.

The promise is the plan's `max_age`: nothing older is served, whatever happens. Embeddings written at one
step would all end at another and make that step pay for all of them, so each has a lifetime of its own, a
hash. The aim is what the drift asks for; it moves by halves, and what it leaves behind is computed
again oldest first, a share of a batch at a time. Owns these rules; holds no embedding and asks nobody.
Shape letter: N texts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from pipeline.config import CachePlan
from pipeline.hashing import hash_ids, key_of

_ENOUGH = 64
"""Recomputed texts, of all trainers together, before the aim follows the drift."""
_TAIL = 0.05
"""The aim halves when more than this share of the recomputed texts has drifted too far."""
_FOR_EVER = 1 << 31
_LIFETIME = key_of("lifetime of a text embedding")


@dataclass(frozen=True)
class Drift:
    """Of embeddings that were computed again."""

    texts: int
    drifted: int
    """Too far."""
    young_texts: int
    """Those no older than the aim."""
    young_drifted: int


@dataclass
class CacheState:
    """What a checkpoint must hold beside the records."""

    model: int
    """Stamp.model of what the stage computes itself."""
    start: int
    """Stamp.model of what the model that the stage starts from computed: age 0 at the first step."""
    aim: int
    """Steps; older embeddings are computed again, as far as the plan's `budget` goes."""
    steps: int = 0
    """That the stage has made."""
    texts: int = 0
    """Recomputed since it was last asked whether none drifts."""
    drifted: int = 0
    young_texts: int = 0
    """Recomputed and no older than the aim, since the aim was last held against them."""
    young_drifted: int = 0


def model_number(*labels: int | str) -> int:
    """A Stamp.model for whatever the labels name."""
    return key_of("model", *labels) & 0x7FFFFFFF


def first_state(plan: CachePlan, stage: str, lm_version: str) -> CacheState:
    """Of a stage that starts from the language model `lm_version`."""
    return CacheState(
        model=model_number(stage, lm_version), start=model_number(lm_version), aim=promised_age(plan)
    )


def promised_age(plan: CachePlan) -> int:
    """Steps; nothing older is ever served."""
    return plan.max_age if plan.mode == "bounded" else _FOR_EVER


def lifetimes(ids: Tensor, written: Tensor, promised: int) -> Tensor:
    """int64 N: the age up to which each embedding may serve, from three quarters of `promised` to all of it.

    A hash of the node and of the step at which it was computed (both int64 N), so that no node is always
    among the first to end. The next lifetimes spread what the first ones leave together; a wider hash would
    be paid for by every embedding that ends early, for ever."""
    draws = hash_ids(_LIFETIME, ids, written) & 0x7FFFFFFF
    return promised - draws % (promised // 4 + 1)


def again(age: Tensor, ended: Tensor, draws: Tensor, plan: CachePlan, aim: int) -> Tensor:
    """Positions, ascending, of the stored embeddings of a batch that are to be computed again: all that have
    `ended` (bool N), then the oldest. So many that `refresh` of them are, to see the drift, and those
    beyond the aim up to `budget`. `age` and `draws`: int64 N; `draws` decide between equals."""
    count = len(age)
    late = int((ended | (age > aim)).sum())
    wanted = max(math.ceil(plan.refresh * count), min(late, math.ceil(plan.budget * count)))
    order = draws.argsort(stable=True)
    for rank in (age, ended.long()):
        order = order[rank[order].argsort(descending=True, stable=True)]
    return order[: max(wanted, int(ended.sum()))].sort().values


def follow(state: CacheState, plan: CachePlan, drift: Drift) -> None:
    """Halve the aim when embeddings drift too far within it, raise it again when none does at any age:
    what has drifted beyond the aim says nothing against it."""
    state.texts += drift.texts
    state.drifted += drift.drifted
    state.young_texts += drift.young_texts
    state.young_drifted += drift.young_drifted
    if plan.mode != "bounded":
        return
    if state.young_texts >= _ENOUGH:
        if state.young_drifted > _TAIL * state.young_texts:
            state.aim = max(1, state.aim // 2)
            state.texts = state.drifted = 0
        state.young_texts = state.young_drifted = 0
    if state.texts >= _ENOUGH:
        if not state.drifted:
            state.aim = min(plan.max_age, 2 * state.aim)
        state.texts = state.drifted = 0
