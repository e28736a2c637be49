"""Nodes of a partition are found in its ancestors and in others of the graph, against their own ids."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from partition_graphs import communities, write_graph
from partition_parts import Parts
from test_partition_extend import add_papers, drop_papers

from partition.errors import StoreError
from partition.moved import Trace, ids_before, trace


def made(tables: dict[str, Any], folder: Path, shape: tuple[int, int] = (2, 1), **options: Any) -> Parts:
    write_graph(folder / "graph", tables)
    return Parts(tables, folder, *shape, **{"cluster_size": 10, **options})


def grown(step: int) -> dict[str, Any]:
    """The graph after so many nights: each brings ten papers and takes five."""
    tables = communities()
    for night in range(step):
        add_papers(tables, 10, [f"p{night + 3}", f"p{night + 40}"])
        names = {f"new{i}": f"night{night}-{i}" for i in range(10)}
        for table, column in (("paper", "id"), ("cites", "src_id"), ("cites", "dst_id")):
            columns = tables[table]["columns"]
            columns[column] = [names.get(value, value) for value in columns[column]]
        drop_papers(tables, {f"p{100 + 5 * night + i}" for i in range(5)})
    return tables


def check(way: Trace, before: Parts, after: Parts) -> None:
    """Every node of the later partition has the id that a dictionary of the tables' ids gives it."""
    for name, ids in after.ids.items():
        of_id = {node: i for i, node in enumerate(before.ids[name])}
        found = [i for host in range(after.manifest.hosts) for i in ids_before(way, name, host).tolist()]
        assert found == [of_id.get(node, -1) for node in ids]


def test_maps_of_two_extensions_and_a_regrouping_are_followed(tmp_path: Path) -> None:
    first, second, third = (made(grown(step), tmp_path) for step in range(3))
    last = made(grown(2), tmp_path, (2, 2))
    parts = (first, second, third, last)
    assert [p.manifest.reuse.how for p in parts] == ["", "extended", "extended", "regrouped"]
    for later, before in ((second, first), (third, first), (third, second), (last, first), (last, last)):
        way = trace(later.path, before.manifest.id)
        assert not way.by_own_ids
        check(way, before, later)


def test_a_kept_partition_has_the_ids_of_its_parent(tmp_path: Path) -> None:
    before = made(communities(), tmp_path)
    tables = communities()
    tables["paper"]["columns"]["label"][:50] = [1] * 50
    after = made(tables, tmp_path)
    assert after.manifest.reuse.how == "kept"
    check(trace(after.path, before.manifest.id), before, after)


def test_without_maps_nodes_are_found_by_their_own_ids(tmp_path: Path) -> None:
    first, second, third = (made(grown(step), tmp_path) for step in range(3))
    afresh = made(grown(1), tmp_path, reuse=False)
    for later, before in ((afresh, first), (first, third)):  # another cut; the later one's ancestor
        way = trace(later.path, before.manifest.id)
        assert way.by_own_ids
        check(way, before, later)
    shutil.rmtree(second.path)
    way = trace(third.path, first.manifest.id)
    assert way.by_own_ids
    check(way, first, third)


def test_a_partition_that_is_gone_or_of_another_graph_is_named_with_the_way_out(tmp_path: Path) -> None:
    part = made(communities(), tmp_path)
    with pytest.raises(StoreError, match=r"0{20} holds no finished partition.*one store"):
        trace(part.path, "0" * 20)
    toml = tmp_path / "graph" / "graph.toml"
    toml.write_text(toml.read_text().replace('name = "test"', 'name = "other"'))
    other = Parts(communities(), tmp_path, 2, 1, cluster_size=10, reuse=False)
    with pytest.raises(StoreError, match=r"is of another graph, 'test', and this one of 'other'"):
        trace(other.path, part.manifest.id)


def rebuilt(parts: Parts, tables: dict[str, Any], folder: Path, **options: Any) -> Parts:
    """The same request once more, after its partition was lost."""
    shutil.rmtree(parts.path)
    again = made(tables, folder, **options)
    assert again.manifest.id == parts.manifest.id
    return again


def test_a_partition_that_was_lost_and_built_otherwise_is_told_by_its_numbering(tmp_path: Path) -> None:
    first, second = (made(grown(step), tmp_path) for step in range(2))
    assert second.manifest.parent_numbering == first.manifest.numbering
    afresh = rebuilt(second, grown(1), tmp_path, reuse=False)
    assert afresh.ids != second.ids
    assert afresh.manifest.numbering != second.manifest.numbering
    check(trace(afresh.path, afresh.manifest.id, afresh.manifest.numbering), afresh, afresh)
    with pytest.raises(StoreError, match="has been built again since, and its nodes have other ids now"):
        trace(afresh.path, second.manifest.id, second.manifest.numbering)


def test_the_same_cut_made_again_has_the_same_numbering(tmp_path: Path) -> None:
    first = made(communities(), tmp_path)
    assert rebuilt(first, communities(), tmp_path).manifest.numbering == first.manifest.numbering


def test_maps_to_a_parent_that_was_built_otherwise_since_are_not_followed(tmp_path: Path) -> None:
    first, second, third = (made(grown(step), tmp_path) for step in range(3))
    again = rebuilt(second, grown(1), tmp_path, reuse=False)
    assert not trace(third.path, first.manifest.id).chain[1:-1]
    for before in (first, again):
        way = trace(third.path, before.manifest.id, before.manifest.numbering)
        assert way.by_own_ids
        check(way, before, third)


def test_a_partition_that_became_a_child_of_its_child_is_no_endless_way(tmp_path: Path) -> None:
    other = made(grown(2), tmp_path, seed=3)
    tables = grown(0)
    first = made(tables, tmp_path)
    tables["paper"]["columns"]["label"][:50] = [1] * 50
    second = made(tables, tmp_path)
    again = rebuilt(first, grown(0), tmp_path)
    assert (again.manifest.parent, second.manifest.parent) == (second.manifest.id, again.manifest.id)
    way = trace(again.path, other.manifest.id)
    assert way.by_own_ids
    check(way, other, again)


def test_a_damaged_map_is_not_followed(tmp_path: Path) -> None:
    first, second = (made(grown(step), tmp_path) for step in range(2))
    file = second.path / "part1" / "moved" / "paper.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"moved/paper\.parquet.*expected"):
        ids_before(trace(second.path, first.manifest.id), "paper", 1)
