"""Which words a text has, as a few numbers: features beside what the language model makes of it.

A language model of few layers knows what words mean and forgets which they were; counts know nothing
else. Owns the vocabulary. Knows no labels and no edges.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

WIDTH = 512


def word_features(texts: Sequence[str]) -> list[list[float]]:
    """float32 texts x WIDTH: TF-IDF, its largest singular directions alone; zeros beyond the rank."""
    counts = TfidfVectorizer(sublinear_tf=True, min_df=2)
    try:
        found = counts.fit_transform(texts)
    except ValueError:  # no word occurs in two texts
        return np.zeros((len(texts), WIDTH), dtype=np.float32).tolist()
    width = min(WIDTH, found.shape[1] - 1, found.shape[0] - 1)
    rows = np.zeros((len(texts), WIDTH), dtype=np.float32)
    if width > 0:
        rows[:, :width] = TruncatedSVD(width, random_state=0).fit_transform(found)
    return rows.tolist()
