"""Records of stored text embeddings: the vector, when and by which model it was computed, and a check
value over all of it.

A table over hosts promises neither whole rows nor the order of writes (see sharded.Table): a reader
tells by the check value whether it saw a whole record of the node it asked for. Owns the format;
knows no table. Shape letters: N records, D width of the embedding, W = words(D).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.hashing import hash_ids, key_of

_KEY = key_of("record of a text embedding")


@dataclass(frozen=True)
class Stamp:
    """When an embedding was computed."""

    model: int
    """Names the model and the stage that trains it: below 2 ** 31."""
    step: int
    """Steps that the stage had made by then."""


@dataclass(frozen=True)
class Records:
    """What N records say."""

    rows: Tensor
    """float16 N x D."""
    model: Tensor
    """int64 N."""
    step: Tensor
    """int64 N."""
    whole: Tensor
    """bool N: whether the record is that of its node, all of it; false for one never written."""


def words(width: int) -> int:
    """int64 words of a record: four float16 each, then the stamp, then the check value."""
    return -(-width // 4) + 2


def pack(rows: Tensor, ids: Tensor, stamp: Stamp) -> Tensor:
    """int64 N x W, from rows N x D (any float) of the nodes `ids`."""
    padded = torch.zeros(len(rows), 4 * (words(rows.shape[1]) - 2), dtype=torch.float16)
    padded[:, : rows.shape[1]] = rows
    stamps = torch.full((len(rows), 1), stamp.model << 32 | stamp.step)
    body = torch.cat([padded.view(torch.int64), stamps], dim=1)
    return torch.cat([body, _check(body, ids)[:, None]], dim=1)


def unpack(records: Tensor, ids: Tensor, width: int) -> Records:
    """The reverse of `pack`, for records that may be torn; `rows` share their memory."""
    records = records.contiguous()
    rows, stamp = records.view(torch.float16)[:, :width], records[:, -2]
    whole = records[:, -1] == _check(records[:, :-1], ids)
    return Records(rows, stamp >> 32, stamp & 0xFFFFFFFF, whole)


def version(records: Tensor) -> Tensor:
    """int16 N x 3, what tells two records of a node apart: 48 bits of the check value, zeros for a record of
    zeros. In one case of 280 trillion it does not."""
    return records[:, -1:].contiguous().view(torch.int16)[:, :3].contiguous()


def would_serve(found: Records, wanted: Tensor) -> Tensor:
    """bool N: whether a record is of the model, and of no earlier step, that a row of `wanted` names (int64
    S x 2: Stamp.model and Stamp.step); all of them are if there are no rows."""
    if not len(wanted):
        return torch.ones(len(found.step), dtype=torch.bool)
    model, step = found.model[:, None] == wanted[:, 0], found.step[:, None] >= wanted[:, 1]
    return (model & step).any(1)


def _check(body: Tensor, ids: Tensor) -> Tensor:
    """int64 N: changes with every bit of a record and with the node that it belongs to."""
    odd = hash_ids(_KEY, torch.arange(body.shape[1])) | 1
    return hash_ids(_KEY, ids, (body * odd).sum(1))
