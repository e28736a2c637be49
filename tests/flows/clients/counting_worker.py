"""A trainer as it is, whose events say how many LM tokens have run by then, evaluations included."""

from __future__ import annotations

import os
import sys
from typing import Any

from torch import Tensor

from pipeline import worker
from pipeline.batch import Ragged
from pipeline.events import RunRecord
from pipeline.lm import TextEncoder
from pipeline.text_layout import Layout

_hidden, _event = TextEncoder.hidden, RunRecord.event
_so_far = 0


def hidden(self: TextEncoder, tokens: Ragged, layout: Layout) -> tuple[Tensor, Tensor]:
    global _so_far
    before = self.work.tokens_run
    states = _hidden(self, tokens, layout)
    _so_far += self.work.tokens_run - before
    return states


def event(self: RunRecord, name: str, /, **fields: Any) -> None:
    _event(self, name, **fields, tokens_so_far=_so_far)


if __name__ == "__main__":
    TextEncoder.hidden, RunRecord.event = hidden, event  # type: ignore[method-assign]
    code = worker.main()
    sys.stdout.flush()
    os._exit(code)
