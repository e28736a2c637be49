"""pipeline/baseline_features.py against dense formulas."""

from __future__ import annotations

import numpy as np

from pipeline.baselines.features import Features
from pipeline.baselines.links import row_scores
from pipeline.baselines.stored_graph import Edges, Question


def test_spectral_rows_are_those_of_the_scaled_adjacency() -> None:
    edges = {
        "a": Edges(np.array([0, 1, 2, 0]), np.array([1, 2, 3, 1])),
        "b": Edges(np.array([1]), np.array([0])),
    }
    dense = np.zeros((5, 5))
    for source, destination in ((0, 1), (1, 2), (2, 3)):
        dense[source, destination] = dense[destination, source] = 1
    degrees = np.maximum(dense.sum(1), 1)
    scaled = dense / np.sqrt(np.outer(degrees, degrees))
    rows = Features([""] * 5, edges).spectral
    expected = np.linalg.svd(scaled)
    best = expected.U[:, :4] * expected.S[:4]
    np.testing.assert_allclose(rows @ rows.T, best @ best.T, atol=1e-5)
    asked = row_scores(
        rows, Question(np.array([0, 2]), np.array([[1, 3], [0, 4]]), np.ones((2, 1), bool), np.zeros(5))
    )
    np.testing.assert_allclose(asked, (best @ best.T)[[[0], [2]], [[1, 3], [0, 4]]], atol=1e-5)


def test_log_degrees_count_both_directions_of_each_relation() -> None:
    edges = {"a": Edges(np.array([0, 0, 1]), np.array([1, 2, 2])), "b": Edges(np.array([2]), np.array([0]))}
    expected = np.log1p([[2, 0, 0, 1], [1, 1, 0, 0], [0, 2, 1, 0]])
    np.testing.assert_allclose(Features(["", "", ""], edges).log_degrees, expected, atol=1e-6)


def test_a_neighbour_without_text_counts_as_the_mean_of_its_texts() -> None:
    texts = ["red apple", "red apple", "blue whale", ""]
    features = Features(texts, {"likes": Edges(np.array([3, 3, 3]), np.array([0, 1, 2]))})
    around = features.around_reduced
    mean = around[3]  # its neighbours are the three texts
    np.testing.assert_allclose(around[0], mean, atol=1e-6)
    assert np.linalg.norm(mean) > 0.1
    words = features.own.toarray()
    np.testing.assert_allclose(mean @ mean, words[:3].mean(0) @ words[:3].mean(0), atol=1e-5)
