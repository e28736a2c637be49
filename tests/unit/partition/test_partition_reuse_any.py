"""Whatever is changed in whatever order, and whatever is reused for it, DGL's parts hold the tables."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from partition_graphs import WORDS, graphs, random_text, write_graph, write_tokenizer
from partition_parts import Parts, check_parts
from test_partition_moved import check
from test_partition_roundtrip import SHAPES, random_graphs

from partition.moved import trace

Tables = dict[str, Any]
Options = dict[str, Any]
Change = Callable[[random.Random, Tables, Options], None]
OTHER_WORDS = WORDS[::-1]


def cells(column: str, value: Callable[[random.Random], Any], *, ends: bool = False) -> Change:
    """Other values in a tenth of a column of all node tables, or all tables of edges."""

    def change(rng: random.Random, tables: Tables, options: Options) -> None:
        for table in tables.values():
            if ("ends" in table) == ends:
                for row in range(len(table["columns"].get(column, ()))):
                    if rng.random() < 0.1:
                        table["columns"][column][row] = value(rng)

    return change


def relations(tables: Tables) -> Iterator[Tables]:
    return (table for table in tables.values() if "ends" in table)


def keep_rows(table: Tables, keep: Callable[[int], bool]) -> None:
    for name, values in table["columns"].items():
        table["columns"][name] = [value for row, value in enumerate(values) if keep(row)]


def drop_edges(rng: random.Random, tables: Tables, options: Options) -> None:
    for table in relations(tables):
        gone = {row for row in range(len(table["columns"]["src_id"])) if rng.random() < 0.05}
        keep_rows(table, lambda row, gone=gone: row not in gone)


def add_edges(rng: random.Random, tables: Tables, options: Options) -> None:
    """Some edges turned to other ends, and once more."""
    for table in relations(tables):
        columns = table["columns"]
        for row in range(len(columns["src_id"])):
            if rng.random() < 0.05:
                for name, values in columns.items():
                    values.append(rng.choice(values) if name.endswith("_id") else values[row])


def drop_node(rng: random.Random, tables: Tables, options: Options) -> None:
    """A node of the largest type, and all edges at it."""
    name = largest(tables)
    ids = tables[name]["columns"]["id"]
    if len(ids) < 2:
        return
    gone = rng.choice(ids)
    keep_rows(tables[name], lambda row: ids[row] != gone)
    for table in relations(tables):
        for column, end in zip(("src_id", "dst_id"), table["ends"], strict=True):
            values = list(table["columns"][column])
            keep_rows(table, lambda row, end=end, values=values: end != name or values[row] != gone)


def add_node(rng: random.Random, tables: Tables, options: Options) -> None:
    """One more of the largest type, in the place of another in an edge or two."""
    name = largest(tables)
    columns = tables[name]["columns"]
    if not columns["id"]:
        return
    strings = isinstance(columns["id"][0], str)
    number = 2000 + len(columns["id"]) + rng.randrange(10**6)
    for column, values in columns.items():
        new = (f"é{number}" if strings else number) if column == "id" else rng.choice(values)
        values.insert(rng.randrange(len(values) + 1), new)
    for table in relations(tables):
        for column, end in zip(("src_id", "dst_id"), table["ends"], strict=True):
            if end == name and (values := table["columns"][column]):
                values[rng.randrange(len(values))] = f"é{number}" if strings else number


def largest(tables: Tables) -> str:
    sizes = {name: len(t["columns"]["id"]) for name, t in tables.items() if "ends" not in t}
    return max(sizes, key=lambda name: sizes[name])


def other_order(rng: random.Random, tables: Tables, options: Options) -> None:
    for table in tables.values():
        count = len(next(iter(table["columns"].values())))
        order = rng.sample(range(count), count)
        for name, values in table["columns"].items():
            table["columns"][name] = [values[row] for row in order]


def other_shape(rng: random.Random, tables: Tables, options: Options) -> None:
    now = (options["hosts"], options["trainers"])
    options["hosts"], options["trainers"] = rng.choice([shape for shape in SHAPES if shape != now])


CHANGES: dict[str, Change] = {
    "labels": cells("label", lambda rng: rng.choice([0, 1, 2, None])),
    "splits": cells("part", lambda rng: rng.choice(["train", "valid", "test", None])),
    "features": cells("size", lambda rng: rng.randrange(100)),
    "texts": cells("text", random_text),
    "edge labels": cells("label", lambda rng: rng.choice(["red", "blue", None]), ends=True),
    "edge features": cells("weight", lambda rng: rng.randrange(100) / 8, ends=True),
    "length": lambda rng, tables, options: options.update(max_length=rng.choice([4, 5, 6])),
    "tokenizer": lambda rng, tables, options: options.update(words=OTHER_WORDS),
    "edges gone": drop_edges,
    "edges new": add_edges,
    "a node gone": drop_node,
    "a node new": add_node,
    "order": other_order,
    "shape": other_shape,
}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], str]:
    folder = tmp_path_factory.mktemp("tokenizers")
    return {
        words: str(write_tokenizer(folder / words[0], words)) for words in (tuple(WORDS), tuple(OTHER_WORDS))
    }


def made(tables: Tables, folder: Path, options: Options, tokenizers: dict[tuple[str, ...], str]) -> Parts:
    write_graph(folder / "graph", tables)
    return Parts(tables, folder, **options, tokenizer=tokenizers[tuple(options["words"])])


def test_after_each_change_the_parts_hold_the_tables_and_nodes_are_found_again(
    tokenizers: dict[tuple[str, ...], str],
) -> None:
    reused: Counter[str] = Counter()

    @settings(random_graphs, max_examples=20)
    @given(
        tables=graphs(),
        seed=st.integers(0, 2**32),
        changes=st.lists(st.sampled_from(sorted(CHANGES)), min_size=2, max_size=2),
    )
    def chain(tables: Tables, seed: int, changes: list[str]) -> None:
        rng, options = random.Random(seed), {"hosts": 2, "trainers": 1, "words": WORDS}
        with tempfile.TemporaryDirectory() as name:
            earlier = [made(tables, Path(name), options, tokenizers)]
            for change in (*changes, "shape"):
                CHANGES[change](rng, tables, options)
                now = made(tables, Path(name), options, tokenizers)
                reused[now.manifest.reuse.how] += 1
                check_parts(now)
                for before in earlier:
                    check(trace(now.path, before.manifest.id, before.manifest.numbering), before, now)
                earlier.append(now)

    chain()
    assert reused.keys() == {"", "kept", "regrouped", "extended"}
