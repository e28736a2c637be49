"""What ran through a language model, counted as it is paid for. Plain numbers; never runs one.

The one definition of "LM tokens": padding included, those of a text that gradients reach three times,
since its backward pass has twice the products of a forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

_TRAINED = 3
"""Forward passes that a token with gradients counts for. In time it may be more: MiniLM on one core of a
busy machine trained 20 to 27 rows a second where it encoded 85 to 100."""


RUN = ("lm_tokens_trained", "lm_tokens_forward")
"""Fields of a step event, as `LMWork.scalars` makes them."""
PADDING = ("lm_padding_trained", "lm_padding_forward")


def padding_share(totals: Mapping[str, float]) -> float | None:
    """Padding in the tokens that ran, of sums of step events; None where none did."""
    run = sum(totals.get(name, 0.0) for name in RUN)
    return sum(totals.get(name, 0.0) for name in PADDING) / run if run else None


@dataclass(frozen=True)
class LMWork:
    """Texts and tokens, with gradients (trained) and without (forward)."""

    rows_trained: int = 0
    """Texts; identical ones that ran once count once."""
    rows_forward: int = 0
    tokens_trained: int = 0
    """Padding included."""
    tokens_forward: int = 0
    padding_trained: int = 0
    """Of those tokens."""
    padding_forward: int = 0

    def __add__(self, other: LMWork) -> LMWork:
        return LMWork(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: LMWork) -> LMWork:
        return LMWork(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))

    @property
    def tokens_run(self) -> int:
        """Tokens that went forward."""
        return self.tokens_trained + self.tokens_forward

    @property
    def tokens(self) -> int:
        """LM tokens, in forward passes."""
        return _TRAINED * self.tokens_trained + self.tokens_forward

    def scalars(self) -> dict[str, float]:
        """As a step event has them."""
        counts = {**asdict(self), "tokens": self.tokens}
        return {f"lm_{name}": float(count) for name, count in counts.items()}


def one_pass(rows: int, tokens: int, padded: int, *, trained: bool) -> LMWork:
    """A sub-batch of `rows` texts and `tokens`, `padded` of them with padding."""
    if trained:
        return LMWork(rows_trained=rows, tokens_trained=padded, padding_trained=padded - tokens)
    return LMWork(rows_forward=rows, tokens_forward=padded, padding_forward=padded - tokens)
