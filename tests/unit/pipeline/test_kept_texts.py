"""Kept text embeddings: a text is found by its tokens, in any order and part; what is damaged is not."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toy import write_lm

from pipeline.batch import Ragged
from pipeline.config import GraphPlan, ModelPlan, StagePlan, TaskPlan, TrainPlan
from pipeline.kept_texts import KeptTexts, is_kept, keep_texts, runs_to_search, text_hashes
from pipeline.lm import TextEncoder
from pipeline.records import words

WIDTH = 6
LM = "0123abcd"
LISTS = st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=20)


def ragged(lists: list[list[int]]) -> Ragged:
    ends = torch.tensor([0, *map(len, lists)]).cumsum(0)
    return Ragged(torch.tensor([v for one in lists for v in one], dtype=torch.int32), ends)


def rows_of(lists: list[list[int]]) -> Tensor:
    """float16 N x WIDTH, another row for every list: its numbers and its length."""
    padded = [[*one, *[-1] * (WIDTH - 1 - len(one)), len(one)] for one in lists]
    return torch.tensor(padded, dtype=torch.float16).reshape(len(lists), WIDTH)


def keep(run: Path, lists: list[list[int]], part: int = 0, rows: Tensor | None = None) -> None:
    blocks = (rows_of(lists) if rows is None else rows).split(3)
    keep_texts(run, LM, "paper", part, hashes=text_hashes(ragged(lists)), blocks=blocks, width=WIDTH)


def opened(*runs: Path, own: Path = Path("none")) -> KeptTexts:
    """`own`: the folder of the run that looks; `runs`: others."""
    return KeptTexts([own, *runs], LM, "paper", WIDTH)


def look_up(kept: KeptTexts, lists: list[list[int]], part: int = 9, first: int = 0) -> tuple[Tensor, Tensor]:
    """In a part that no run has kept anything of, unless it is said."""
    return kept.find(ragged(lists), part=part, first=first)


@settings(deadline=None, max_examples=60)
@given(LISTS, LISTS, LISTS)
def test_those_texts_are_found_that_some_part_of_some_run_has(
    tmp_path_factory: pytest.TempPathFactory,
    one: list[list[int]],
    two: list[list[int]],
    sought: list[list[int]],
) -> None:
    first, second = tmp_path_factory.mktemp("a"), tmp_path_factory.mktemp("b")
    keep(first, one)
    keep(first, two[:3], part=1)
    keep(second, two[3:])
    found, rows = look_up(opened(first, second), sought)
    assert found.tolist() == [text in one + two for text in sought]
    assert torch.equal(rows, rows_of([text for text in sought if text in one + two]))


def test_a_run_finds_what_it_has_kept_itself_in_its_own_place(tmp_path: Path) -> None:
    """Equal texts may have other roundings, and a run that goes on must not mix them up."""
    texts, rows = [[1], [2], [1], [1]], torch.arange(4 * WIDTH).reshape(4, WIDTH).half()
    keep(tmp_path / "own", texts, rows=rows)
    keep(tmp_path / "other", texts, part=1, rows=rows)
    kept = opened(tmp_path / "other", own=tmp_path / "own")
    assert torch.equal(look_up(kept, texts[1:], part=0, first=1)[1], rows[1:])
    assert torch.equal(look_up(kept, texts[1:], part=1, first=1)[1], rows[[1, 0, 0]])
    assert torch.equal(look_up(kept, [[2], [1], [2]], part=0, first=2)[1], rows[[1, 3, 1]])


def test_what_another_language_model_or_type_has_kept_is_not_found(tmp_path: Path) -> None:
    keep(tmp_path, [[1, 2]])
    assert KeptTexts([tmp_path], "ffff", "paper", WIDTH).empty
    assert KeptTexts([tmp_path], LM, "pap", WIDTH).empty
    assert not opened(tmp_path).empty


def test_a_damaged_record_is_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = [[1], [2], [3]]
    keep(tmp_path, texts)
    [path] = tmp_path.rglob("*.records.npy")
    records = np.load(path)
    records[1, 0] ^= 1 << 17
    assert records.shape == (3, words(WIDTH))
    np.save(path, records)
    with caplog.at_level(logging.WARNING):
        found, rows = look_up(opened(tmp_path), texts)
    assert int(found.sum()) == 2
    assert torch.equal(rows, rows_of(texts)[found])
    assert "1 records are damaged" in caplog.text


@pytest.mark.parametrize("left", [-8, 0])
@pytest.mark.parametrize("name", ["index", "records"])
def test_a_truncated_file_is_passed_over_with_its_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, left: int
) -> None:
    keep(tmp_path, [[1], [2]])
    [path] = tmp_path.rglob(f"*.{name}.npy")
    path.write_bytes(path.read_bytes()[:left])
    with caplog.at_level(logging.WARNING):
        assert opened(tmp_path).empty
    assert "part-0.index.npy is passed over" in caplog.text


def test_a_part_is_written_anew_without_what_killed_processes_left(tmp_path: Path) -> None:
    keep(tmp_path, [[1], [2]])
    [index] = tmp_path.rglob("*.index.npy")
    left_over = index.with_name(".part-0.records.npy.123")
    left_over.write_bytes(b"half")
    keep(tmp_path, [[3]])
    assert not left_over.exists()
    assert look_up(opened(tmp_path), [[1], [2], [3]])[0].tolist() == [False, False, True]


def test_a_part_without_a_file_of_its_own_goes_by_other_runs_alone(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    keep(mine, [[1]], part=0)
    keep(other, [[2]], part=0)
    found, _ = look_up(opened(other, own=mine), [[1], [2]], part=1)
    assert found.tolist() == [False, True]


def test_embeddings_of_another_width_are_passed_over(tmp_path: Path) -> None:
    keep(tmp_path, [[1]])
    assert KeptTexts([tmp_path], LM, "paper", WIDTH + 8).empty


def test_records_without_their_index_count_as_not_kept(tmp_path: Path) -> None:
    keep(tmp_path, [[1]])
    assert is_kept(tmp_path, LM, "paper", 0)
    [path] = tmp_path.rglob("*.index.npy")
    path.unlink()
    assert not is_kept(tmp_path, LM, "paper", 0)
    assert opened(tmp_path).empty


def test_a_run_searches_its_own_folder_and_those_that_its_stages_start_from() -> None:
    stages = [
        StagePlan(name="a", kind="gnn_warm", task="cites", start="/runs/x:warm"),
        StagePlan(name="b", kind="gnn_warm", task="cites", start="a"),
    ]
    tasks = {"cites": TaskPlan(relations=("cites",))}
    plan = TrainPlan("p", GraphPlan("g"), tasks, tuple(stages))
    assert runs_to_search(plan, Path("/runs/y")) == [Path("/runs/y"), Path("/runs/x")]


def test_saving_a_language_model_does_not_change_its_form(tmp_path: Path) -> None:
    """The trainer that exports it would else look for its texts elsewhere."""
    encoder = TextEncoder.from_plan(ModelPlan(lm=str(write_lm(tmp_path / "lm")), max_length=12))
    before = encoder.form()
    encoder.save(tmp_path / "saved")
    assert encoder.form() == before
    encoder.pooling = "cls"
    assert encoder.form() != before
