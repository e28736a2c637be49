"""What the baselines compute once for a graph: TF-IDF of texts and neighbourhoods, spectral rows, degrees.

Owns how words and structure become vectors. Never sees a label or a split: held-out edges are not
among the edges that it is given. Shape letters: N nodes of all types, V words, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from pipeline.baselines.stored_graph import Edges

WIDTH = 128
"""Dimensions of spectral rows and of neighbourhoods reduced."""


@dataclass(frozen=True)
class Features:
    """Vectors of the nodes of a graph, computed when first asked for."""

    texts: Sequence[str]
    """N; "" for nodes without."""
    edges: Mapping[str, Edges]
    """The edges that messages run over, by relation."""

    @cached_property
    def own(self) -> sp.csr_matrix:
        """float32 N x V: TF-IDF, rows of unit length, or zero where a node has no text."""
        vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float32)
        analyze = vectorizer.build_analyzer()
        if not any(analyze(text) for text in self.texts):
            return sp.csr_matrix((len(self.texts), 1), dtype=np.float32)
        # nodes without text are no documents: they would make every word look rare
        return vectorizer.fit([text for text in self.texts if text]).transform(self.texts)

    @cached_property
    def around(self) -> sp.csr_matrix:
        """float32 N x V: direction of the mean TF-IDF of in- and out-neighbours; zero where none has text."""
        # the sum has the direction of the mean, and only the direction is used
        return normalize(self._adjacency @ self.own)

    @cached_property
    def around_reduced(self) -> np.ndarray:
        """float32 N x D: mean TF-IDF of the neighbours, reduced by a singular value decomposition.

        A neighbour without text, such as an author, counts as the mean of its own neighbours with text.
        The columns come in order of importance, so that a prefix is a smaller reduction.
        """
        has_text = np.diff(self.own.indptr) > 0
        reduced = np.zeros((len(self.texts), 1), dtype=np.float32)
        if has_text.any():
            reduced = _svd(self.own[has_text]).transform(self.own).astype(np.float32)
        bridge = sp.diags((~has_text).astype(np.float32)) @ self._adjacency
        bridge = normalize(bridge @ sp.diags(has_text.astype(np.float32)), norm="l1")
        return normalize(self._adjacency, norm="l1") @ (reduced + bridge @ reduced)

    @cached_property
    def spectral(self) -> np.ndarray:
        """float32 N x D: rows of the truncated SVD of the adjacency, scaled by the root of both degrees.

        All relations, symmetrised, parallel edges once. Columns in order of importance.
        """
        if not self._adjacency.nnz:
            return np.zeros((len(self.texts), 1), dtype=np.float32)
        degrees = np.asarray(self._adjacency.sum(axis=1)).ravel()
        scale = sp.diags(1 / np.sqrt(np.maximum(degrees, 1)), dtype=np.float32)
        scaled = scale @ self._adjacency @ scale
        return _svd(scaled).transform(scaled).astype(np.float32)

    @cached_property
    def log_degrees(self) -> np.ndarray:
        """float32 N x 2 * relations: log(1 + edges that start, that end in a node)."""
        columns = [np.zeros((len(self.texts), 0))]
        for edges in self.edges.values():
            counts = [np.bincount(ends, minlength=len(self.texts)) for ends in _both(edges)]
            columns.append(np.log1p(np.stack(counts, axis=1)))
        return np.concatenate(columns, axis=1).astype(np.float32)

    @cached_property
    def _adjacency(self) -> sp.csr_matrix:
        """float32 N x N, 0 or 1, symmetric."""
        found = sp.csr_matrix((len(self.texts), len(self.texts)), dtype=np.float32)
        for edges in self.edges.values():
            ones = np.ones(len(edges.source), dtype=np.float32)
            found = found + sp.csr_matrix((ones, _both(edges)), shape=found.shape)
        found = (found + found.T).tocsr()
        found.data[:] = 1  # parallel edges count once
        return found


def _both(edges: Edges) -> tuple[np.ndarray, np.ndarray]:
    return edges.source, edges.destination


def _svd(matrix: sp.csr_matrix) -> TruncatedSVD:
    # fewer power iterations than scikit-learn's five: a baseline does not need the last digits
    width = max(1, min(WIDTH, min(matrix.shape) - 1))
    return TruncatedSVD(width, n_iter=3, random_state=0).fit(matrix)
