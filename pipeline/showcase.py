"""Material for the report that only trainers can make: ranking examples with their texts' ids, and
embeddings of some connected nodes before and after each kind of training (the paper's figure 1).

Rank 0 writes; ids are the user's own. Never computes a metric that is reported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.batch import Ragged
from pipeline.candidates import eval_candidates
from pipeline.config import StagePlan, TaskPlan
from pipeline.durable import write_whole
from pipeline.hashing import hash_ids, key_of
from pipeline.known import KnownTails
from pipeline.model import text_types
from pipeline.sharded import RowSource
from pipeline.targets import Links, read_links
from pipeline.tasks import LinkHead
from pipeline.trainer import Trainer
from pipeline.userids import UserIds

_PAIRS = 300
_EXAMPLES = 8
_SHOWN = 5


class Showcase:
    """A few test edges between texts, chosen by hash, and what is shown of them."""

    def __init__(self, trainer: Trainer, task_name: str) -> None:
        """Called by all trainers together."""
        self._trainer, self._task_name = trainer, task_name
        self._task: TaskPlan = trainer.plan.tasks[task_name]
        self._folder = trainer.run / "report"
        self._user_ids = UserIds(trainer.graph)
        text = set(text_types(trainer.graph.manifest))
        manifest = trainer.graph.manifest
        self._relations = [
            name
            for name in self._task.relations
            if manifest.relation(name).source in text and manifest.relation(name).destination in text
        ]
        self._known = KnownTails(trainer.graph, self._relations, trainer.parts, trainer.gather)
        picked = self._pick(_PAIRS) if trainer.rank == 0 and self._relations else None
        self._links = picked if picked is not None and len(picked) else None

    def _pick(self, count: int) -> Links:
        graph = self._trainer.graph
        parts = range(graph.host * graph.manifest.trainers, (graph.host + 1) * graph.manifest.trainers)
        found = [
            read_links(graph.folder, graph.manifest, part=p, relations=self._relations, split="test")
            for p in parts
        ]
        links = Links(*(torch.cat([getattr(f, n) for f in found]) for n in Links.__dataclass_fields__))
        order = hash_ids(key_of("showcase"), links.relation, links.source, links.destination).argsort()
        return links.select(order[:count])

    def before(self) -> None:
        """Embed the texts with the LM as it is now, in rank 0 alone; called before any training."""
        if self._links is not None and not (self._folder / "text.npz").exists():
            rows = {t: self._encode(t, ids) for t, ids in self._ids(self._links).items()}
            self._save_rows("text", rows)
            self._save_examples("before", self._rank_texts())

    def rows(self, name: str, tables: Mapping[str, RowSource]) -> None:
        """Store the nodes' rows of `tables` under a panel's name (graph_lm, lm_gnn)."""
        if self._links is not None:
            self._save_rows(name, {t: tables[t].read(i) for t, i in self._ids(self._links).items()})

    def after(self, tables: Mapping[str, RowSource], head: nn.Module) -> None:
        """Rank the examples' candidates with the trained model."""
        if self._links is None:
            return
        ranked = []
        for name, source, candidates in self._examples():
            info = self._trainer.graph.manifest.relation(name)
            with torch.no_grad():
                u = tables[info.source].read(source).float().to(self._trainer.device)
                v = tables[info.destination].read(candidates).float().to(self._trainer.device)
                ranked.append(cast(LinkHead, head).score(name, u, v[None])[0].cpu())
        self._save_examples("after", ranked)
        self._write_projection()

    def _ids(self, links: Links) -> dict[str, Tensor]:
        """Node type -> ids of both ends, distinct."""
        ends: dict[str, list[Tensor]] = {}
        for number, name in enumerate(self._relations):
            info, rows = self._trainer.graph.manifest.relation(name), links.relation == number
            ends.setdefault(info.source, []).append(links.source[rows])
            ends.setdefault(info.destination, []).append(links.destination[rows])
        return {t: torch.unique(torch.cat(ids)) for t, ids in ends.items()}

    def _encode(self, node_type: str, ids: Tensor) -> Tensor:
        tokens = self._trainer.graph.tokens(node_type, ids)
        device = self._trainer.device
        on_device = Ragged(tokens.values.to(device), tokens.offsets.to(device))
        return self._trainer.model.text.of(node_type).encode(on_device, StagePlan.forward_tokens).cpu()

    def _examples(self) -> list[tuple[str, Tensor, Tensor]]:
        """(relation, source id as 1-vector, candidates with the true tail first)."""
        assert self._links is not None
        graph, made = self._trainer.graph, []
        for row in range(min(_EXAMPLES, len(self._links))):
            link = self._links.select(torch.tensor([row]))
            name = self._relations[int(link.relation[0])]
            count = graph.ids.count[graph.manifest.relation(name).destination]
            others = eval_candidates(
                self._trainer.plan.seed, name, "test", link.source, link.destination, 100, count
            )
            others = others[self._known.among(name, link.source, link.destination, others).counts]
            made.append((name, link.source, torch.cat([link.destination, torch.unique(others)])))
        return made

    def _rank_texts(self) -> list[Tensor]:
        """Scores of every example's candidates by cosine of the LM's embeddings."""
        scores = []
        for name, source, candidates in self._examples():
            info = self._trainer.graph.manifest.relation(name)
            u, v = self._encode(info.source, source), self._encode(info.destination, candidates)
            scores.append(torch.nn.functional.cosine_similarity(u, v))
        return scores

    def _save_rows(self, name: str, rows: Mapping[str, Tensor]) -> None:
        self._folder.mkdir(exist_ok=True)
        flat = torch.cat([rows[t].float() for t in sorted(rows)]).numpy()
        np.savez_compressed(self._folder / f"{name}.npz", rows=flat)

    def _write_projection(self) -> None:
        """Gather the panels into projection.npz: rows, groups and connected pairs."""
        assert self._links is not None
        ids = self._ids(self._links)
        types = sorted(ids)
        starts = dict(zip(types, np.cumsum([0, *(len(ids[t]) for t in types)]), strict=False))
        pairs = []
        for number, name in enumerate(self._relations):
            info, rows = self._trainer.graph.manifest.relation(name), self._links.relation == number
            ends = (
                (info.source, self._links.source[rows]),
                (info.destination, self._links.destination[rows]),
            )
            pairs.append(np.stack([starts[t] + torch.searchsorted(ids[t], i).numpy() for t, i in ends], 1))
        panels = {
            name: np.load(self._folder / f"{name}.npz")["rows"]
            for name in ("text", "graph_lm", "lm_gnn")
            if (self._folder / f"{name}.npz").exists()
        }
        group = np.concatenate([np.array(self._groups(t, ids[t])) for t in types])
        np.savez_compressed(
            self._folder / "projection.npz", group=group, edges=np.concatenate(pairs), **panels
        )

    def _groups(self, node_type: str, ids: Tensor) -> list[str]:
        """A coarse name for each node: what stands before the first separator of its id."""
        names = self._names(node_type, ids)
        cut = [n.replace(":", ".").split(".")[0] for n in names]
        return cut if len(set(cut)) < len(cut) / 2 else [node_type] * len(names)

    def _names(self, node_type: str, ids: Tensor) -> list[str]:
        names: list[str] = self._user_ids(node_type, ids).to_pylist()
        return names

    def _save_examples(self, when: str, scores: Sequence[Tensor]) -> None:
        """report/<when>.json: per example the user's ids, best first, and which one is true."""
        examples = []
        for (name, source, candidates), values in zip(self._examples(), scores, strict=True):
            info = self._trainer.graph.manifest.relation(name)
            order = values.argsort(descending=True, stable=True)
            names = self._names(info.destination, candidates)
            best = [
                {"id": names[i], "score": float(values[i]), "true": i == 0} for i in order[:_SHOWN].tolist()
            ]
            examples.append(
                {
                    "relation": name,
                    "source_type": info.source,
                    "destination_type": info.destination,
                    "query": self._names(info.source, source)[0],
                    "true": names[0],
                    "rank": 1 + int((values > values[0]).sum()),
                    "candidates": len(values),
                    "best": best,
                }
            )
        self._folder.mkdir(exist_ok=True)
        write_whole(self._folder / f"{when}.json", json.dumps(examples), sync=False)
