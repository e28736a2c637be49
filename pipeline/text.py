"""What is done to token lists before a language model sees them: hiding tokens for masked LM.

Owns BERT's 80/10/10 rule with draws that repeat. Never tokenizes (the partition holds tokens) and
never touches a model. Shape letters: N texts, T tokens over all texts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from partition.errors import UsageError
from pipeline.batch import Ragged
from pipeline.hashing import hash_ids, key_of

UNMASKED = -100
"""Label of a token without a loss; torch's and transformers' own value for it."""

_POSITIVE = 0x7FFFFFFFFFFFFFFF
_NEVER = torch.iinfo(torch.int64).max


def mask_tokens(
    tokens: Ragged,
    texts: Tensor,
    *,
    key: int,
    share: float,
    special_ids: Sequence[int],
    mask_id: int,
    vocabulary: int,
) -> tuple[Ragged, Tensor]:
    """Hide about `share` of the tokens: (tokens with holes, labels int64 T).

    `texts` (int64 N) identifies each list: with the same key, the same text gets the same holes in
    any batch. Of the chosen tokens 80 % become `mask_id`, 10 % another token, 10 % stay; all of
    them are labelled, the others are UNMASKED. Special tokens are never chosen nor drawn; a text
    with any other token gets at least one label. `vocabulary` is the number of rows of the LM's
    token embedding.
    """
    device, length = tokens.values.device, tokens.lengths()
    values = tokens.values.to(torch.int64)
    row = torch.repeat_interleave(torch.arange(len(tokens), device=device), length)
    position = torch.arange(values.numel(), device=device) - tokens.offsets[:-1][row]
    special = torch.tensor(sorted(set(special_ids)), dtype=torch.int64, device=device)

    draw = _uniform(key, "choose", texts[row], position).masked_fill(torch.isin(values, special), _NEVER)
    lowest = draw.new_full((len(tokens),), _NEVER).scatter_reduce(0, row, draw, "amin")
    chosen = (draw < int(share * _POSITIVE)) | ((draw == lowest[row]) & (draw != _NEVER))

    fate = _uniform(key, "fate", texts[row], position)
    hide = chosen & (fate < int(0.8 * _POSITIVE))
    replace = chosen & ~hide & (fate < int(0.9 * _POSITIVE))
    ordinary = _ordinary_ids(special, vocabulary)
    other = ordinary[_uniform(key, "other", texts[row], position) % ordinary.numel()]
    masked = torch.where(replace, other, values.masked_fill(hide, mask_id))
    labels = values.masked_fill(~chosen, UNMASKED)
    return Ragged(masked.to(tokens.values.dtype), tokens.offsets), labels


def _uniform(key: int, purpose: str, text: Tensor, position: Tensor) -> Tensor:
    """int64 T, uniform in [0, 2**63)."""
    return hash_ids(key_of(key, purpose), text, position) & _POSITIVE


def _ordinary_ids(special: Tensor, vocabulary: int) -> Tensor:
    ids = torch.arange(vocabulary, device=special.device)
    ordinary = ids[~torch.isin(ids, special)]
    if ordinary.numel() == 0:
        raise UsageError(
            f"the LM's {vocabulary} tokens are all special: nothing can be masked",
            hint="use a model with its own tokenizer",
        )
    return ordinary
