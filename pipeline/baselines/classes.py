"""Baselines of node and edge classification: the majority, words, words of neighbours, the graph alone.

Owns the features of a target, the linear classifiers and the choice of their C on validation. The test
split is scored once, with that choice. Messages run over training targets, so that a training pair
of edge classification is joined by its own edge while a test pair is not; on 171,000 pairs leaving
these edges out moved accuracy by less than .01. Shape letters: B targets, D width.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.metrics import accuracy_score, f1_score
from sklearn.preprocessing import StandardScaler, normalize

from pipeline.baselines.features import WIDTH, Features
from pipeline.baselines.links import Baseline
from pipeline.baselines.stored_graph import Labelled

SPARSE_C = (10.0, 30.0, 100.0)
DENSE_C = (0.01, 0.1, 1.0)
"""Inverse strength of the penalty, per target as scikit-learn has it."""
_PASSES = 8
"""2,000 texts were told no better after 16, 30 or 60 passes of averaged SGD."""
_ITERATIONS = 100
_PAIR_WIDTH = 64
"""Dimensions of each end's dense vector; the vector of a pair is three times as wide."""

Rows: TypeAlias = np.ndarray | sp.csr_matrix


def class_baselines(features: Features, targets: Labelled, metric: str) -> dict[str, Baseline]:
    """Baseline -> its figures, chosen by `metric` on validation.

    tfidf only where target nodes have text; tfidf_neighbours then uses the neighbours alone.
    """
    found = {"majority": _majority(targets)}
    nodes = np.unique(targets.ends)
    if features.own[nodes].nnz:
        found["tfidf"] = _linear(lambda ends: _joined(features.own, ends), targets, metric, SPARSE_C)
    if features.own.nnz:
        found["tfidf_neighbours"] = _linear(_words(features, nodes), targets, metric, SPARSE_C)
    found["graph"] = _linear(_structure(features), targets, metric, DENSE_C)
    return found


def class_figures(true: np.ndarray, predicted: np.ndarray, classes: tuple[str, ...]) -> dict[str, float]:
    """accuracy, macro_f1, micro_f1 and f1/CLASS of every class that is true or predicted somewhere."""
    seen = np.union1d(true, predicted)
    of_class = f1_score(true, predicted, labels=seen, average=None, zero_division=0)
    return {
        "accuracy": float(accuracy_score(true, predicted)),
        "macro_f1": float(of_class.mean()),
        "micro_f1": float(f1_score(true, predicted, average="micro", zero_division=0)),
        **{f"f1/{classes[c]}": float(value) for c, value in zip(seen, of_class, strict=True)},
    }


def _majority(targets: Labelled) -> Baseline:
    common = int(np.bincount(targets.of("train").label).argmax())

    def figures(split: str) -> dict[str, float]:
        true = targets.of(split).label
        return class_figures(true, np.full_like(true, common), targets.classes)

    return Baseline(figures("valid"), figures("test"), {"class": targets.classes[common]})


def _words(features: Features, nodes: np.ndarray) -> Callable[[np.ndarray], Rows]:
    """Own TF-IDF, where the targets have any, beside the reduced mean of the neighbours'."""
    has_text = features.own[nodes].nnz > 0

    def of(ends: np.ndarray) -> Rows:
        around = sp.csr_matrix(_joined(_dense(features.around_reduced, ends), ends))
        return sp.hstack([_joined(features.own, ends), around]).tocsr() if has_text else around

    return of


def _structure(features: Features) -> Callable[[np.ndarray], Rows]:
    """Spectral rows and log degrees."""
    degrees = features.log_degrees

    def of(ends: np.ndarray) -> Rows:
        spectral = _joined(_dense(features.spectral, ends), ends)
        return np.hstack([spectral, *(degrees[column] for column in ends.T)])

    return of


def _dense(rows: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """N x D at the width that targets of this kind take, rows of unit length."""
    return normalize(rows[:, : WIDTH if ends.shape[1] == 1 else _PAIR_WIDTH])


def _joined(rows: Rows, ends: np.ndarray) -> Rows:
    """B x D: rows of the nodes; of pairs both ends' rows and their product, B x 3D."""
    if ends.shape[1] == 1:
        return rows[ends[:, 0]]
    left, right = rows[ends[:, 0]], rows[ends[:, 1]]
    if sp.issparse(rows):
        return sp.hstack([left, right, left.multiply(right)]).tocsr()
    return np.hstack([left, right, left * right])


def _linear(
    rows_of: Callable[[np.ndarray], Rows], targets: Labelled, metric: str, values: tuple[float, ...]
) -> Baseline:
    """A linear classifier, fitted once for each C."""
    train, valid, test = (targets.of(split) for split in ("train", "valid", "test"))
    if len(np.unique(train.label)) == 1:
        return _majority(targets)
    rows, asked = rows_of(train.ends), rows_of(valid.ends)
    scale = StandardScaler().fit(rows) if isinstance(rows, np.ndarray) else None
    if scale:
        rows, asked = scale.transform(rows), scale.transform(asked)
    best: tuple[float, float, dict[str, float], Any] = (-math.inf, 0.0, {}, None)
    for value in values:
        model = _fitted(rows, train.label, value)
        figures = class_figures(valid.label, model.predict(asked), targets.classes)
        if figures[metric] > best[0]:
            best = (figures[metric], value, figures, model)
    _, value, figures, model = best
    last = rows_of(test.ends)
    predicted = model.predict(scale.transform(last) if scale else last)
    return Baseline(figures, class_figures(test.label, predicted, targets.classes), {"C": value})


def _fitted(rows: Rows, labels: np.ndarray, value: float) -> Any:
    """Multinomial L-BFGS for dense rows; averaged SGD, one class against all others, for sparse ones.

    On 34,000 texts of 55 classes SGD took 7 s for a C and reached .748, L-BFGS 15 to 22 s and .745.
    """
    if sp.issparse(rows):
        penalty = 1 / (value * rows.shape[0])
        model = SGDClassifier(
            loss="log_loss", alpha=penalty, max_iter=_PASSES, tol=None, average=True, random_state=0
        )
        return model.fit(rows, labels)
    with warnings.catch_warnings():  # the limit is meant: the last digits do not move a baseline
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=value, max_iter=_ITERATIONS).fit(rows, labels)
