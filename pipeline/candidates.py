"""Which tails a true tail is ranked against: one definition for trainers and baselines alike.

Owns the draw of evaluation candidates and which of them count. Never looks up an edge.
Shape letters: B targets, K candidates.
"""

from __future__ import annotations

from torch import Tensor

from pipeline.hashing import hash_ids, key_of, uniform_ids


def eval_candidates(
    seed: int, relation: str, split: str, source: Tensor, destination: Tensor, k: int, count: int
) -> Tensor:
    """int64 B x K, uniform over the `count` nodes of the destination type.

    source and destination: int64 B, typed ids of the partition. The draws of an edge depend on its
    own ids alone, not on the batch, the part or the trainer that it is in.
    """
    key = key_of(seed, "eval", relation, split)
    return uniform_ids(key, hash_ids(key, source, destination), columns=k, below=count)


def countable(source: Tensor, destination: Tensor, others: Tensor, *, known: Tensor, within: bool) -> Tensor:
    """bool B x K: which candidates (`others`) may stand above or level with the true tail.

    Left out are the true tail itself, those that are `known` (bool B x K) to be joined to the source under
    the relation in any split, and, `within` one node type, the source itself. So a model that puts all
    true tails first reaches rank 1 everywhere.
    """
    counts = (others != destination[:, None]) & ~known
    return counts & (others != source[:, None]) if within else counts
