"""Which nodes have a stored text embedding that may serve, on all trainers alike: what negatives without a
language model are drawn from.

Owns when each embedding was computed, for all nodes on every trainer (8 bytes each), and where there are
fewer slots than nodes, whose each slot is (8 more); the embeddings lie elsewhere (texttable.py). Told of
every write, so that it always says what the records' own stamps say and a resumed stage, which reads those,
draws what an unbroken one would. Never asks another trainer. Shape letter: N nodes of a type.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.aging import lifetimes
from pipeline.slots import Slots

NEVER = -1
"""In place of a step: there is no embedding, or it is another model's."""
_NOBODY = -1


class FreshNodes:
    """Nodes by type."""

    def __init__(self, counts: Mapping[str, int], slots: Mapping[str, Slots]) -> None:
        """`counts`: text type -> N; `slots`: of the same types."""
        self._written = {name: torch.full((count,), NEVER) for name, count in counts.items()}
        self._slots = slots
        self._holder = {
            name: torch.full((count,), _NOBODY) for name, count in counts.items() if not slots[name].complete
        }
        """Type -> int64, the node whose embedding a slot holds."""
        self._found: dict[str, tuple[int, Tensor]] = {}
        """Type -> step last asked for, and what was found: a batch asks several times."""

    def wrote(self, node_type: str, ids: Tensor, step: Tensor | int) -> None:
        """The embeddings of `ids` (int64) are now those of `step` (int64, one each or one for all). Of two
        nodes with one slot only that which has it may be named with a step."""
        if node_type in self._holder:
            here = ids[torch.zeros_like(ids) + step != NEVER]
            slots, holder = self._slots[node_type].of(here), self._holder[node_type]
            before = holder[slots]
            self._written[node_type][before[before != _NOBODY]] = NEVER
            holder[slots] = here
        self._written[node_type][ids] = step
        self._found.pop(node_type, None)

    def at(self, node_type: str, step: int, promised: int) -> Tensor:
        """int64, ascending: nodes whose embedding has not ended at a step; none of a type without texts."""
        if node_type not in self._written:
            return torch.zeros(0, dtype=torch.int64)
        known = self._found.get(node_type)
        if known is None or known[0] != step:
            ids = (self._written[node_type] != NEVER).nonzero().squeeze(1)
            written = self._written[node_type][ids]
            known = step, ids[step - written <= lifetimes(ids, written, promised)]
            self._found[node_type] = known
        return known[1]
