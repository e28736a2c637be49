"""Randomness that repeats: every draw is a hash of what it is for, never the state of a generator.

The same key and ids give the same numbers whatever the number of threads, servers or trainers,
and after a resume. The mixer is SplitMix64's finaliser (Steele et al., OOPSLA 2014) on int64.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_FIRST = -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9 as a signed number
_SECOND = -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
_GAMMA = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15


def key_of(*labels: int | str) -> int:
    """A signed 64-bit key for a purpose, such as key_of(seed, stage, step, "layer", 1)."""
    digest = hashlib.blake2b(repr(labels).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _mix(x: Tensor) -> Tensor:
    # In place where it can be: a batch hashes millions of numbers, and fresh memory costs more than they do.
    x = (x >> 30).bitwise_and_(0x3FFFFFFFF).bitwise_xor_(x).mul_(_FIRST)
    x = (x >> 27).bitwise_and_(0x1FFFFFFFFF).bitwise_xor_(x).mul_(_SECOND)
    return (x >> 31).bitwise_and_(0x1FFFFFFFF).bitwise_xor_(x)


def hash_ids(key: int, *ids: Tensor | int) -> Tensor:
    """Uniform int64 numbers, one for each row of the int64 tensors (broadcast together)."""
    state = torch.as_tensor(key, dtype=torch.int64)
    for part in ids:
        state = _mix((state ^ torch.as_tensor(part, dtype=torch.int64)).add_(_GAMMA))
    return state


def uniform_ids(key: int, rows: Tensor, *, columns: int, below: int) -> Tensor:
    """int64 rows x columns, uniform in [0, below): the draws of row i depend on rows[i] alone."""
    draws = hash_ids(key, rows[:, None], torch.arange(columns)[None, :])
    return (draws & 0x7FFFFFFFFFFFFFFF) % below


def permutation(key: int, size: int) -> Tensor:
    """A random order of range(size)."""
    return hash_ids(key, torch.arange(size)).argsort(stable=True)
