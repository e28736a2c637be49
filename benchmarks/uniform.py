"""Link targets without locality: those of all parts in one random order, dealt out to the trainers.

What a trainer's own part is compared with; no setting of a plan does it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from pipeline.hashing import key_of, permutation
from pipeline.targets import Links


def dealt_out(targets: Callable[[int], Links], part: int, parts: int) -> Links:
    """The targets that the trainer of `part` gets; `targets` tells those of each part."""
    found = [targets(number) for number in range(parts)]
    everything = Links(
        *(torch.cat([getattr(links, name) for links in found]) for name in Links.__annotations__)
    )
    return everything.select(permutation(key_of("uniform"), len(everything))[part::parts])
