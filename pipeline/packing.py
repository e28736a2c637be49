"""Several texts in one row of the LM's input, each with the states that it has alone: positions start anew at
every text, and no token attends to another text's.

Owns the inputs of packed rows and the trial whether a model can be run so. Never decides which texts share a
row (text_layout.py). Shape letters: N texts, L tokens of the longest, T tokens over all texts, R rows, W
tokens of a row, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pipeline.batch import Ragged
from pipeline.lm_files import position_limit, position_padding
from pipeline.text_layout import Layout, widest

_TRIED = 64
"""Tokens of the longest text of a trial; twice, four times ... as many where a longer one is to run: a window
of attention is not seen by texts that are shorter."""
_LARGEST_DIFFERENCE = 1e-4
"""Between states packed and padded, in shares of the largest."""
_REFUSALS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError)
"""What models raise that do not take such a mask or such positions."""


class Packing:
    """What a model makes of packed rows."""

    def __init__(self, base: Any) -> None:
        """`base`: a transformer as transformers loads it."""
        self._base = base
        self._masks: dict[int, Callable[[Tensor], Tensor] | None] = {}
        """Longest text tried -> how its attention takes the mask; None: in no way."""

    def suits(self, longest: int) -> bool:
        """Whether packed texts of at most `longest` tokens have the states that they have alone. The first
        time for about such a length the model runs on made-up texts to tell, without dropout, so that no
        random number is drawn."""
        return self._mask(longest) is not None

    def inputs(self, tokens: Ragged, layout: Layout) -> dict[str, Tensor]:
        """What the model takes for texts that suit, by the names of its arguments, R x W."""
        mask = self._mask(layout.longest)
        assert mask is not None, "texts are packed where they suit"
        return _inputs(self._base, tokens, layout, mask)

    def _mask(self, longest: int) -> Callable[[Tensor], Tensor] | None:
        tried = _TRIED
        while tried < longest:
            tried *= 2
        if tried not in self._masks:
            self._masks[tried] = next((m for m in (_as_is, _added) if _agrees(self._base, tried, m)), None)
        return self._masks[tried]


def unpacked(states: Tensor, tokens: Ragged, layout: Layout) -> tuple[Tensor, Tensor]:
    """(states N x L x D of states R x W x D, mask bool N x L of real tokens)."""
    column = torch.arange(layout.longest, device=states.device)
    mask = column < tokens.lengths()[:, None]
    place = torch.where(mask, _starts(layout, states.device)[:, None] + column, 0)
    flat = states.flatten(0, 1)
    return flat.index_select(0, place.flatten()).unflatten(0, place.shape), mask


def _inputs(
    base: Any, tokens: Ragged, layout: Layout, as_mask: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    device, count = tokens.values.device, tokens.values.numel()
    text = torch.arange(len(tokens), device=device)
    text = text.repeat_interleave(tokens.lengths(), output_size=count)
    within = torch.arange(count, device=device) - tokens.offsets[:-1][text]
    place = _starts(layout, device)[text] + within

    def rows(values: Tensor, fill: int) -> Tensor:
        flat = torch.full((layout.tokens,), fill, dtype=torch.int64, device=device)
        return flat.index_copy(0, place, values).unflatten(0, (layout.rows, layout.width))

    values = tokens.values.to(torch.int64)
    owner = rows(text, -1)  # padding attends to padding: a row of the softmax needs something to attend to
    padding = position_padding(base)
    return {
        "input_ids": rows(values, base.config.pad_token_id or 0),
        "position_ids": rows(_positions(values, within, tokens, padding), padding or 0),
        "attention_mask": as_mask((owner[:, :, None] == owner[:, None, :])[:, None]),
    }


def _positions(values: Tensor, within: Tensor, tokens: Ragged, padding: int | None) -> Tensor:
    """int64 T. RoBERTa's kin do not count padding tokens, should a text hold any."""
    if padding is None:
        return within
    counted = (values != padding).to(torch.int64)
    total = torch.cat([counted.new_zeros(1), counted.cumsum(0)])
    number = total[1:] - total[torch.arange(len(within), device=within.device) - within]
    return number * counted + padding


def _starts(layout: Layout, device: torch.device) -> Tensor:
    return torch.tensor(layout.starts, device=device)


def _as_is(attends: Tensor) -> Tensor:
    return attends


def _added(attends: Tensor) -> Tensor:
    """What "eager" attention adds to its scores."""
    least = torch.finfo(torch.float32).min
    return torch.zeros(attends.shape, device=attends.device).masked_fill(~attends, least)


def _agrees(base: Any, longest: int, as_mask: Callable[[Tensor], Tensor]) -> bool:
    """Whether made-up texts, the longest of `longest` tokens or of all positions, have the same states in
    rows as wide as rows get as they have padded."""
    longest, width = min(longest, position_limit(base)), widest(longest)
    lengths = [max(longest // 8, 2), longest, max(longest // 4, 1), max(longest // 2, 1)]
    device, was_training = base.device, base.training
    offsets = torch.tensor([0, *lengths]).cumsum(0).to(device)
    vocabulary = base.get_input_embeddings().num_embeddings
    tokens = Ragged(torch.arange(1, sum(lengths) + 1, device=device) * 7919 % vocabulary, offsets)
    starts = (0, lengths[0], lengths[0] + lengths[1], width)  # three in a row, one in another
    layout = Layout(2, width, longest, sum(lengths), starts)
    base.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            ids, mask = tokens.padded(base.config.pad_token_id or 0)
            padded = base(input_ids=ids, attention_mask=mask).last_hidden_state[mask]
            states = base(**_inputs(base, tokens, layout, as_mask)).last_hidden_state
            packed = unpacked(states, tokens, layout)[0][mask]
            # False as well where one is not a number
            return bool((packed - padded).abs().max() <= _LARGEST_DIFFERENCE * padded.abs().max())
    except _REFUSALS:
        return False
    finally:
        base.train(was_training)
