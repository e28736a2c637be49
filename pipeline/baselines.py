"""Classical baselines for link prediction, on the very candidates that the model is ranked on.

`python -m pipeline baselines RUN` adds popularity, TF-IDF and TF-IDF with neighbours to a run's
metrics.json. Owns these three and the ranking with ties; reads the original tables and the
partition's target files. The test split is scored once, after validation has chosen the one free
number. Never loads a model. Shape letters: N nodes of all types, B edges, K candidates, V words.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from partition.errors import StoreError, UsageError
from partition.manifest import SPLITS, PartitionManifest
from partition.reader import read_edge_targets, read_ids
from partition.schema import parse_schema
from partition.storage import InputFolder
from partition.tables import GraphTables, load_tables, table_files
from pipeline.candidates import eval_candidates
from pipeline.config import TaskPlan, TrainPlan
from pipeline.durable import write_whole

_WEIGHTS = tuple(round(0.1 * i, 1) for i in range(11))
_PAIRS_AT_ONCE = 50_000
"""Their sparse rows take about 100 MB."""


@dataclass(frozen=True)
class Question:
    """Edges to rank; all ids are rows among the nodes of all types."""

    source: np.ndarray
    """int64 B."""
    tails: np.ndarray
    """int64 B x (1 + K), the true tail first."""
    popularity: np.ndarray
    """int64 N: training targets of the relation that end in a node."""


@dataclass(frozen=True)
class TextSpace:
    """Vectors of unit length, or zero where a node has no text or no neighbour with one."""

    own: sp.csr_matrix
    """float32 N x V: TF-IDF."""
    around: sp.csr_matrix
    """float32 N x V: mean TF-IDF of the in- and out-neighbours in the stored graph."""


@dataclass(frozen=True)
class TaskBaselines:
    """Mean reciprocal rank by baseline; empty where a split has no edges."""

    valid: Mapping[str, float]
    test: Mapping[str, float]
    weight: float
    """Share of the neighbours in the score of tfidf_neighbours, best on validation."""


def run(run_folder: str | Path) -> dict[str, TaskBaselines]:
    """Compute the baselines of every task and write their test values into RUN/metrics.json.

    UsageError if the folder is no run, StoreError if the partition does not fit the graph.
    """
    folder = Path(run_folder)
    plan = TrainPlan.from_json(_read(folder, "plan.json"))
    partition = Path(json.loads(_read(folder, "launch.json"))["partition"])
    graph = StoredGraph(plan, partition)
    space = text_space(graph.texts(), graph.message_edges())
    found = {name: _task(graph, space, task, plan.seed) for name, task in plan.tasks.items()}
    _add_to_metrics(folder / "metrics.json", found)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="lmgnn baselines",
        description="Rank the evaluation edges of a run by popularity, TF-IDF and TF-IDF with neighbours.",
        epilog="example: lmgnn baselines runs/latest",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run that has been started")
    folder = parser.parse_args(argv).run
    for name, task in run(folder).items():
        for baseline, value in task.test.items():
            print(f"{name}: {baseline} test MRR {value:.4f} (validation {task.valid.get(baseline, 0):.4f})")
        print(f"{name}: share of the neighbours {task.weight}, chosen on validation from {_WEIGHTS}")
    print("The test split was scored once, with that choice.")
    return 0


class StoredGraph:
    """Texts, edges and questions of a partition, in one numbering of rows over all node types."""

    def __init__(self, plan: TrainPlan, partition: Path) -> None:
        self._folder = partition
        self._manifest = PartitionManifest.load(partition)
        inputs = InputFolder(plan.graph.path)
        with inputs.file("graph.toml").open() as stream:
            schema = parse_schema(stream.read().decode(), where=f"{plan.graph.path}/graph.toml")
        schema = schema.select(plan.graph.relations)
        self._tables: GraphTables = load_tables(schema, table_files(schema, inputs))
        sizes = [len(table.ids) for table in self._tables.nodes.values()]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        self._first = dict(zip(self._tables.nodes, starts.tolist(), strict=False))
        self.size = int(starts[-1])
        self._rows_of: dict[str, np.ndarray] = {}

    def texts(self) -> list[str]:
        """N texts; "" for nodes without."""
        texts: list[str] = []
        for table in self._tables.nodes.values():
            texts += [""] * len(table.ids) if table.texts is None else table.texts.to_pylist()
        return texts

    def message_edges(self) -> tuple[np.ndarray, np.ndarray]:
        """(sources, destinations) of every edge outside validation and test."""
        sources, destinations = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for table in self._tables.edges.values():
            kept = ~table.held_out
            sources.append(table.source[kept] + self._first[table.schema.source])
            destinations.append(table.destination[kept] + self._first[table.schema.destination])
        return np.concatenate(sources), np.concatenate(destinations)

    def questions(self, task: TaskPlan, split: str, seed: int) -> Iterator[Question]:
        """One per relation that has edges in the split."""
        for relation in task.relations:
            info = self._manifest.relation(relation)
            if not info.targets.get(split):
                continue
            source, destination, splits = self._targets(relation, sum(info.targets.values()))
            chosen, train = splits == SPLITS.index(split), splits == SPLITS.index("train")
            source_rows, tail_rows = self._rows(info.source), self._rows(info.destination)
            candidates = eval_candidates(
                seed,
                relation,
                split,
                torch.from_numpy(source[chosen]),
                torch.from_numpy(destination[chosen]),
                task.eval_negatives,
                self._manifest.node_type(info.destination).count,
            ).numpy()
            yield Question(
                source_rows[source[chosen]],
                tail_rows[np.concatenate([destination[chosen][:, None], candidates], axis=1)],
                np.bincount(tail_rows[destination[train]], minlength=self.size),
            )

    def _targets(self, relation: str, expected: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(source, destination, split) of all target edges, typed ids."""
        parts = [read_edge_targets(self._folder, h, relation) for h in range(self._manifest.hosts)]
        found = sum(len(part.source) for part in parts)
        if found != expected:
            raise StoreError(
                f"{self._folder}: {found} targets of {relation!r}, but the manifest names {expected}",
                hint="build the partition again",
            )
        return (
            np.concatenate([part.source for part in parts]),
            np.concatenate([part.destination for part in parts]),
            np.concatenate([part.split for part in parts]),
        )

    def _rows(self, node_type: str) -> np.ndarray:
        """int64: typed id -> row among all nodes."""
        if node_type not in self._rows_of:
            known = self._tables.nodes[node_type].ids
            parts = [read_ids(self._folder, h, node_type) for h in range(self._manifest.hosts)]
            ids = pa.concat_arrays([part.cast(known.type) for part in parts])
            found = pc.index_in(ids, value_set=known)
            if found.null_count or len(ids) != len(known):
                raise StoreError(
                    f"{self._folder}: its {node_type} ids are not those of the graph's tables",
                    hint="the tables have changed since: build the partition again",
                )
            self._rows_of[node_type] = found.to_numpy().astype(np.int64) + self._first[node_type]
        return self._rows_of[node_type]


