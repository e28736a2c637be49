"""Records of stored text embeddings: what was written comes back, anything else is noticed."""

from __future__ import annotations

import multiprocessing as mp

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.records import Stamp, pack, unpack, words

WIDTH = 10


def rows_of(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 33), st.integers(0, (1 << 31) - 1), st.integers(0, (1 << 32) - 1))
@settings(max_examples=40, deadline=None)
def test_a_record_gives_back_row_model_and_step(width: int, model: int, step: int) -> None:
    rows, ids = torch.randn(5, width), torch.tensor([7, 1, 0, 1 << 40, 3])
    records = pack(rows, ids, Stamp(model, step))
    assert records.shape == (5, words(width))
    found = unpack(records, ids, width)
    assert torch.equal(found.rows, rows.half())
    assert found.model.tolist() == [model] * 5
    assert found.step.tolist() == [step] * 5
    assert bool(found.whole.all())


def test_any_flipped_bit_is_noticed() -> None:
    ids = torch.tensor([4])
    record = pack(rows_of(1), ids, Stamp(3, 5))
    for word in range(record.shape[1]):
        for bit in range(64):
            broken = record.clone()
            broken[0, word] ^= torch.tensor(1 << bit if bit < 63 else -(1 << 63))
            assert not bool(unpack(broken, ids, WIDTH).whole), (word, bit)


def test_a_mixture_of_two_writes_is_noticed() -> None:
    ids = torch.tensor([4])
    old, new = pack(rows_of(1, 1), ids, Stamp(3, 5)), pack(rows_of(1, 2), ids, Stamp(3, 6))
    for cut in range(1, old.shape[1]):
        assert not bool(unpack(torch.cat([new[:, :cut], old[:, cut:]], dim=1), ids, WIDTH).whole), cut


def test_a_record_of_another_node_or_of_none_is_noticed() -> None:
    records = torch.cat(
        [pack(rows_of(1), torch.tensor([4]), Stamp(3, 5)), torch.zeros(1, words(WIDTH)).long()]
    )
    assert unpack(records, torch.tensor([5, 0]), WIDTH).whole.tolist() == [False, False]


def _write(shared: Tensor, number: int, rounds: int, wide: int) -> None:
    """Overwrite the one record again and again with rows that hold nothing but a number."""
    torch.set_num_threads(1)
    for step in range(rounds):
        shared[:] = pack(torch.full((1, wide), float(number)), torch.tensor([0]), Stamp(number, step))


@pytest.mark.timeout(120)
def test_a_whole_record_is_one_writer_s_however_many_write_at_once() -> None:
    wide, rounds = 4096, 400
    shared = pack(torch.full((1, wide), 1.0), torch.tensor([0]), Stamp(1, 0)).share_memory_()
    context = mp.get_context("spawn")
    writers = [context.Process(target=_write, args=(shared, n, rounds, wide)) for n in (1, 2)]
    for writer in writers:
        writer.start()
    whole = 0
    while any(writer.is_alive() for writer in writers):
        found = unpack(shared.clone(), torch.tensor([0]), wide)
        if bool(found.whole):
            whole += 1
            assert bool((found.rows == found.model.half()).all())
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert whole > 0
