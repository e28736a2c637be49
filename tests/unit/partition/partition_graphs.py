"""Graph folders for the partition's tests: written from plain Python lists, small enough to read."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from partition.csr import DiskGraph, build

WORDS = ("graph", "node", "edge", "text", "model")

SMALL: dict[str, Any] = {
    "paper": {
        "columns": {
            "id": ["a", "b", "c", "d"],
            "title": ["graph node", "edge", None, "text model graph"],
            "year": [1.0, 2.0, 3.0, 4.0],
            "field": ["x", "y", "x", None],
            "split": ["train", "valid", "test", None],
        },
        "keys": 'id = "id"\ntext = "title"\nfeatures = ["year"]\nlabel = "field"\nsplit = "split"',
    },
    "author": {"columns": {"id": [7, 5, 6]}, "keys": 'id = "id"'},
    "cites": {
        "ends": ("paper", "paper"),
        "columns": {
            "src_id": ["a", "b", "c", "d", "a"],
            "dst_id": ["b", "c", "d", "a", "c"],
            "weight": [0.5, 1.5, 2.5, 3.5, 4.5],
            "split": ["train", "train", "valid", "test", None],
        },
        "keys": 'split = "split"\nfeatures = ["weight"]',
    },
    "writes": {
        "ends": ("author", "paper"),
        "columns": {"src_id": [5, 6, 7, 7], "dst_id": ["a", "b", "c", "d"]},
        "keys": "",
    },
}
"""Two node types, two relations, every kind of column."""


def write_graph(folder: Path, tables: Mapping[str, Any], *, suffix: str = "parquet") -> Path:
    """Write graph.toml and its tables; a table with `ends` is a relation."""
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    lines = ['name = "test"']
    for name, table in tables.items():
        columns = pa.table(table["columns"], schema=table.get("schema"))
        path = f"tables/{name}.{suffix}"
        if suffix == "csv":
            pyarrow.csv.write_csv(columns, folder / path)
        else:
            pyarrow.parquet.write_table(columns, folder / path)
        if "ends" in table:
            source, destination = table["ends"]
            lines += [f"[edges.{name}]", f'source = "{source}"', f'destination = "{destination}"']
        else:
            lines.append(f"[nodes.{name}]")
        lines += [f'path = "{path}"', table["keys"]]
    (folder / "graph.toml").write_text("\n".join(lines) + "\n")
    return folder


def write_tokenizer(folder: Path, words: Sequence[str] = WORDS) -> Path:
    """Save a tokenizer of these words that puts [CLS] and [SEP] round every text."""
    vocabulary = {word: i for i, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words))}
    inner = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = Whitespace()
    inner.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokens = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    names = {f"{key}_token": value for key, value in tokens.items()}
    PreTrainedTokenizerFast(tokenizer_object=inner, **names).save_pretrained(folder)
    return folder


def expected_tokens(text: str | None, max_length: int, words: Sequence[str] = WORDS) -> list[int]:
    """What the tokenizer above should give, by its definition."""
    inner = [5 + words.index(word) for word in (text or "").split()]
    return [2, *inner[: max_length - 2], 3]


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Any]:
    """Random heterographs: empty types, one-node types, string ids, parallel edges and relations."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    names = ["ant", "bee", "cow", "dog"][: draw(st.integers(1, 4))]
    tables: dict[str, Any] = {name: _node_type(draw, rng) for name in names}
    if not any(table["columns"]["id"] for table in tables.values()):
        tables[names[0]]["columns"] = {key: [] for key in tables[names[0]]["columns"]}
        tables["one"] = {"columns": {"id": ["only"]}, "keys": 'id = "id"'}
    types = [name for name in tables if "ends" not in tables[name]]
    for index in range(draw(st.integers(1, 4))):
        ends = (draw(st.sampled_from(types)), draw(st.sampled_from(types)))
        ids = [tables[end]["columns"]["id"] for end in ends]
        tables[f"r{index}"] = _relation(draw, rng, ends, ids)
    return tables


def _node_type(draw: st.DrawFn, rng: random.Random) -> dict[str, Any]:
    count = draw(st.sampled_from([0, 1, 2, 5, 12, 30]))
    strings = draw(st.booleans())
    ids = rng.sample(range(-50, 1000), count)
    columns: dict[str, Any] = {"id": [f"é{i}" for i in ids] if strings else ids}
    fields = [("id", pa.string() if strings else pa.int64())]
    keys = 'id = "id"'
    if draw(st.booleans()):
        columns["text"] = [random_text(rng) for _ in ids]
        fields.append(("text", pa.string()))
        keys += '\ntext = "text"'
    if draw(st.booleans()):
        columns["size"] = [rng.randrange(100) for _ in ids]
        columns["vector"] = [[rng.randrange(9) / 4, rng.randrange(9) / 4] for _ in ids]
        fields += [("size", pa.int32()), ("vector", pa.list_(pa.float64(), 2))]
        keys += '\nfeatures = ["size", "vector"]'
    if draw(st.booleans()):
        columns["label"] = [rng.choice([0, 1, 2, None]) for _ in ids]
        columns["part"] = [rng.choice(["train", "valid", "val", "test", "none", None]) for _ in ids]
        fields += [("label", pa.int16()), ("part", pa.large_string())]
        keys += '\nlabel = "label"\nsplit = "part"'
    return {"columns": columns, "keys": keys, "schema": pa.schema(fields)}