def text_space(texts: Sequence[str], edges: tuple[np.ndarray, np.ndarray]) -> TextSpace:
    """Vectors of N texts and of their neighbourhoods; edges are (sources, destinations)."""
    own = _tfidf(texts)
    source, destination = edges
    ends = (np.concatenate([source, destination]), np.concatenate([destination, source]))
    ones = np.ones(2 * len(source), dtype=np.float32)
    adjacency = sp.csr_matrix((ones, ends), shape=(len(texts), len(texts)))
    adjacency.data[:] = 1  # parallel edges count once
    # the sum has the direction of the mean, and only the direction is used
    return TextSpace(own, normalize(adjacency @ own))


def scores(space: TextSpace, question: Question) -> dict[str, np.ndarray]:
    """Baseline -> float B x (1 + K); tfidf and neighbours are what tfidf_neighbours mixes.

    neighbours is the mean of three cosines: own text with the other end's neighbourhood, the same
    the other way round, and neighbourhood with neighbourhood.
    """
    own, around = space.own, space.around
    both = own + around
    neighbours, tfidf = np.zeros(question.tails.shape), np.zeros(question.tails.shape)
    step = max(1, _PAIRS_AT_ONCE // question.tails.shape[1])
    for first in range(0, len(question.source), step):
        here = slice(first, first + step)
        heads, tails = question.source[here], question.tails[here]
        tfidf[here] = _dots(own, own, heads, tails)
        neighbours[here] = (_dots(both, around, heads, tails) + _dots(around, own, heads, tails)) / 3
    return {"popularity": question.popularity[question.tails], "tfidf": tfidf, "neighbours": neighbours}


def reciprocal_ranks(scores_BK: np.ndarray) -> np.ndarray:
    """float B: 1 / (1 + candidates above the true tail in column 0 + half of those level with it)."""
    true, others = scores_BK[:, :1], scores_BK[:, 1:]
    return 1.0 / (1 + (others > true).sum(axis=1) + 0.5 * (others == true).sum(axis=1))


def _tfidf(texts: Sequence[str]) -> sp.csr_matrix:
    vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float32)
    analyze = vectorizer.build_analyzer()
    if not any(analyze(text) for text in texts):
        return sp.csr_matrix((len(texts), 1), dtype=np.float32)
    # nodes without text are no documents: they would make every word look rare
    return vectorizer.fit([text for text in texts if text]).transform(texts)


