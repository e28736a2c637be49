"""Which edges a trainer knows to be true: those of the stored graph and the held-out targets of every part.

Owns the exchange of validation and test edges between trainers and the look-up of true tails. Never draws
a candidate. Shape letters: B targets, K candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.candidates import countable
from pipeline.graph import Graph
from pipeline.targets import Links, read_links


def held_out_links(
    graph: Graph, relations: Sequence[str], parts: Sequence[int], gather: Callable[[Any], list[Any]]
) -> tuple[Links, Links]:
    """Validation and test edges of all parts; called by all trainers together, `parts` being their own."""
    own = [np.zeros((4, 0), dtype=np.int64)]
    for part in parts:
        for number, split in enumerate(("valid", "test")):
            links = read_links(graph.folder, graph.manifest, part=part, relations=relations, split=split)
            columns = (torch.full_like(links.source, number), links.relation, links.source, links.destination)
            own.append(torch.stack(columns).numpy())
    rows = torch.from_numpy(np.concatenate(gather(np.concatenate(own, axis=1)), axis=1))
    everything = Links(rows[1], rows[2], rows[3])
    return everything.select(rows[0] == 0), everything.select(rows[0] == 1)


@dataclass(frozen=True)
class Candidates:
    """Tails that true ones are ranked against."""

    distinct: Tensor
    """int64: all tails that occur, the true ones too, ascending."""
    position: Tensor
    """int64 B x (1 + K): where the true tail and its candidates stand in `distinct`."""
    counts: Tensor
    """bool B x K: see candidates.countable."""


class KnownTails:
    """The true tails of heads under some relations, whatever their split."""

    def __init__(
        self, graph: Graph, relations: Sequence[str], parts: Sequence[int], gather: Callable[[Any], list[Any]]
    ) -> None:
        """Called by all trainers together."""
        self._graph = graph
        valid, test = held_out_links(graph, relations, parts, gather)
        self._held_out: dict[str, tuple[Tensor, Tensor]] = {}
        for number, name in enumerate(relations):
            found = [links.select(links.relation == number) for links in (valid, test)]
            source, destination = (
                torch.cat([getattr(f, n) for f in found]) for n in ("source", "destination")
            )
            order = source.argsort(stable=True)
            self._held_out[name] = source[order], destination[order]

    def among(self, relation: str, source: Tensor, destination: Tensor, others: Tensor) -> Candidates:
        """Candidates (`others`, int64 B x K) of true edges with what is known of them; all ids are typed."""
        distinct, position = torch.unique(
            torch.cat([destination[:, None], others], dim=1), return_inverse=True
        )
        heads, row = torch.unique(source, return_inverse=True)
        exists = torch.zeros(len(heads), len(distinct), dtype=torch.bool)
        for pairs in (self._stored(relation, heads, distinct), self._not_stored(relation, heads, distinct)):
            exists[pairs] = True
        known = exists[row[:, None], position[:, 1:]]
        info = self._graph.manifest.relation(relation)
        within = info.source == info.destination
        counts = countable(source, destination, others, known=known, within=within)
        return Candidates(distinct, position, counts)

    def _stored(self, relation: str, heads: Tensor, tails: Tensor) -> tuple[Tensor, Tensor]:
        """(positions among the heads, among the tails) of edges of the stored graph.

        Looked up among the in-edges of the heads where the relation is stored turned round as well: there
        are far fewer heads than tails.
        """
        reverse = self._graph.manifest.relation(relation).reverse
        if reverse:
            return self._graph.among(reverse, heads, tails)
        tail, head = self._graph.among(relation, tails, heads)
        return head, tail

    def _not_stored(self, relation: str, heads: Tensor, tails: Tensor) -> tuple[Tensor, Tensor]:
        """The same of validation and test edges."""
        source, destination = self._held_out[relation]
        first, last = torch.searchsorted(source, heads), torch.searchsorted(source, heads, right=True)
        row = torch.repeat_interleave(torch.arange(len(heads)), last - first)
        before = (last - first).cumsum(0) - (last - first)
        other = destination[torch.arange(len(row)) + (first - before)[row]]
        column = torch.searchsorted(tails, other).clamp_(max=len(tails) - 1)
        match = tails[column] == other
        return row[match], column[match]
