"""Where negatives come from: a weighted mixture of pools of nodes, and how likely it makes each node.

Owns draws and their probabilities. Never looks at edges: sampling.py masks those that are true.
Shape letters: B targets, K negatives, N nodes of the type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pipeline.config import TaskPlan
from pipeline.graph import Graph
from pipeline.hashing import hash_ids, key_of, uniform_ids
from pipeline.targets import Links

Fresh = Callable[[str], Tensor]
"""Node type -> int64, ascending: nodes whose text embedding is in the cache."""
_PURPOSE = {"part": "local", "clusters": "clusters", "batch": "batch", "fresh": "fresh"}
"""Pool -> what its draws are hashed for. Whatever these leave comes from anywhere."""


class Pool(Protocol):
    """Something that nodes of one type are drawn from."""

    def __len__(self) -> int:
        """How many draws there are, all of them equally likely."""
        ...

    def at(self, draws: Tensor) -> Tensor:
        """Typed ids for numbers below the length."""
        ...

    def probability(self, ids: Tensor) -> Tensor:
        """float64: how likely a draw is to be each of the nodes."""
        ...


@dataclass(frozen=True)
class Negatives:
    """Negatives of one side: heads or tails."""

    ids: Tensor
    """int64, typed: K shared by the batch, or B x K."""
    log_q: Tensor | None = None
    """float32, the same shape, where scores are to be corrected: see Mixture.log_q."""


@dataclass(frozen=True)
class Ranges:
    """The nodes of ascending ranges of typed ids, none of them empty."""

    first: Tensor
    """int64."""
    size: Tensor
    """int64."""

    def __len__(self) -> int:
        return int(self.size.sum())

    def at(self, draws: Tensor) -> Tensor:
        ends = self.size.cumsum(0)
        block = torch.searchsorted(ends, draws, right=True)
        return draws - (ends - self.size)[block] + self.first[block]

    def probability(self, ids: Tensor) -> Tensor:
        block = torch.searchsorted(self.first, ids, right=True) - 1
        inside = (block >= 0) & (ids < (self.first + self.size)[block.clamp(min=0)])
        return inside.double() / len(self)


@dataclass(frozen=True)
class Ends:
    """Ends of target edges, as often as they are ends."""

    ids: Tensor
    """int64, typed ids with repeats."""

    def __len__(self) -> int:
        return self.ids.numel()

    def at(self, draws: Tensor) -> Tensor:
        return self.ids[draws]

    def probability(self, ids: Tensor) -> Tensor:
        ordered = self.ids.sort().values
        count = torch.searchsorted(ordered, ids, right=True) - torch.searchsorted(ordered, ids)
        return count.double() / len(self)


@dataclass(frozen=True)
class Nodes:
    """Some nodes, each as likely as any other."""

    ids: Tensor
    """int64, typed, ascending and distinct."""

    def __len__(self) -> int:
        return self.ids.numel()

    def at(self, draws: Tensor) -> Tensor:
        return self.ids[draws]

    def probability(self, ids: Tensor) -> Tensor:
        place = torch.searchsorted(self.ids, ids).clamp(max=max(len(self) - 1, 0))
        return (self.ids[place] == ids).double() / len(self)


@dataclass(frozen=True)
class Mixture:
    """Nodes of one type, some from each pool."""

    nodes: int
    """N."""
    pools: Mapping[str, tuple[float, Pool]]
    """Name -> share of the draws, and where they come from; the rest is uniform over all nodes."""

    def draw(self, rows: Tensor, *, columns: int, key: int) -> Tensor:
        """Typed ids, int64 rows x columns; the draws of row i depend on rows[i] alone."""
        drawn = uniform_ids(key, rows, columns=columns, below=self.nodes)
        coin = uniform_ids(key_of(key, "coin"), rows, columns=columns, below=1 << 30)
        before = 0.0
        for name, (share, pool) in self.pools.items():
            pool_key = key_of(key, _PURPOSE[name])
            found = pool.at(uniform_ids(pool_key, rows, columns=columns, below=len(pool)))
            mine = (coin >= before * (1 << 30)) & (coin < (before + share) * (1 << 30))
            drawn, before = torch.where(mine, found, drawn), before + share
        return drawn

    def log_q(self, ids: Tensor) -> Tensor:
        """float32, shape of `ids`: log(q N), where q is how likely a draw is to be each node."""
        rest = 1.0 - sum(share for share, _ in self.pools.values())
        q = torch.full(ids.shape, rest / self.nodes, dtype=torch.float64)
        for share, pool in self.pools.values():
            q += share * pool.probability(ids)
        return (q * self.nodes).log().float()


def no_fresh(node_type: str) -> Tensor:
    """Of a stage without a cache."""
    return torch.zeros(0, dtype=torch.int64)


def mixture_of(
    graph: Graph,
    node_type: str,
    mix: Mapping[str, float],
    *,
    part: int,
    clusters: Tensor,
    ends: Tensor,
    fresh: Fresh = no_fresh,
) -> Mixture:
    """The mixture of a plan; a pool without nodes of the type leaves its share to anywhere.

    `clusters` (int64, ascending) are those of the batch's targets, `ends` (int64) its ends of the type.
    """
    first, last = graph.manifest.part_range(node_type, part)
    pools: dict[str, Pool] = {
        "part": _ranges(torch.tensor([first]), torch.tensor([last - first])),
        "clusters": _ranges(*graph.ids.cluster_ranges(node_type, clusters)),
        "batch": Ends(ends),
        "fresh": Nodes(fresh(node_type) if "fresh" in mix else no_fresh(node_type)),
    }
    total = sum(mix.values())
    chosen = {name: (mix[name] / total, pool) for name, pool in pools.items() if name in mix and len(pool)}
    return Mixture(graph.ids.count[node_type], chosen)


def link_negatives(
    graph: Graph,
    task: TaskPlan,
    relation: str,
    links: Links,
    *,
    part: int,
    clusters: Tensor,
    fresh: Fresh,
    key: int,
) -> tuple[Negatives, Negatives]:
    """(tails, heads) for the links of one relation in a batch of a part; `clusters` as above."""
    info = graph.manifest.relation(relation)
    heads, tails = (info.source, links.source), (info.destination, links.destination)
    if task.negatives == "batch":
        return Negatives(links.destination), Negatives(links.source)

    def drawn(side: tuple[str, Tensor], name: str, rows: Tensor, columns: int) -> Negatives:
        node_type, ends = side
        mix = task.negative_mix
        mixture = mixture_of(graph, node_type, mix, part=part, clusters=clusters, ends=ends, fresh=fresh)
        ids = mixture.draw(rows, columns=columns, key=key_of(key, name))
        ids = ids.squeeze(1) if task.negatives == "joint" else ids
        return Negatives(ids, mixture.log_q(ids) if task.log_q else None)

    if task.negatives == "joint":
        rows = torch.arange(len(links))
        if info.source == info.destination:  # 3n end points, as in the paper
            both = info.source, torch.cat([links.destination, links.source])
            shared = drawn(both, "tail", rows, 1)
            return shared, shared
        return drawn(tails, "tail", rows, 1), drawn(heads, "head", rows, 1)
    per_head = task.negatives_per_edge // 2
    rows = hash_ids(0, links.source, links.destination)
    return (
        drawn(tails, "tail", rows, task.negatives_per_edge - per_head),
        drawn(heads, "head", rows, per_head),
    )


def _ranges(first: Tensor, size: Tensor) -> Ranges:
    return Ranges(first[size > 0], size[size > 0])
