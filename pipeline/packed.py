"""Integers on their way between hosts, in as few bytes as hold them.

Owns these forms; knows neither requests nor graphs. Shape letters: N numbers, E drawn edges, G groups of
edges (a seed's edges under one relation).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.csc import Drawn

_SIZES = (torch.uint8, torch.int16, torch.int32)

Packed = tuple[Tensor, Tensor, Tensor, Tensor]


def narrow(numbers: Tensor) -> Tensor:
    """The same numbers, none of them negative, in the smallest integer type that holds them all."""
    most = int(numbers.max()) if numbers.numel() else 0
    return numbers.to(next((size for size in _SIZES if most <= torch.iinfo(size).max), torch.int64))


def ascending(numbers: Tensor) -> Tensor:
    """Numbers in ascending order, none of them negative, as the first one and what each is more than the one
    before it."""
    return narrow(numbers.diff(prepend=numbers.new_zeros(1)))


def unpack_ascending(steps: Tensor) -> Tensor:
    """int64 N: the reverse."""
    return steps.long().cumsum(0)


def pack_drawn(drawn: Drawn, relations: int) -> Packed:
    """Drawn edges of `relations` relations: for each group its number among seeds x relations, edges drawn
    and in-degree; then the source of each edge."""
    groups, counts = torch.unique_consecutive(drawn.seed * relations + drawn.relation, return_counts=True)
    last = counts.cumsum(0) - 1
    degree = (drawn.scale[last].double() * counts).round().long()
    return ascending(groups), narrow(counts), narrow(degree), narrow(drawn.source)


def unpack_drawn(packed: Packed, relations: int) -> Drawn:
    """The reverse; to the bit up to in-degrees of 2**24, which float32 still tells apart."""
    groups, counts, degree, source = packed
    counts = counts.long()
    group = torch.repeat_interleave(torch.arange(len(counts)), counts)
    places = unpack_ascending(groups)[group]
    scale = degree.to(torch.float32) / counts
    return Drawn(places // relations, places % relations, source.long(), scale[group])
