"""What batches cost the language model, in figures: as our code runs them, or plainly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.batch import Batch
from pipeline.cost.replay import BatchCost
from pipeline.lm_work import LMWork


@dataclass(frozen=True)
class Counted:
    """What a batch cost, without the batch, which is large."""

    targets: int
    texts: int
    found: int
    remote_bytes: int
    seconds: float
    work: LMWork

    @classmethod
    def of(cls, cost: BatchCost, *, plain: bool) -> Counted:
        texts = sum(map(len, cost.batch.tokens.values()))
        work = plain_work(cost.batch) if plain else cost.work
        return cls(cost.targets, texts, cost.found, cost.remote_bytes, cost.seconds, work)


def figures(some: Sequence[Counted], parts: int) -> dict[str, Any]:
    """Columns of a row, as lm_cost.py names them, over the batches of some steps, `parts` of each; ratios
    are of their sums."""
    work, targets = sum((one.work for one in some), LMWork()), sum(one.targets for one in some)
    tenth = -(-len(some) // (10 * parts))
    padding = work.padding_trained + work.padding_forward
    return {
        "lm_rows_per_target": round((work.rows_trained + work.rows_forward) / targets, 3),
        "lm_tokens_per_target": round(tokens_per_target(some), 2),
        "lm_tokens_trained_per_target": round((work.tokens - work.tokens_forward) / targets, 2),
        "last_lm_tokens_per_target": round(tokens_per_target(some[-parts * tenth :]), 2),
        "padding_share": round(padding / work.tokens_run, 4),
        "remote_bytes_per_target": round(sum(one.remote_bytes for one in some) / targets),
        "hit_share": round(sum(one.found for one in some) / sum(one.texts for one in some), 4),
        "seconds": round(sum(one.seconds for one in some) / len(some), 3),
    }


def tokens_per_target(some: Sequence[Counted]) -> float:
    return sum(one.work.tokens for one in some) / sum(one.targets for one in some)


def plain_work(batch: Batch) -> LMWork:
    """Every text node that the cache does not have, padded to the longest of the batch."""
    trained = rows = real = real_trained = longest = 0
    for node_type, tokens in batch.tokens.items():
        lengths, chosen = tokens.lengths(), batch.train_rows[node_type]
        rows += len(tokens) - len(batch.hits.get(node_type, ()))
        trained, real = trained + len(chosen), real + int(lengths.sum())
        real_trained += int(lengths[chosen].sum())
        longest = max(longest, int(lengths.max()))
    forward = rows - trained
    return LMWork(
        rows_trained=trained,
        rows_forward=forward,
        tokens_trained=trained * longest,
        tokens_forward=forward * longest,
        padding_trained=trained * longest - real_trained,
        padding_forward=forward * longest - (real - real_trained),
    )
