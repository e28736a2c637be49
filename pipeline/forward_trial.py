"""Whether texts without gradients run in bf16: a trial on a few of them says.

Owns the trial and what it must show. Never changes weights, nor how texts with gradients run.
Shape letters: N texts, D width.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.batch import Ragged
from pipeline.lm import TextEncoder

TEXTS = 64
"""Of a trial."""
LEAST_COSINE = 0.995
"""To the vectors in float32, on average: about what 16 steps of fine-tuning at a rate of 1e-5 change.
MiniLM in bf16: 0.99999; in int8, had we taken it: 0.945, or 0.982 with a scale per channel."""
_LEAST_GAIN = 1.1
"""Times as fast; timings of two passes differ by that much on a quiet machine."""
_TURNS = 2


@dataclass(frozen=True)
class Trial:
    """What was found; seconds are of one pass over the texts."""

    seconds_before: float
    """As texts ran so far: in float32, or in engine.precision."""
    seconds_bf16: float
    cosine: float

    @property
    def bf16(self) -> bool:
        """Whether it is the better way."""
        return self.cosine >= LEAST_COSINE and self.seconds_before > _LEAST_GAIN * self.seconds_bf16


def forward_trial(encoder: TextEncoder, texts: Ragged, budget: int) -> Trial:
    """Encode the texts both ways, in turn, each once unseen to warm up; the encoder stays as it was."""
    if not texts.values.numel():
        return Trial(0.0, 0.0, 1.0)  # nothing gained
    setting = encoder.forward_bf16
    best, vectors = {False: float("inf"), True: float("inf")}, {}
    try:
        for turn in range(_TURNS + 1):
            for bf16 in (False, True):
                encoder.forward_bf16 = bf16
                seconds, vectors[bf16] = _timed(lambda: encoder.encode(texts, budget).float())
                if turn:
                    best[bf16] = min(best[bf16], seconds)
    finally:
        encoder.forward_bf16 = setting
    cosine = torch.cosine_similarity(vectors[False], vectors[True]).mean()
    return Trial(best[False], best[True], float(cosine))


def _timed(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    started = time.perf_counter()
    found = run().cpu()  # waits for an accelerator
    return time.perf_counter() - started, found
