"""Whatever the tables hold is found in DGL's parts exactly once and unchanged."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from partition_graphs import graphs, write_graph
from partition_parts import Parts, check_parts

SHAPES = ((1, 1), (1, 2), (2, 1), (2, 2))
random_graphs = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)


@pytest.fixture(params=SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def shape(request: pytest.FixtureRequest) -> tuple[int, int]:
    value: tuple[int, int] = request.param
    return value


def built(tables: dict[str, Any], tokenizer: str, shape: tuple[int, int], **options: Any) -> Parts:
    with tempfile.TemporaryDirectory() as name:
        write_graph(Path(name) / "graph", tables)
        parts = Parts(tables, Path(name), *shape, tokenizer=tokenizer, **options)
        check_parts(parts, keep_eval_edges=bool(options.get("keep_eval_edges")))
        return parts


@random_graphs
@given(tables=graphs())
def test_every_value_of_the_tables_is_found_once_and_right(
    tables: dict[str, Any], tokenizer: str, shape: tuple[int, int]
) -> None:
    built(tables, tokenizer, shape)


@settings(random_graphs, max_examples=8)
@given(tables=graphs())
def test_held_out_edges_are_stored_where_one_asks_for_them(tables: dict[str, Any], tokenizer: str) -> None:
    built(tables, tokenizer, (2, 1), keep_eval_edges=True)


@settings(random_graphs, max_examples=8)
@given(tables=graphs())
def test_a_random_cut_holds_the_same_values(tables: dict[str, Any], tokenizer: str) -> None:
    built(tables, tokenizer, (2, 2), method="random")


@random_graphs
@given(tables=graphs())
def test_two_hosts_and_two_trainers_of_one_host_give_the_same_ids(tables: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as name:
        write_graph(Path(name) / "graph", tables)
        one, two = Parts(tables, Path(name), 1, 2), Parts(tables, Path(name), 2, 1)
        assert one.ids == two.ids
        assert (one.manifest.clusters, one.manifest.offsets) == (two.manifest.clusters, two.manifest.offsets)
