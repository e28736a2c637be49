"""Keys sorted on disk, against numpy's stable sort."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partition.runs import Keyed, KeysOf, in_order_of_keys


def of(keys: np.ndarray, keep: np.ndarray, *, with_rows: bool = True) -> KeysOf:
    """Rows with these keys, of which some count."""

    def keys_of(first: int, last: int) -> Keyed:
        rows = first + np.flatnonzero(keep[first:last])
        return Keyed(keys[rows], rows if with_rows else None)

    return keys_of


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=60),
    range_records=st.sampled_from([1, 7, 1 << 20]),
    with_rows=st.booleans(),
)
def test_records_come_in_the_order_of_key_and_row(
    rows: list[tuple[int, bool]], range_records: int, with_rows: bool
) -> None:
    keys = np.array([key << 32 for key, _ in rows], dtype=np.int64)
    keep = np.array([kept for _, kept in rows], dtype=bool)
    with TemporaryDirectory() as folder:
        keys_of = of(keys, keep, with_rows=with_rows)
        found = list(in_order_of_keys(Path(folder), len(rows), keys_of, range_records=range_records))
        assert not list(Path(folder).iterdir())
    order = np.flatnonzero(keep)[np.argsort(keys[keep], kind="stable")]
    assert [key for some in found for key in some.keys.tolist()] == keys[order].tolist()
    if with_rows:
        assert [row for some in found if some.rows is not None for row in some.rows] == order.tolist()
    ends = [(some.keys[0], some.keys[-1]) for some in found if len(some.keys)]
    assert all(before[1] < after[0] for before, after in pairwise(ends))


def test_ranges_are_about_as_large_as_asked_for_whatever_the_keys_are(tmp_path: Path) -> None:
    """Half of all records have one destination; the table is sorted by what keys are not."""
    rng = np.random.default_rng(0)
    destination = np.where(rng.random(200_000) < 0.5, 7, rng.integers(0, 1 << 30, 200_000))
    keys = destination << 32 | np.arange(200_000)
    keys_of = of(keys, np.ones(len(keys), dtype=bool))
    sizes = [len(some.keys) for some in in_order_of_keys(tmp_path, 200_000, keys_of, range_records=10_000)]
    assert len(sizes) == 20
    assert max(sizes) < 12_000


def test_scratch_files_are_gone_after_an_error(tmp_path: Path) -> None:
    def keys_of(first: int, last: int) -> Keyed:
        if first:
            raise OSError("no more")
        return Keyed(np.zeros(last, dtype=np.int64), None)

    with pytest.raises(OSError, match="no more"):
        list(in_order_of_keys(tmp_path, 2, keys_of, range_records=1))
    assert not list(tmp_path.iterdir())
