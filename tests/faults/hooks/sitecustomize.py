"""Beside the packages of a job: one trainer waits for ever, or stays away from a collective, as HOOK says.

Python imports this by itself before the worker. HOOK_RANK: which trainer; HOOK_STEP: from which step on.
"""

import os
import time

if os.environ.get("LMGNN_ROLE") == "trainer" and os.environ["RANK"] == os.environ.get("HOOK_RANK"):
    from pipeline.ahead import Ahead

    take, at = Ahead.take, int(os.environ["HOOK_STEP"])

    def misbehave(self: Ahead, step: int) -> object:
        if step == at and os.environ["HOOK"] == "loader":
            while True:
                time.sleep(1)
        if step == at and os.environ["HOOK"] == "collective":
            import torch

            whole = torch.distributed.all_reduce

            def skipped_once(*_: object, **__: object) -> None:
                torch.distributed.all_reduce = whole

            torch.distributed.all_reduce = skipped_once
        return take(self, step)

    Ahead.take = misbehave
