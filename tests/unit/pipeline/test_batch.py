"""Ragged lists against Python lists; batches written and read back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.batch import Batch, Edges, Layer, LinkTargets, Ragged

LISTS = st.lists(st.lists(st.integers(0, 30_000), max_size=7), max_size=8)


def ragged(lists: list[list[int]]) -> Ragged:
    values = torch.tensor([v for one in lists for v in one], dtype=torch.int32)
    return Ragged(values, torch.tensor([0, *[len(one) for one in lists]]).cumsum(0))


def as_lists(tokens: Ragged) -> list[list[int]]:
    bounds = tokens.offsets.tolist()
    return [tokens.values[a:b].tolist() for a, b in pairwise(bounds)]


@settings(deadline=None, max_examples=100)
@given(LISTS, st.data())
def test_select_equals_indexing_of_python_lists(lists, data):
    indices = st.lists(st.integers(0, len(lists) - 1), max_size=10) if lists else st.just([])
    rows = data.draw(indices)
    got = ragged(lists).select(torch.tensor(rows, dtype=torch.int64))
    assert as_lists(got) == [lists[i] for i in rows]
    assert got.lengths().tolist() == [len(lists[i]) for i in rows]


@settings(deadline=None, max_examples=100)
@given(LISTS)
def test_padded_equals_filling_python_lists(lists):
    ids, mask = ragged(lists).padded(-1)
    width = max((len(one) for one in lists), default=0)
    assert ids.shape == mask.shape == (len(lists), width)
    assert ids.tolist() == [one + [-1] * (width - len(one)) for one in lists]
    assert mask.tolist() == [[True] * len(one) + [False] * (width - len(one)) for one in lists]
    assert ids.dtype == torch.int64


def edges(seed: int, count: int) -> Edges:
    generator = torch.Generator().manual_seed(seed)
    destination = torch.randint(3, (count,), generator=generator).sort().values
    source = torch.randint(5, (count,), generator=generator)
    return Edges(source, destination, torch.rand(count, generator=generator))


def full_batch() -> Batch:
    positions = torch.arange(4)
    usable = torch.ones(4, 4, dtype=torch.bool)
    return Batch(
        nodes={"paper": torch.tensor([8, 1, 2**40]), "no one": torch.zeros(0, dtype=torch.int64)},
        layers=(
            Layer({"paper": 5}, {"paper": 3}, {"cites": edges(0, 7), "empty": edges(1, 0)}),
            Layer({"paper": 3}, {"paper": 2}, {}),
        ),
        tokens={"paper": ragged([[1, 2], [], [3]])},
        train_rows={"paper": torch.tensor([2])},
        hidden={"paper": torch.tensor([-100, 2, -100])},
        embedded={"title": torch.randn(2, 4).bfloat16()},
        features={"paper": torch.randn(3, 2)},
        learnable={"tag": torch.randn(2, 4, requires_grad=True)},
        # One tensor in several places, as a sampler may well hand them out.
        links={
            "cites": LinkTargets(positions, positions, positions[:2], positions[2:], usable, usable),
            "corrected": LinkTargets(
                *[positions[:0]] * 2, positions, positions, *[usable[:0]] * 2, torch.randn(4), torch.randn(4)
            ),
        },
        key=-(2**63),
        train_scale=2.5,
        stats={"rpc_rows": 3.0},
    )


def assert_equal(one: object, other: object) -> None:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype  # type: ignore[attr-defined]
        assert torch.equal(one, other)  # type: ignore[arg-type]
    elif dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            assert_equal(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, Mapping):
        assert one.keys() == other.keys()  # type: ignore[attr-defined]
        for key in one:
            assert_equal(one[key], other[key])  # type: ignore[index]
    elif isinstance(one, tuple):
        assert len(one) == len(other)  # type: ignore[arg-type]
        for a, b in zip(one, other, strict=True):  # type: ignore[call-overload]
            assert_equal(a, b)
    else:
        assert one == other


def test_a_saved_batch_is_read_back_whole(tmp_path):
    batch = full_batch()
    batch.save(tmp_path / "batch.safetensors")
    assert_equal(Batch.load(tmp_path / "batch.safetensors"), batch)


def test_an_empty_batch_is_read_back(tmp_path):
    batch = Batch(nodes={})
    batch.save(tmp_path / "batch.safetensors")
    assert_equal(Batch.load(tmp_path / "batch.safetensors"), batch)


def test_moving_to_a_device_keeps_everything_and_the_gradient():
    batch = full_batch()
    moved = batch.to(torch.device("cpu"))
    assert_equal(moved, batch)
    moved.learnable["tag"].sum().backward()
    assert batch.learnable["tag"].grad is not None


@pytest.mark.parametrize("device", ["meta"])
def test_every_tensor_moves(device):
    moved = full_batch().to(torch.device(device))
    tensors = [moved.nodes["paper"], moved.layers[0].edges["cites"].scale, moved.tokens["paper"].offsets]
    tensors += [moved.links["cites"].tail_mask, moved.hidden["paper"], moved.embedded["title"]]
    assert {t.device.type for t in tensors} == {device}


def test_terms_count_true_edges_and_hidden_tokens():
    assert full_batch().terms == 4 + 1
