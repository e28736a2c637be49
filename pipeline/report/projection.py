"""Embeddings in two dimensions, before and after training, as in figure 1 of the LM-GNN paper.

Owns the choice of nodes, the projection, and the figure that says how near connected nodes lie. Seeded: the
same file gives the same picture. Never draws.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

PANELS = {"text": "text alone (LM as it came)", "graph_lm": "graph-aware LM", "lm_gnn": "LM-GNN"}
MOST_NODES = 1000
MOST_GROUPS = 8


@dataclass(frozen=True)
class Panel:
    title: str
    points: np.ndarray
    """n x 2."""
    note: str


@dataclass(frozen=True)
class Projection:
    """The same n nodes in every panel."""

    panels: tuple[Panel, ...]
    groups: tuple[str, ...]
    """Most frequent first; `other` last where there are more than eight."""
    group_of: np.ndarray
    """int n, index into groups."""
    edges: np.ndarray
    """int m x 2, positions of connected nodes."""
    left_out: int
    """Nodes of the file that are not shown."""


def project(path: Path) -> Projection:
    """Read arrays text, graph_lm, lm_gnn (n x width each, any may be missing), group (n), edges (m x 2).

    ValueError when the file holds no embeddings or arrays of different lengths.
    """
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: np.asarray(stored[name], dtype=np.float32) for name in PANELS if name in stored}
        if not arrays:
            raise ValueError(f"{path.name} holds none of {', '.join(PANELS)}")
        count = len(next(iter(arrays.values())))
        groups = stored["group"].astype(str) if "group" in stored else np.full(count, "node")
        edges = (
            stored["edges"].reshape(-1, 2).astype(np.int64)
            if "edges" in stored
            else np.zeros((0, 2), np.int64)
        )
    if any(len(array) != count for array in (*arrays.values(), groups)):
        raise ValueError(f"{path.name}: arrays of different lengths")
    if edges.size and not (edges.min() >= 0 and edges.max() < count):
        raise ValueError(f"{path.name}: edges point outside the nodes")
    usable = np.all([np.isfinite(array).all(axis=1) for array in arrays.values()], axis=0)
    shown = _chosen(usable, edges)
    if len(shown) < 3:
        raise ValueError(f"{path.name}: fewer than three nodes with finite embeddings")
    edges = _renumbered(edges, shown, count)
    names, group_of = _grouped(groups[shown])
    panels = []
    for name, array in arrays.items():
        width = normalize(array[shown])
        panels.append(Panel(PANELS[name], _plane(width), _nearness(width, edges)))
    return Projection(tuple(panels), names, group_of, edges, count - len(shown))


def _chosen(usable: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Ascending positions of at most MOST_NODES usable nodes; connected pairs come first."""
    draw = np.random.default_rng(0)
    nodes = np.flatnonzero(usable)
    if len(nodes) <= MOST_NODES:
        return nodes
    pairs = draw.permutation(edges[usable[edges].all(axis=1)]).ravel()
    queue = np.concatenate([pairs, draw.permutation(nodes)])
    _, first = np.unique(queue, return_index=True)
    return np.sort(queue[np.sort(first)[:MOST_NODES]])


def _renumbered(edges: np.ndarray, shown: np.ndarray, count: int) -> np.ndarray:
    position = np.full(count, -1)
    position[shown] = np.arange(len(shown))
    moved = position[edges]
    return moved[(moved >= 0).all(axis=1) & (moved[:, 0] != moved[:, 1])]


def _grouped(groups: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    ordered = [
        name for name, _ in sorted(Counter(groups.tolist()).items(), key=lambda item: (-item[1], item[0]))
    ]
    names = ordered if len(ordered) <= MOST_GROUPS else [*ordered[:MOST_GROUPS], "other"]
    number = {name: index for index, name in enumerate(names)}
    return tuple(names), np.array([number.get(name, len(names) - 1) for name in groups.tolist()])


def _plane(rows: np.ndarray) -> np.ndarray:
    """n x 2: principal components, then t-SNE where there are enough nodes for it."""
    rows = PCA(min(50, *rows.shape), random_state=0).fit_transform(rows)
    if len(rows) < 10 or rows.shape[1] < 3:
        return np.pad(rows, ((0, 0), (0, 2)))[:, :2]
    perplexity = min(30.0, (len(rows) - 1) / 3)
    with threadpool_limits(1):  # sums in one order, so the same picture everywhere
        return np.asarray(
            TSNE(perplexity=perplexity, init="pca", max_iter=500, random_state=0).fit_transform(rows)
        )


def _nearness(rows: np.ndarray, edges: np.ndarray) -> str:
    """How often a connected pair is more alike (cosine, full width) than a random pair."""
    if len(edges) < 2:
        return ""
    other = np.random.default_rng(1).integers(len(rows), size=edges.shape)
    pairs = np.concatenate([edges, other])
    alike = np.einsum("nd,nd->n", rows[pairs[:, 0]], rows[pairs[:, 1]])
    share = roc_auc_score(np.arange(len(pairs)) < len(edges), alike)
    return f"connected pair closer than a random one: {100 * share:.0f} %"
