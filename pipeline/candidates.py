"""Which tails a true tail is ranked against: one definition for trainers and baselines alike.

Owns the draw of evaluation candidates. Never leaves one out: a candidate that is the true tail
itself ties with it, and ties count half for everyone.
"""

from __future__ import annotations

from torch import Tensor

from pipeline.hashing import hash_ids, key_of, uniform_ids


def eval_candidates(
    seed: int, relation: str, split: str, source: Tensor, destination: Tensor, k: int, count: int
) -> Tensor:
    """int64 B x k, uniform over the `count` nodes of the destination type.

    source and destination: int64 B, typed ids of the partition. The draws of an edge depend on its
    own ids alone, not on the batch, the part or the trainer that it is in.
    """
    key = key_of(seed, "eval", relation, split)
    return uniform_ids(key, hash_ids(key, source, destination), columns=k, below=count)