def _dots(left: sp.csr_matrix, right: sp.csr_matrix, heads_B: np.ndarray, tails_BK: np.ndarray) -> np.ndarray:
    """B x K: products of rows."""
    pairs = left[np.repeat(heads_B, tails_BK.shape[1])].multiply(right[tails_BK.ravel()])
    return np.asarray(pairs.sum(axis=1, dtype=np.float64)).reshape(tails_BK.shape)


def _mixed(parts: Mapping[str, np.ndarray], weight: float) -> np.ndarray:
    return (1 - weight) * parts["tfidf"] + weight * parts["neighbours"]


def _task(graph: StoredGraph, space: TextSpace, task: TaskPlan, seed: int) -> TaskBaselines:
    valid = [scores(space, question) for question in graph.questions(task, "valid", seed)]
    tuned = {weight: _mrr([_mixed(parts, weight) for parts in valid]) for weight in _WEIGHTS}
    best = max(tuned, key=lambda weight: tuned[weight]) if valid else 0.5
    result = TaskBaselines(_values(valid, best), {}, best)
    test = [scores(space, question) for question in graph.questions(task, "test", seed)]
    return replace(result, test=_values(test, best))


def _values(asked: Sequence[Mapping[str, np.ndarray]], weight: float) -> dict[str, float]:
    if not asked:
        return {}
    return {
        "popularity": _mrr([parts["popularity"] for parts in asked]),
        "tfidf": _mrr([parts["tfidf"] for parts in asked]),
        "tfidf_neighbours": _mrr([_mixed(parts, weight) for parts in asked]),
    }


def _mrr(asked: Sequence[np.ndarray]) -> float:
    """Mean over the edges of all relations."""
    return float(np.concatenate([reciprocal_ranks(s) for s in asked]).mean()) if asked else 0.0


def _read(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_text()
    except FileNotFoundError:
        raise UsageError(
            f"{folder} is no run ({name} is missing)", hint="name a folder below runs/"
        ) from None


def _add_to_metrics(path: Path, found: Mapping[str, TaskBaselines]) -> None:
    metrics: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for name, task in found.items():
        entry = metrics.setdefault("tasks", {}).setdefault(name, {})
        entry["baselines"] = dict(task.test)
    write_whole(path, json.dumps(metrics, indent=1) + "\n", sync=True)
