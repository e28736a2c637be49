"""Nodes and edges come and go: the others stay, new ones join their neighbours, ids are mapped."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from partition_graphs import communities, write_graph
from partition_parts import Parts, check_parts

from partition.csr import DiskGraph, build
from partition.extend import BALANCE_LIMIT, place_new
from partition.methods import METHODS
from partition.moved import read_moved


@pytest.fixture
def path_graph(tmp_path: Path) -> DiskGraph:
    """Eight nodes in a row."""
    return build(tmp_path / "path", 8, lambda: [(np.arange(7), np.arange(1, 8))])


def made(tables: dict[str, Any], folder: Path, **options: Any) -> Parts:
    write_graph(folder / "graph", tables)
    return Parts(tables, folder, *options.pop("shape", (2, 2)), **{"cluster_size": 10, **options})


def add_papers(tables: dict[str, Any], count: int, cited: list[str]) -> list[str]:
    """Papers that cite these ones and are cited by the first of them; their ids."""
    columns, edges = tables["paper"]["columns"], tables["cites"]["columns"]
    names = [f"new{i}" for i in range(count)]
    columns["id"] = [*names[: count // 2], *columns["id"], *names[count // 2 :]]
    for name in ("text", "size", "vector", "label", "part"):
        values = columns[name]
        columns[name] = [*values[: count // 2], *values, *values[: count - count // 2]]
    for name in names:
        ends = [(name, other) for other in cited] + [(cited[0], name)]
        add_edges(edges, ends)
    return names


def add_edges(edges: dict[str, list[Any]], ends: list[tuple[str, str]]) -> None:
    edges["src_id"] += [source for source, _ in ends]
    edges["dst_id"] += [destination for _, destination in ends]
    for name, value in (("split", None), ("label", "red"), ("weight", 2.5)):
        edges[name] += [value] * len(ends)


def drop_papers(tables: dict[str, Any], gone: set[str]) -> None:
    """Take papers out, and all edges at them."""
    for name, ends in (("paper", ("id",)), ("cites", ("src_id", "dst_id")), ("writes", ("dst_id",))):
        columns = tables[name]["columns"]
        keep = [not gone & set(row) for row in zip(*(columns[end] for end in ends), strict=True)]
        for column, values in columns.items():
            columns[column] = [value for value, kept in zip(values, keep, strict=True) if kept]


def no_metis(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(graph: DiskGraph, weights: np.ndarray, blocks: int, seed: int) -> np.ndarray:
        raise AssertionError("METIS is run")

    monkeypatch.setitem(METHODS, "metis", refuse)


def check_moved(before: Parts, after: Parts) -> None:
    """The map holds all nodes that both have, with the right ids, on their hosts."""
    for name, ids in after.ids.items():
        found: dict[int, int] = {}
        for host in range(after.manifest.hosts):
            old, new = read_moved(after.path, host, name)
            first, last = after.manifest.host_range(name, host)
            assert all(first <= i < last for i in new)
            found.update(zip(new.tolist(), old.tolist(), strict=True))
        known = {node: i for i, node in enumerate(before.ids[name])}
        assert found == {i: known[node] for i, node in enumerate(ids) if node in known}


def check_stayed(before: Parts, after: Parts) -> None:
    """Nodes that both have are in their parts, and together as before."""
    was, now = before.places(), after.places()
    for name in now:
        both = [node for node in now[name] if node in was[name]]
        assert [now[name][node][0] for node in both] == [was[name][node][0] for node in both]
        pairs = {(was[name][node][1], now[name][node][1]) for node in both}
        assert len(pairs) == len({old for old, _ in pairs}) == len({new for _, new in pairs})


def test_nodes_come_and_go_and_the_others_stay(
    tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = communities()
    before = made(tables, tmp_path, tokenizer=tokenizer)
    no_metis(monkeypatch)
    changed = communities()
    new = add_papers(changed, 20, ["p3", "p4", "p5"])
    drop_papers(changed, {f"p{i}" for i in range(100, 140)})
    after = made(changed, tmp_path, tokenizer=tokenizer)
    reuse = after.manifest.reuse
    assert (after.manifest.parent, reuse.how, reuse.new, reuse.gone) == (
        before.manifest.id,
        "extended",
        20,
        40,
    )
    check_parts(after)
    check_stayed(before, after)
    check_moved(before, after)
    assert set(new) <= set(after.ids["paper"])


def test_a_new_node_joins_the_cluster_of_its_neighbours(tmp_path: Path) -> None:
    tables = communities()
    before = made(tables, tmp_path)
    homes = before.places()["paper"]
    group = [node for node, place in homes.items() if place == homes["p200"]][:3]
    changed = communities()
    (new,) = add_papers(changed, 1, group)
    places = made(changed, tmp_path).places()["paper"]
    assert {places[node] for node in group} == {places[new]}


def test_new_nodes_that_know_only_new_nodes_follow_them(path_graph: DiskGraph) -> None:
    part, cluster = np.full(8, -1), np.full(8, -1)
    part[0], cluster[0] = 1, 5
    part, cluster = place_new(path_graph, np.ones(8), part, cluster, 2)
    assert part.tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert cluster.tolist() == [0] * 8


def test_an_island_of_new_nodes_goes_to_the_lightest_part_and_stays_together(tmp_path: Path) -> None:
    chain = np.arange(9)
    adjacency = build(tmp_path / "graph", 60, lambda: [(chain + 50, chain + 51)])
    part = np.array([0] * 30 + [1] * 20 + [-1] * 10)
    part, _ = place_new(adjacency, np.ones(60), part, np.where(part >= 0, 0, -1), 2)
    assert part[50:].tolist() == [1] * 10


def test_a_full_part_takes_nobody_and_the_next_best_does(tmp_path: Path) -> None:
    hub, count = np.zeros(30, dtype=np.int64), 130
    new = np.arange(100, count)
    second = np.full(30, 60)
    adjacency = build(tmp_path / "graph", count, lambda: [(new, hub), (new, hub + 1), (new, second)])
    part = np.array([0] * 50 + [1] * 25 + [2] * 25 + [-1] * 30)
    part, _ = place_new(adjacency, np.ones(count), part, np.where(part >= 0, 0, -1), 3)
    assert not (part[100:] == 0).any()
    assert (part[100:] == 1).sum() == int(BALANCE_LIMIT * count / 3) - 25
    assert np.bincount(part).max() <= 50


def test_a_tenth_of_the_nodes_new_is_cut_afresh_and_it_is_said_why(tmp_path: Path) -> None:
    made(communities(), tmp_path)
    tables = communities()
    add_papers(tables, 100, ["p3"])
    lines: list[str] = []
    after = made(tables, tmp_path, say=lines.append)
    assert after.manifest.parent == ""
    assert any("100 nodes are new" in line and "more than 10%" in line for line in lines)


def test_small_steps_add_up(tmp_path: Path) -> None:
    made(communities(), tmp_path)
    tables, how = communities(), []
    for step in range(3):
        names = add_papers(tables, 40, [f"p{step}", f"p{step + 40}"])
        renamed = {name: f"{name}of{step}" for name in names}
        for table, column in (("paper", "id"), ("cites", "src_id"), ("cites", "dst_id")):
            columns = tables[table]["columns"]
            columns[column] = [renamed.get(value, value) for value in columns[column]]
        how.append(made(tables, tmp_path).manifest.reuse)
    assert [(reuse.how, reuse.new) for reuse in how] == [("extended", 40), ("extended", 80), ("", 0)]
    assert how[0].origin == how[1].origin != how[2].origin


def test_a_cut_that_has_grown_is_told_with_advice(tmp_path: Path) -> None:
    before = made(communities(), tmp_path)
    tables, rng = communities(), random.Random(1)
    ends = [(f"p{rng.randrange(640)}", f"p{rng.randrange(640)}") for _ in range(250)]
    add_edges(tables["cites"]["columns"], ends)
    lines: list[str] = []
    after = made(tables, tmp_path, say=lines.append)
    check_stayed(before, after)
    was, now = after.manifest.reuse.drift["parts cut"]
    assert (was, now) == (before.manifest.stats["cut"]["parts"], after.manifest.stats["cut"]["parts"])
    assert 0.02 < now - was < 0.10
    assert any("parts cut" in line and "--no-reuse" in line for line in lines)


def test_another_graph_of_the_same_names_is_cut_afresh(tmp_path: Path) -> None:
    made(communities(), tmp_path)
    tables, rng = communities(), random.Random(1)
    columns = tables["cites"]["columns"]
    columns["dst_id"] = [f"p{rng.randrange(640)}" for _ in columns["dst_id"]]
    lines: list[str] = []
    assert made(tables, tmp_path, say=lines.append).manifest.parent == ""
    assert any("would cut" in line for line in lines)


@pytest.mark.parametrize("options", [{"seed": 1}, {"cluster_size": 12}, {"relations": ("cites",)}])
def test_other_settings_of_the_cut_are_cut_afresh(options: dict[str, Any], tmp_path: Path) -> None:
    made(communities(), tmp_path)
    tables = communities()
    add_papers(tables, 2, ["p3"])
    assert made(tables, tmp_path, **options).manifest.parent == ""


def test_rows_in_another_order_keep_their_clusters(
    tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = made(communities(), tmp_path, tokenizer=tokenizer)
    no_metis(monkeypatch)
    tables = communities()
    for name, values in tables["paper"]["columns"].items():
        tables["paper"]["columns"][name] = values[::-1]
    after = made(tables, tmp_path, tokenizer=tokenizer)
    check_parts(after)
    assert after.places() == before.places()
    check_moved(before, after)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), shape=st.sampled_from([(1, 1), (1, 3), (2, 1), (2, 2)]))
def test_whatever_changes_the_parts_hold_the_tables(
    seed: int, shape: tuple[int, int], tokenizer: str
) -> None:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        before = made(communities(groups=6, size=20, seed=seed), Path(name), shape=shape, tokenizer=tokenizer)
        tables = communities(groups=6, size=20, seed=seed)
        drop_papers(tables, {f"p{rng.randrange(120)}" for _ in range(rng.randrange(12))})
        if count := rng.randrange(12):
            add_papers(tables, count, rng.sample(tables["paper"]["columns"]["id"], rng.randrange(1, 4)))
        after = made(tables, Path(name), shape=shape, tokenizer=tokenizer)
        check_parts(after)
        if after.manifest.reuse.how == "extended":
            check_stayed(before, after)
            check_moved(before, after)
