"""Baselines of link prediction, on the very candidates that the model is ranked on.

Owns popularity, TF-IDF, TF-IDF with neighbours and the graph without text, the choice of their free
numbers on validation, and the ranking with ties. The test split is scored once, with that choice.
Shape letters: N nodes of all types, B edges, K candidates, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.preprocessing import normalize

from pipeline.baselines.features import WIDTH, Features
from pipeline.baselines.stored_graph import Question
from pipeline.tasks import rank_of_true

WEIGHTS = tuple(round(0.1 * i, 1) for i in range(11))
DIMENSIONS = (16, 64, WIDTH)
POPULARITY_WEIGHTS = (0.0, 0.25, 0.5, 0.75)
_HITS = (1, 3, 10)
_PAIRS_AT_ONCE = 50_000
"""Their sparse rows take about 100 MB."""


@dataclass(frozen=True)
class Baseline:
    """What one baseline reaches."""

    valid: Mapping[str, float]
    """Metric -> value."""
    test: Mapping[str, float]
    choice: Mapping[str, Any]
    """What validation chose, by name."""


@dataclass(frozen=True)
class Asked:
    """A question with the scores that several baselines share, computed when first asked for."""

    features: Features
    question: Question

    @cached_property
    def popularity(self) -> np.ndarray:
        """int64 B x (1 + K)."""
        return self.question.popularity[self.question.tails]

    @cached_property
    def tfidf(self) -> np.ndarray:
        """float B x (1 + K): cosine of the two texts."""
        own = self.features.own
        return _in_steps(self.question, lambda heads, tails: _dots(own, own, heads, tails))

    @cached_property
    def neighbours(self) -> np.ndarray:
        """float B x (1 + K): the mean of three cosines: own text with the other end's neighbourhood, the
        same the other way round, and neighbourhood with neighbourhood."""
        own, around = self.features.own, self.features.around
        both = own + around

        def score(heads: np.ndarray, tails: np.ndarray) -> np.ndarray:
            return (_dots(both, around, heads, tails) + _dots(around, own, heads, tails)) / 3

        return _in_steps(self.question, score)


Scorer = Callable[[Asked], np.ndarray]
"""-> float B x (1 + K)."""


def link_baselines(
    features: Features, valid: Iterable[Question], test: Iterable[Question]
) -> dict[str, Baseline]:
    """Baseline -> its figures; those of texts only where the graph has some."""
    tuned = [Asked(features, question) for question in valid]
    chosen: dict[str, tuple[Mapping[str, Any], Scorer]] = {"popularity": ({}, lambda a: a.popularity)}
    if features.own.nnz:
        chosen["tfidf"] = ({}, lambda asked: asked.tfidf)
        chosen["tfidf_neighbours"] = _best_mixture(tuned)
    chosen["graph"] = _best_graph(features, tuned)
    valid_figures = {name: _figures((a, scorer(a)) for a in tuned) for name, (_, scorer) in chosen.items()}
    asked = [Asked(features, question) for question in test]
    return {
        name: Baseline(valid_figures[name], _figures((a, scorer(a)) for a in asked), choice)
        for name, (choice, scorer) in chosen.items()
    }


def row_scores(rows: np.ndarray, question: Question) -> np.ndarray:
    """float32 B x (1 + K): products of rows (N x D)."""
    return _in_steps(
        question, lambda heads, tails: np.einsum("bd,bkd->bk", rows[heads], rows[tails]), dtype=np.float32
    )


def reciprocal_ranks(scores_BK: np.ndarray, counts_BK: np.ndarray) -> np.ndarray:
    """float B: 1 / rank of the true tail, column 0 of B x (1 + K) scores, among the candidates that count
    (bool B x K), as tasks.rank_of_true has it."""
    scores = torch.from_numpy(np.ascontiguousarray(scores_BK, dtype=np.float64))
    ranks: np.ndarray = (
        rank_of_true(scores[:, 0], scores[:, 1:], torch.from_numpy(counts_BK)).double().numpy()
    )
    return 1 / ranks


def _best_mixture(valid: Sequence[Asked]) -> tuple[Mapping[str, Any], Scorer]:
    """Of texts and of neighbourhoods."""
    tuned = {w: _figures((asked, _mixed(asked, w)) for asked in valid)["mrr"] for w in WEIGHTS}
    weight = max(tuned, key=lambda w: tuned[w])
    return {"share of the neighbours": weight}, lambda asked: _mixed(asked, weight)


def _mixed(asked: Asked, weight: float) -> np.ndarray:
    return (1 - weight) * asked.tfidf + weight * asked.neighbours


def _best_graph(features: Features, valid: Sequence[Asked]) -> tuple[Mapping[str, Any], Scorer]:
    """Dimension, dot or cosine, and how much popularity counts; each part divided by its spread."""
    width = features.spectral.shape[1]
    popular = [np.log1p(asked.popularity) for asked in valid]
    spread = _spread(popular)
    best: tuple[float, Mapping[str, Any], Scorer] | None = None
    for dimension, kind in product(sorted({min(d, width) for d in DIMENSIONS}), ("dot", "cosine")):
        rows = features.spectral[:, :dimension]
        rows = normalize(rows) if kind == "cosine" else rows
        products = [row_scores(rows, asked.question) for asked in valid]
        scale = _spread(products)
        for weight in POPULARITY_WEIGHTS:
            factors = ((1 - weight) / scale, weight / spread)
            parts = zip(valid, products, popular, strict=True)
            mrr = _figures((asked, factors[0] * p + factors[1] * q) for asked, p, q in parts)["mrr"]
            if best is None or mrr > best[0]:
                choice = {"dimensions": dimension, "score": kind, "share of popularity": weight}
                best = (mrr, choice, _graph_scorer(rows, *factors))
    assert best is not None
    return best[1], best[2]


def _graph_scorer(rows: np.ndarray, of_rows: float, of_popularity: float) -> Scorer:
    return lambda asked: (
        of_rows * row_scores(rows, asked.question) + of_popularity * np.log1p(asked.popularity)
    )


def _spread(parts: Sequence[np.ndarray]) -> float:
    """Standard deviation over all, or 1 where there is none."""
    return float(np.concatenate([part.ravel() for part in parts]).std()) or 1.0


def _figures(scored: Iterable[tuple[Asked, np.ndarray]]) -> dict[str, float]:
    """Means over the edges of all relations; with each question its scores, float B x (1 + K)."""
    found = np.concatenate([reciprocal_ranks(scores, asked.question.counts) for asked, scores in scored])
    # a rank is a whole or half number; its reciprocal's reciprocal need not be
    hits = {f"hits@{k}": float((found >= 1 / k - 1e-9).mean()) for k in _HITS}
    return {"mrr": float(found.mean()), **hits}


def _in_steps(
    question: Question, score: Callable[[np.ndarray, np.ndarray], np.ndarray], *, dtype: type = np.float64
) -> np.ndarray:
    """`score` over so many edges at a time as memory allows."""
    scores: np.ndarray = np.zeros(question.tails.shape, dtype=dtype)
    step = max(1, _PAIRS_AT_ONCE // question.tails.shape[1])
    for first in range(0, len(question.source), step):
        here = slice(first, first + step)
        scores[here] = score(question.source[here], question.tails[here])
    return scores


def _dots(left: sp.csr_matrix, right: sp.csr_matrix, heads_B: np.ndarray, tails_BK: np.ndarray) -> np.ndarray:
    """B x K: products of rows."""
    pairs = left[np.repeat(heads_B, tails_BK.shape[1])].multiply(right[tails_BK.ravel()])
    return np.asarray(pairs.sum(axis=1, dtype=np.float64)).reshape(tails_BK.shape)
