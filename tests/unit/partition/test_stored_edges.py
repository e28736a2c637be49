"""Edges and targets as they are stored, against numpy.lexsort over all of them."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partition.assign import Numbering, number
from partition.schema import EdgeSchema
from partition.stored_edges import stored_relation, stored_targets, turned_round
from partition.tables import EdgeTable

PAPERS, AUTHORS = 9, 5
EDGES = st.lists(
    st.tuples(st.integers(0, AUTHORS - 1), st.integers(0, PAPERS - 1), st.integers(-1, 2)), max_size=60
)
SIZES = st.sampled_from([1, 4, 1 << 20])


def numbering() -> Numbering:
    part = np.random.default_rng(0).integers(0, 4, PAPERS + AUTHORS)
    part[:4] = range(4)
    cluster = np.zeros(len(part), dtype=np.int64)
    return number(["paper", "author"], [PAPERS, AUTHORS], part, cluster, hosts=2, trainers=2)


def table_of(rows: list[tuple[int, int, int]], *, features: bool = True, dtype: Any = np.int64) -> EdgeTable:
    """An edge's feature is its row, and so is its label."""
    source, destination, splits = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return EdgeTable(
        schema=EdgeSchema("writes", ("writes.parquet",), "author", "paper"),
        source=source.astype(dtype),
        destination=destination.astype(dtype),
        splits=splits.astype(np.int8),
        labels=np.arange(len(rows), dtype=np.int32),
        classes=(),
        features=np.arange(len(rows), dtype=np.float32)[:, None] if features else None,
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(rows=EDGES, size=SIZES, keep=st.booleans(), features=st.booleans())
def test_edges_and_reverses_are_in_the_order_of_destination_source_and_row(
    rows: list[tuple[int, int, int]], size: int, keep: bool, features: bool
) -> None:
    space, table = numbering(), table_of(rows, features=features)
    assert table.splits is not None
    kept = np.flatnonzero((table.splits < 1) | keep)
    source = space.ids["author"][table.source[kept]]
    destination = space.ids["paper"][table.destination[kept]]
    with TemporaryDirectory() as name:
        folder = Path(name)
        options = {"keep_eval_edges": keep, "reverse": "rev", "range_records": size}
        forward = stored_relation(folder / "one", table, space, **options)  # type: ignore[arg-type]
        back = turned_round(folder / "two", forward, range_records=size)
        for found, order, ends in (
            (forward, np.lexsort((source, destination)), (source, destination)),
            (back, np.lexsort((destination, source)), (destination, source)),
        ):
            assert found.source.tolist() == ends[0][order].tolist()
            assert found.destination.tolist() == ends[1][order].tolist()
            assert (found.rows is None) == (found.features is None) == (not features)
            if found.rows is not None:
                assert found.rows.tolist() == kept[order].tolist()
    assert (forward.info.count, back.info.count) == (len(kept), len(kept))
    assert sum(forward.info.targets.values()) == (table.splits >= 0).sum()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(rows=EDGES, size=SIZES)
def test_targets_are_in_the_order_of_destination_source_split_and_row(
    rows: list[tuple[int, int, int]], size: int
) -> None:
    space, table = numbering(), table_of(rows)
    assert table.splits is not None
    chosen = np.flatnonzero(table.splits >= 0)
    source = space.ids["author"][table.source[chosen]]
    destination = space.ids["paper"][table.destination[chosen]]
    order = np.lexsort((table.splits[chosen], source, destination))
    with TemporaryDirectory() as name:
        targets = stored_targets(Path(name) / "targets", table, space, range_records=size)
        assert (targets is None) == (not len(chosen))
        if targets is None:
            return
        found = targets.between(0, len(chosen))
        some = targets.between(1, 2)
    assert found.source.tolist() == source[order].tolist()
    assert found.destination.tolist() == destination[order].tolist()
    assert found.split.tolist() == table.splits[chosen][order].tolist()
    assert found.label.tolist() == chosen[order].tolist()
    assert found.features is not None
    assert found.features.ravel().tolist() == chosen[order].tolist()
    assert some.label.tolist() == chosen[order][1:2].tolist()


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_tables_may_count_rows_in_either_width(dtype: Any, tmp_path: Path) -> None:
    table = table_of([(0, 1, -1), (4, 8, -1), (4, 8, 0), (2, 1, 2)], dtype=dtype)
    options = {"keep_eval_edges": False, "reverse": "", "range_records": 1 << 20}
    found = stored_relation(tmp_path / "edges", table, numbering(), **options)  # type: ignore[arg-type]
    assert (found.source.dtype, found.destination.dtype) == (np.int32, np.int32)
    assert found.rows is not None
    assert sorted(found.rows.tolist()) == [0, 1, 2]
