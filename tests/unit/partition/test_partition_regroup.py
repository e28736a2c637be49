"""Other numbers of hosts or trainers are put together from the clusters that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from partition_graphs import communities, write_graph
from partition_parts import Parts, check_parts

from partition.csr import DiskGraph, build
from partition.methods import METHODS
from partition.moved import read_moved
from partition.regroup import regroup

FRESH_WITHIN = 0.02
"""Points of cut that a regrouping may be worse than a fresh cut."""


def made(tables: dict[str, Any], folder: Path, shape: tuple[int, int], **options: Any) -> Parts:
    write_graph(folder / "graph", tables)
    return Parts(tables, folder, *shape, **{"cluster_size": 10, **options})


def test_clusters_stay_whole_and_heavy_ones_are_kept_apart(tmp_path: Path) -> None:
    ring = np.arange(40)
    graph = build(tmp_path / "graph", 40, lambda: [(ring, (ring + 1) % 40)])
    cluster = np.repeat(np.arange(8), 5)
    weights = np.where(cluster % 4 == 0, 300, 100)
    levels = {"hosts": 2, "trainers": 1}
    made = regroup(graph, weights, cluster, **levels, method="metis", seed=0, memory=1 << 30)
    part, inner = made.part, made.cluster
    assert [choice.level for choice in made.choices] == ["hosts"]
    assert sorted(path.name for path in graph.folder.iterdir()) == ["indices", "indptr"]
    for c in range(8):
        assert len(set(part[cluster == c])) == len(set(inner[cluster == c])) == 1
    assert part[0] != part[20]
    for p in range(2):
        assert sorted(set(inner[part == p])) == list(range(len(set(cluster[part == p]))))


@pytest.mark.parametrize("shape", [(1, 2), (1, 4), (3, 1), (2, 3), (1, 1)])
def test_a_regrouped_partition_holds_the_tables_and_cuts_little_more_than_a_fresh_one(
    shape: tuple[int, int], tmp_path: Path, tokenizer: str
) -> None:
    tables = communities()
    before = made(tables, tmp_path, (2, 2), tokenizer=tokenizer)
    after = made(tables, tmp_path, shape, tokenizer=tokenizer)
    fresh = made(tables, tmp_path, shape, tokenizer=tokenizer, reuse=False)
    assert (after.manifest.parent, after.manifest.reuse.how) == (before.manifest.id, "regrouped")
    check_parts(after)
    for level in ("hosts", "parts"):
        cuts = [parts.manifest.stats["cut"][level] for parts in (after, fresh)]
        assert cuts[0] <= cuts[1] + FRESH_WITHIN
    nodes = after.manifest.stats["balance"]["parts"]["nodes"]
    assert max(nodes) * len(nodes) / sum(nodes) < 1.15
    assert clusters_of(after) == clusters_of(before)


def clusters_of(parts: Parts) -> set[frozenset[tuple[str, Any]]]:
    """The clusters of a partition as sets of nodes."""
    found: dict[int, set[tuple[str, Any]]] = {}
    for name, places in parts.places().items():
        for node, (_, cluster) in places.items():
            found.setdefault(cluster, set()).add((name, node))
    return {frozenset(nodes) for nodes in found.values()}


def test_the_map_of_old_ids_is_that_of_the_nodes(tmp_path: Path) -> None:
    before = made(communities(), tmp_path, (2, 1))
    after = made(communities(), tmp_path, (2, 2))
    for name in ("paper", "author"):
        seen = 0
        for host in range(2):
            old, new = read_moved(after.path, host, name)
            first, last = after.manifest.host_range(name, host)
            assert new.tolist() == list(range(first, last))
            assert [before.ids[name][i] for i in old] == [after.ids[name][i] for i in new]
            seen += len(new)
        assert seen == len(after.ids[name])


def test_nodes_are_not_cut_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = communities()
    made(tables, tmp_path, (1, 1))
    metis, sizes = METHODS["metis"], []

    def watched(graph: DiskGraph, weights: np.ndarray, *rest: int) -> np.ndarray:
        sizes.append(len(weights))
        return metis(graph, weights, *rest)

    monkeypatch.setitem(METHODS, "metis", watched)
    after = made(tables, tmp_path, (2, 2))
    assert after.manifest.reuse.how == "regrouped"
    assert max(sizes) == sum(after.manifest.clusters)


def test_too_few_clusters_are_cut_afresh_and_it_is_said(tmp_path: Path) -> None:
    tables = communities(groups=4)
    made(tables, tmp_path, (1, 1), cluster_size=20)
    lines: list[str] = []
    after = made(tables, tmp_path, (2, 2), cluster_size=20, say=lines.append)
    assert after.manifest.parent == ""
    assert any("too few" in line for line in lines)


def test_labels_and_hosts_may_change_together(tmp_path: Path, tokenizer: str) -> None:
    tables = communities()
    made(tables, tmp_path, (1, 2), tokenizer=tokenizer)
    tables["paper"]["columns"]["label"][:50] = [1] * 50
    after = made(tables, tmp_path, (2, 2), tokenizer=tokenizer)
    assert after.manifest.reuse.how == "regrouped"
    check_parts(after)


def test_a_random_cut_stays_random(tmp_path: Path) -> None:
    made(communities(), tmp_path, (1, 1), method="random")
    after = made(communities(), tmp_path, (2, 2), method="random")
    assert after.manifest.parent == ""
    assert after.manifest.stats["cut"]["parts"] > 0.7