def _relation(
    draw: st.DrawFn, rng: random.Random, ends: tuple[str, str], ids: Sequence[Sequence[Any]]
) -> dict[str, Any]:
    count = draw(st.sampled_from([0, 1, 4, 20, 60])) if ids[0] and ids[1] else 0
    columns: dict[str, Any] = {
        "src_id": [rng.choice(ids[0]) for _ in range(count)],
        "dst_id": [rng.choice(ids[1]) for _ in range(count)],
    }
    kinds = [pa.string() if any(isinstance(i, str) for i in of) else pa.int64() for of in ids]
    fields = [("src_id", kinds[0]), ("dst_id", kinds[1])]
    keys = ""
    if draw(st.booleans()):
        columns["split"] = [rng.choice(["train", "valid", "test", "message", None]) for _ in range(count)]
        columns["label"] = [rng.choice(["red", "blue", None]) for _ in range(count)]
        fields += [("split", pa.string()), ("label", pa.string())]
        keys += 'split = "split"\nlabel = "label"\nclasses = ["red", "blue"]\n'
    if draw(st.booleans()):
        columns["weight"] = [rng.randrange(100) / 8 for _ in range(count)]
        fields.append(("weight", pa.float32()))
        keys += 'features = ["weight"]\n'
    if draw(st.booleans()):
        keys += "reverse = false\n"
    return {"ends": ends, "columns": columns, "keys": keys, "schema": pa.schema(fields)}


def random_text(rng: random.Random) -> str | None:
    if rng.random() < 0.2:
        return None
    return " ".join(rng.choice(WORDS) for _ in range(rng.randrange(12)))


def communities(*, groups: int = 16, size: int = 40, seed: int = 0) -> dict[str, Any]:
    """Papers in groups that cite each other five times as often as anybody else; an author for every four."""
    rng = random.Random(seed)
    count = groups * size
    ends = [(paper, _cited(rng, paper, size, count)) for paper in range(count) for _ in range(4)]
    papers = [f"p{i}" for i in range(count)]
    return {
        "paper": {
            "columns": {
                "id": papers,
                "text": [random_text(rng) for _ in papers],
                "size": [rng.randrange(100) for _ in papers],
                "vector": [[rng.randrange(9) / 4, rng.randrange(9) / 4] for _ in papers],
                "label": [rng.choice([0, 1, 2, None]) for _ in papers],
                "part": [rng.choice(["train", "valid", "test", None]) for _ in papers],
            },
            "keys": 'id = "id"\ntext = "text"\nlabel = "label"\nsplit = "part"\n'
            'features = ["size", "vector"]',
            "schema": pa.schema(
                [
                    ("id", pa.string()),
                    ("text", pa.string()),
                    ("size", pa.int32()),
                    ("vector", pa.list_(pa.float64(), 2)),
                    ("label", pa.int16()),
                    ("part", pa.string()),
                ]
            ),
        },
        "author": {"columns": {"id": list(range(count // 4))}, "keys": 'id = "id"'},
        "cites": {
            "ends": ("paper", "paper"),
            "columns": {
                "src_id": [papers[source] for source, _ in ends],
                "dst_id": [papers[destination] for _, destination in ends],
                "split": [rng.choice(["train", None, None, "test"]) for _ in ends],
                "label": [rng.choice(["red", "blue", None]) for _ in ends],
                "weight": [rng.randrange(100) / 8 for _ in ends],
            },
            "keys": 'split = "split"\nlabel = "label"\nclasses = ["red", "blue"]\nfeatures = ["weight"]',
        },
        "writes": {
            "ends": ("author", "paper"),
            "columns": {"src_id": [i // 4 for i in range(count)], "dst_id": papers},
            "keys": "",
        },
    }


def _cited(rng: random.Random, paper: int, size: int, count: int) -> int:
    if rng.random() < 1 / 6:
        return rng.randrange(count)
    return paper // size * size + rng.randrange(size)


def planted(folder: Path, *, groups: int, size: int, seed: int = 0) -> tuple[DiskGraph, np.ndarray]:
    """(graph, group of each node): ten edges a node, nine of them inside its group; numbers tell nothing."""
    rng = np.random.default_rng(100 + seed)  # not the method's: "random" would find the groups
    nodes = groups * size
    group = rng.permutation(nodes) // size
    members = np.argsort(group, kind="stable").reshape(groups, size)
    left = np.repeat(np.arange(nodes), 10)
    inside = rng.random(len(left)) < 0.9
    near = members[group[left], rng.integers(0, size, len(left))]
    right = np.where(inside, near, rng.integers(0, nodes, len(left)))
    return build(folder, nodes, lambda: [(left, right)]), group
