"""Filtered full ranking: every test edge against all nodes, and how many true tails the best k hold.

The "filtered" protocol of Bordes et al., "Translating embeddings for modeling multi-relational
data" (NIPS 2013), section 4.2: one end of a test edge is replaced by every node of its type, and
replacements that are true edges themselves (messages included, any split) are left out. Exact, no
candidate is drawn. Owns the blockwise counting; never computes embeddings, never trains.

Cost: 2 x test edges x nodes scores of D products each, and every row of the table read twice per
relation and trainer. On one core of a busy server with D = 128 a score takes 20 to 30 ns: 1e5
test edges and 1e6 nodes take 1 to 2 hours of one core. Held at a time: one block of rows, one block of
scores, the known pairs of a block, the validation and test edges of all parts, and a row for each
distinct end of this trainer's test edges.

Shape letters: B test edges, Q distinct ends that are kept, K nodes of a block, M known pairs, D width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.graph import Graph
from pipeline.known import held_out_links
from pipeline.sharded import RowSource
from pipeline.targets import Links
from pipeline.tasks import LinkHead, RankSums

_NODES = 8192
"""Nodes read at a time."""
_EDGES = 256
"""Test edges scored against them at a time: 16 MiB of float64 scores."""


@dataclass(frozen=True)
class _Questions:
    """Test edges of a relation: one end is kept, the other one asked for. By (kept, true)."""

    relation: str
    kept_type: str
    asked_type: str
    asks_tail: bool
    kept: Tensor
    """int64 Q: ids of the kept ends, ascending; all belong to this trainer's parts."""
    row: Tensor
    """int64 B: position among `kept`."""
    true: Tensor
    """int64 B: id of the end that is asked for."""
    held_out_row: Tensor
    """int64 M: position among `kept` of each validation and test edge of these ends ..."""
    held_out: Tensor
    """int64 M: ... and the id of its other end, ascending."""


@dataclass(frozen=True)
class _Counts:
    """Nodes that are no known answer, compared with the true one, on the CPU."""

    true: Tensor
    """float32 B: score of the true edge."""
    above: Tensor
    """int64 B: nodes of a higher score, or where one of the two scores is NaN."""
    equal: Tensor
    """int64 B: nodes of the same score."""
    equal_before: Tensor
    """int64 B: those of them with a lower id."""

    def ranks(self) -> Tensor:
        """float64 B, from 1; as tasks.rank_of_true."""
        return 1 + self.above + 0.5 * self.equal.double()


@torch.no_grad()
def full_ranking(
    graph: Graph,
    head: LinkHead,
    tables: Mapping[str, RowSource],
    relations: Sequence[str],
    *,
    parts: Sequence[int],
    device: torch.device,
    gather: Callable[[Any], list[Any]],
    alive: Callable[[], None],
    recall: Sequence[int] = (10, 100),
) -> dict[str, float]:
    """Rank all test edges of `relations`; called by all trainers together, all get the same result.

    `tables`: node type -> final rows of all its nodes; `parts`: this trainer's; `gather`: value ->
    every trainer's value; `alive` is called now and then. NaN where there is no test edge;
    StoreError if the partition lacks its target files.

    * full_mrr, full_hits@1, @3, @10: over both directions, each test edge once per direction.
      full_mrr_tail asks for the destination, full_mrr_head for the source. An equal score counts
      half; NaN counts against the true edge.
    * recall@k: for a source with test edges, the share of its distinct true tails among the k nodes
      of highest score, its known training, message and validation tails left out; of equal scores
      the lower id comes first. The mean over all (relation, source), each weighing the same.

    A test edge that is stored as well stays an answer. Where both ends are of one type, the kept
    node itself is a candidate like any other, left out only if that self edge is known.
    """
    valid, test = held_out_links(graph, relations, parts, gather)
    by_tail, by_head = RankSums(hits=(1, 3, 10)), RankSums(hits=(1, 3, 10))
    found = torch.zeros(1 + len(recall), dtype=torch.float64)
    for number, name in enumerate(relations):
        own = (valid.select(valid.relation == number), test.select(test.relation == number))
        for asks_tail, sums in ((True, by_tail), (False, by_head)):
            questions = _questions(graph, name, own, parts, asks_tail=asks_tail)
            counts = _count(graph, head, tables, questions, device, alive)
            sums.add(counts.ranks())
            if asks_tail:
                found += _recall(questions, counts, recall)
    totals = _over_trainers(torch.cat([by_tail.totals, by_head.totals, found]), alive)
    size = len(by_tail.totals)
    by_tail.totals, by_head.totals, found = totals[:size], totals[size : 2 * size], totals[2 * size :]
    both = RankSums(hits=by_tail.hits)
    both.totals = by_tail.totals + by_head.totals
    return {
        **{f"full_{name}": value for name, value in both.values().items()},
        "full_mrr_tail": by_tail.values()["mrr"],
        "full_mrr_head": by_head.values()["mrr"],
        **{f"recall@{k}": float(s / found[0]) for k, s in zip(recall, found[1:], strict=True)},
    }


