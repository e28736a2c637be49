"""What travels in few bytes is what was sent."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.csc import PartCSC, draw
from pipeline.packed import ascending, narrow, pack_drawn, unpack_ascending, unpack_drawn

NOTHING = torch.zeros(0, dtype=torch.int64)
RELATIONS = 3


@pytest.mark.parametrize(
    ("most", "size"),
    [(0, torch.uint8), (255, torch.uint8), (256, torch.int16), (32_767, torch.int16), (32_768, torch.int32),
     (2**31 - 1, torch.int32), (2**31, torch.int64)],
)  # fmt: skip
def test_the_smallest_type_that_holds_the_largest_number_is_taken(most: int, size: torch.dtype) -> None:
    numbers = torch.tensor([0, most])
    assert narrow(numbers).dtype == size
    assert narrow(numbers).long().tolist() == [0, most]


@given(st.lists(st.integers(0, 2**40), max_size=20))
def test_ascending_numbers_come_back(numbers: list[int]) -> None:
    ordered = torch.tensor(sorted(numbers), dtype=torch.int64)
    assert unpack_ascending(ascending(ordered)).tolist() == sorted(numbers)


def test_ids_that_lie_close_take_a_byte_each() -> None:
    assert ascending(100 + 3 * torch.arange(1000)).nbytes == 1000


edges_of_a_part = st.lists(
    st.tuples(st.integers(0, 7), st.integers(0, RELATIONS - 1), st.integers(0, 7)), max_size=80
)


@given(edges_of_a_part, st.lists(st.integers(-1, 3), min_size=RELATIONS, max_size=RELATIONS))
@settings(max_examples=60, deadline=None)
def test_drawn_edges_come_back_to_the_bit(edges: list[tuple[int, int, int]], fanout: list[int]) -> None:
    ordered = torch.tensor(sorted(edges), dtype=torch.int64).reshape(-1, 3)
    indptr = torch.zeros(9, dtype=torch.int64)
    indptr[1:] = torch.bincount(ordered[:, 0], minlength=8).cumsum(0)
    part = PartCSC(indptr, ordered[:, 2], ordered[:, 1].to(torch.int32), torch.arange(8) * 100_000)
    drawn = draw(part, torch.tensor([5, 0, 7, 2]), torch.tensor(fanout), key=1, excluded=NOTHING)
    again = unpack_drawn(pack_drawn(drawn, RELATIONS), RELATIONS)
    for name in ("seed", "relation", "source", "scale"):
        assert torch.equal(getattr(again, name), getattr(drawn, name)), name


@pytest.mark.parametrize("degree", [11, 1_000_003, 8_388_607])
def test_the_scale_of_a_hub_comes_back_to_the_bit(degree: int) -> None:
    scale = torch.tensor([degree], dtype=torch.float32) / 10
    groups, counts, degrees, _ = pack_drawn(
        type("D", (), {"seed": torch.zeros(10, dtype=torch.int64), "relation": torch.zeros(10).long(),
                       "source": torch.arange(10), "scale": scale.expand(10)})(), 1
    )  # fmt: skip
    assert (groups.tolist(), counts.tolist(), degrees.tolist()) == ([0], [10], [degree])
