"""Link prediction as a stage sees it: targets, batches, and ranks of true tails among candidates.

Owns what is a target where a relation has no split column. Every method that evaluates is called by
all trainers together. Shape letters: B targets, K candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from pipeline.batch import Batch
from pipeline.candidates import eval_candidates
from pipeline.config import TaskPlan
from pipeline.hashing import hash_ids, key_of
from pipeline.known import KnownTails
from pipeline.negatives import no_fresh
from pipeline.objective import Found, Rows, chosen_share
from pipeline.sampling import LinkBatches, Sampler, link_clusters
from pipeline.targets import Links, held_out_edges, read_links
from pipeline.tasks import LinkHead, RankSums, rank_of_true
from pipeline.trainer import Trainer

_TARGETS = 256
"""Targets scored at a time."""


class LinkObjective:
    """Predict the edges of some relations."""

    metric = "mrr"
    same_order = False

    def __init__(self, trainer: Trainer, task: TaskPlan, sampler: Sampler) -> None:
        self._trainer, self._task = trainer, task
        self.same_order = len(task.relations) == 1
        self._batches = LinkBatches(
            trainer.graph, task, task.relations, sampler=sampler, fresh=self._fresh_nodes
        )

    @cached_property
    def _known(self) -> KnownTails:
        """Made at the first evaluation or export, by all trainers together."""
        trainer = self._trainer
        return KnownTails(trainer.graph, self._task.relations, trainer.parts, trainer.gather)

    def _fresh_nodes(self, node_type: str) -> Tensor:
        cache = self._trainer.cache
        return cache.fresh(node_type) if cache is not None else no_fresh(node_type)

    def prepare(self, head: nn.Module) -> None:
        pass

    def targets(self, part: int, split: str) -> Links:
        """Target edges of a part. Of a relation without a split column: all stored edges, but the few
        held out for validation."""
        graph = self._trainer.graph
        known = read_links(
            graph.folder, graph.manifest, part=part, relations=self._task.relations, split=split
        )
        columns = [[known.relation], [known.source], [known.destination]]
        for number, name in enumerate(self._task.relations):
            if not graph.manifest.relation(name).targets and split != "test":
                source, destination = graph.stored_edges(name, part)
                held_out = held_out_edges(name, source, destination)
                chosen = held_out if split == "valid" else ~held_out
                columns[0].append(torch.full((int(chosen.sum()),), number))
                columns[1].append(source[chosen])
                columns[2].append(destination[chosen])
        return Links(*(torch.cat(column) for column in columns))

    def clusters(self, targets: Links) -> Tensor:
        return link_clusters(self._trainer.graph, self._task.relations, targets)

    def batch(self, targets: Links, part: int, key: int) -> Batch:
        return self._batches.make(targets, part=part, key=key)

    @torch.no_grad()
    def evaluate(self, rows: Rows, head: nn.Module, split: str, limit: int) -> dict[str, float]:
        """mrr and hits@k of true tails among those of `eval_negatives` uniform ones that count, over all
        trainers.

        `limit` > 0 looks at about that many targets of all parts together, chosen by hash.
        """
        trainer, sums, known = self._trainer, RankSums(), self._known
        head.eval()
        found = {part: self.targets(part, split) for part in trainer.parts}
        share = chosen_share(trainer, sum(len(links) for links in found.values()), limit)
        for links in found.values():
            draws = hash_ids(key_of("evaluated", split), links.relation, links.source, links.destination)
            chosen = links.select(share(draws))
            for number in range(len(self._task.relations)):
                of_relation = chosen.select((chosen.relation == number).nonzero().squeeze(1))
                for start in range(0, len(of_relation), _TARGETS):
                    trainer.record.heartbeat("evaluate")
                    some = torch.arange(start, min(start + _TARGETS, len(of_relation)))
                    _, ranks = self._ranks(rows, head, known, number, of_relation.select(some), split)
                    sums.add(ranks)
        head.train()
        torch.distributed.all_reduce(sums.totals)
        return sums.values()

    def _ranks(
        self, rows: Rows, head: nn.Module, known: KnownTails, number: int, links: Links, split: str
    ) -> tuple[Tensor, Tensor]:
        """(float B: scores of the true edges, float B: their ranks, ties counted half)."""
        trainer, relation = self._trainer, self._task.relations[number]
        info = trainer.graph.manifest.relation(relation)
        others = eval_candidates(
            trainer.plan.seed, relation, split, links.source, links.destination,
            self._task.eval_negatives, trainer.graph.ids.count[info.destination],
        )  # fmt: skip
        asked = known.among(relation, links.source, links.destination, others)
        tails = rows(info.destination, asked.distinct)
        heads = rows(info.source, links.source)
        scores = cast(LinkHead, head).score(relation, heads, tails[asked.position.to(trainer.device)])
        ranks = rank_of_true(scores[:, 0], scores[:, 1:], asked.counts.to(trainer.device))
        return scores[:, 0].cpu(), ranks.cpu()

    @torch.no_grad()
    def predictions(self, rows: Rows, head: nn.Module, part: int) -> Iterator[Found]:
        """The test edges with score and rank among the sampled candidates."""
        known = self._known
        head.eval()
        links = self.targets(part, "test")
        for number, name in enumerate(self._task.relations):
            info = self._trainer.graph.manifest.relation(name)
            of_relation = links.select((links.relation == number).nonzero().squeeze(1))
            for start in range(0, len(of_relation), _TARGETS):
                self._trainer.record.heartbeat("export")
                some = of_relation.select(torch.arange(start, min(start + _TARGETS, len(of_relation))))
                scores, ranks = self._ranks(rows, head, known, number, some, "test")
                yield Found(
                    {
                        "source": (info.source, some.source),
                        "destination": (info.destination, some.destination),
                    },
                    {"relation": [name] * len(some), "score": scores.tolist(), "rank": ranks.tolist()},
                )
        head.train()