def _questions(
    graph: Graph, relation: str, held_out: tuple[Links, Links], parts: Sequence[int], *, asks_tail: bool
) -> _Questions:
    """`held_out`: validation and test edges of the relation, of all parts.

    An edge is asked by the trainer that owns the kept end: all true answers then lie together.
    """
    info = graph.manifest.relation(relation)
    types = (info.source, info.destination) if asks_tail else (info.destination, info.source)

    def ends(links: Links) -> tuple[Tensor, Tensor]:
        found = (links.source, links.destination) if asks_tail else (links.destination, links.source)
        mine = torch.isin(graph.ids.part_of(types[0], found[0]), torch.tensor(list(parts)))
        return found[0][mine], found[1][mine]

    valid, test = ends(held_out[0]), ends(held_out[1])
    kept, true = test
    order = true.argsort(stable=True)
    order = order[kept[order].argsort(stable=True)]
    distinct, row = torch.unique_consecutive(kept[order], return_inverse=True)
    known, other = (torch.cat(pair) for pair in zip(valid, test, strict=True))
    asked = torch.isin(known, distinct)
    known, other = known[asked], other[asked]
    ascending = other.argsort(stable=True)
    return _Questions(
        relation,
        *types,
        asks_tail=asks_tail,
        kept=distinct,
        row=row,
        true=true[order],
        held_out_row=torch.searchsorted(distinct, known[ascending]),
        held_out=other[ascending],
    )


def _count(
    graph: Graph,
    head: LinkHead,
    tables: Mapping[str, RowSource],
    questions: _Questions,
    device: torch.device,
    alive: Callable[[], None],
) -> _Counts:
    """One pass over the nodes of the asked type.

    Scores are computed in float64 and rounded to float32: sums of different order, as in blocks of
    different size, then agree, and what should tie ties.
    """
    size = len(questions.true)
    counts = torch.zeros(3, size, dtype=torch.int64, device=device)
    if not size:
        return _Counts(torch.zeros(0), *counts.cpu())
    kept = tables[questions.kept_type].read(questions.kept).to(device)
    asked = tables[questions.asked_type]
    true = _true_scores(head, questions, kept, asked, device)
    total = graph.ids.count[questions.asked_type]
    for first in range(0, total, _NODES):
        nodes = torch.arange(first, min(first + _NODES, total))
        rows = asked.read(nodes).to(device).double()
        known = _known(graph, questions, nodes)
        for start in range(0, size, _EDGES):
            alive()
            edges = slice(start, start + _EDGES)
            row = questions.row[edges]
            low, high = int(row[0]), int(row[-1]) + 1
            scores = _scores(head, questions, kept[low:high].double(), rows)
            free = _free(scores, known, low, high)
            row = (row - low).to(device)
            before = nodes.to(device) < questions.true[edges, None].to(device)
            counts[:, edges] += _compare(true[edges], scores[row], free[row], before)
    return _Counts(true.cpu(), *counts.cpu())


