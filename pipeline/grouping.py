"""Which texts of a batch run through the LM: identical ones once.

Owns the comparison of token lists. Never runs a model. Shape letters: N texts, U distinct ones, T tokens over
all texts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.batch import Ragged
from pipeline.hashing import hash_ids, key_of


@dataclass(frozen=True)
class Distinct:
    """Texts by what is in them."""

    first: Tensor
    """int64 U, ascending: the first text of each kind."""
    kind: Tensor
    """int64 N, in [0, U): where each text's first equal stands in `first`."""


@dataclass(frozen=True)
class TextSplit:
    """Texts that run with gradients and forward only; no two of them are equal."""

    trained: Tensor
    """int64, positions of texts."""
    forward: Tensor
    """int64, positions of texts."""
    row: Tensor
    """int64 N: which row of (trained, then forward) is a text's vector."""


def distinct(tokens: Ragged) -> Distinct:
    """Group equal token lists, without a loop over texts: by a 64-bit hash, and each list is then
    compared with the first of its group, so that no two different ones are ever taken for one."""
    device, count = tokens.values.device, len(tokens)
    first = torch.zeros(count, dtype=torch.int64, device=device)
    rest = torch.arange(count, device=device)
    turn = 0
    while len(rest):  # a second time only if hashes collide
        some = tokens.select(rest)
        group = token_hashes(some, turn).unique(return_inverse=True)[1]
        places = torch.arange(len(rest), device=device)
        leader = places.new_full((int(group.max()) + 1,), len(rest)).scatter_reduce(0, group, places, "amin")
        same = _equal(some, leader[group])
        first[rest[same]] = rest[leader[group]][same]
        rest, turn = rest[~same], turn + 1
    return Distinct(*first.unique(return_inverse=True))


def split_texts(tokens: Ragged, train_rows: Tensor) -> TextSplit:
    """Gradients reach the texts `train_rows` (int64) and with them every text equal to one of those."""
    kinds = distinct(tokens)
    reached = torch.zeros(len(kinds.first), dtype=torch.bool, device=kinds.first.device)
    reached[kinds.kind[train_rows]] = True
    order = reached.to(torch.int8).argsort(descending=True, stable=True)
    row = torch.empty_like(order)
    row[order] = torch.arange(len(order), device=order.device)
    trained = int(reached.sum())
    chosen = kinds.first[order]
    return TextSplit(chosen[:trained], chosen[trained:], row[kinds.kind])


def token_hashes(tokens: Ragged, turn: int) -> Tensor:
    """int64 N: of each list's tokens, their positions and its length. The same in every process; another
    one for another `turn`."""
    lengths = tokens.lengths()
    starts = torch.repeat_interleave(tokens.offsets[:-1], lengths)
    position = torch.arange(tokens.values.numel(), device=lengths.device) - starts
    mixed = hash_ids(key_of("text", turn), tokens.values, position)
    sums = torch.cat([mixed.new_zeros(1), mixed.cumsum(0)])  # wraps round, as sums of hashes may
    return sums[tokens.offsets[1:]] - sums[tokens.offsets[:-1]] + lengths


def _equal(tokens: Ragged, other: Tensor) -> Tensor:
    """bool N: whether each list is the list `other` (int64 N, positions of lists)."""
    lengths = tokens.lengths()
    fits = lengths == lengths[other]
    texts = torch.repeat_interleave(torch.arange(len(tokens), device=lengths.device), lengths)
    position = torch.arange(texts.numel(), device=lengths.device) - tokens.offsets[:-1][texts]
    position = tokens.offsets[:-1][other][texts] + torch.where(fits[texts], position, 0)
    differs = tokens.values != tokens.values[position.clamp(max=max(texts.numel() - 1, 0))]
    wrong = torch.zeros(len(tokens), dtype=torch.int64, device=lengths.device)
    return fits & (wrong.index_add(0, texts, differs.to(torch.int64)) == 0)