def _free(scores: Tensor, known: tuple[Tensor, Tensor], low: int, high: int) -> Tensor:
    """bool like `scores`, those of the kept ends `low` to `high`: whether the pair is no known edge."""
    first, last = torch.searchsorted(known[0], torch.tensor([low, high])).tolist()
    free = torch.ones(scores.shape, dtype=torch.bool, device=scores.device)
    row, column = (side[first:last].to(scores.device) for side in known)
    free[row - low, column] = False
    return free


def _compare(true: Tensor, scores: Tensor, free: Tensor, before: Tensor) -> Tensor:
    """int64 3 x B: above, equal and equal_before (see _Counts) among the `free` ones of B x K scores."""
    above = ~(scores <= true[:, None]) & free
    equal = (scores == true[:, None]) & free
    return torch.stack([above.sum(1), equal.sum(1), (equal & before).sum(1)])


def _true_scores(
    head: LinkHead, questions: _Questions, kept: Tensor, asked: RowSource, device: torch.device
) -> Tensor:
    """float32 B."""
    found = []
    for start in range(0, len(questions.true), _NODES):
        edges = slice(start, start + _NODES)
        left = kept[questions.row[edges].to(device)].double()
        right = asked.read(questions.true[edges]).to(device).double()
        ends = (left, right) if questions.asks_tail else (right, left)
        found.append(head.score(questions.relation, *ends).float())
    return torch.cat(found)


def _scores(head: LinkHead, questions: _Questions, kept: Tensor, rows: Tensor) -> Tensor:
    """float32 of every kept row with every row of a block."""
    if questions.asks_tail:
        return head.score_all(questions.relation, kept, rows).float()
    return head.score_all(questions.relation, rows, kept).T.float()


def _known(graph: Graph, questions: _Questions, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """(position among `kept`, ascending; position in the block) of every known pair, int64 M."""
    if questions.asks_tail:
        column, row = graph.among(questions.relation, nodes, questions.kept)
    else:
        row, column = graph.among(questions.relation, questions.kept, nodes)
    bounds = torch.stack([nodes[0], nodes[-1] + 1])
    first, last = torch.searchsorted(questions.held_out, bounds).tolist()
    row = torch.cat([row, questions.held_out_row[first:last]])
    column = torch.cat([column, questions.held_out[first:last] - nodes[0]])
    order = row.argsort(stable=True)
    return row[order], column[order]


def _recall(questions: _Questions, counts: _Counts, recall: Sequence[int]) -> Tensor:
    """float64 1 + len(recall): number of kept ends, sum of their recalls for each k.

    A true tail is among the best k when fewer than k candidates come before it: free nodes, which
    are counted, and the other true tails of the same source.
    """
    row, true = questions.row, questions.true
    first = torch.ones(len(row), dtype=torch.bool)
    first[1:] = (row.diff() != 0) | (true.diff() != 0)  # a repeated edge is one tail
    row, score = row[first], counts.true[first]
    order = score.argsort(descending=True, stable=True)  # NaN first, so that it counts against others
    order = order[row[order].argsort(stable=True)]
    sizes = torch.bincount(row, minlength=len(questions.kept))
    before = torch.empty_like(order)
    before[order] = torch.arange(len(order)) - (sizes.cumsum(0) - sizes)[row]
    before += (counts.above + counts.equal_before)[first]
    share = 1 / sizes[row].double()
    hits = [(share * ((before < k) & ~score.isnan())).sum() for k in recall]
    return torch.stack([torch.tensor(len(questions.kept), dtype=torch.float64), *hits])


def _over_trainers(totals: Tensor, alive: Callable[[], None]) -> Tensor:
    """Sum of every trainer's `totals` (overwritten); shows that this one lives while others count."""
    work = torch.distributed.all_reduce(totals, async_op=True)
    while not work.is_completed():
        alive()
        time.sleep(0.001)
    work.wait()
    return totals
