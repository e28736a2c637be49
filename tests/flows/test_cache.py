"""The embedding cache over two hosts x two trainers, against what every trainer must see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from toy import build_partition, plan_of, run_processes

CLIENT = Path(__file__).parent / "clients" / "cache_client.py"
MAX_AGE = 5


Toy = tuple[Path, Path, Path]
SHARES = ["1", "0.4"]


@pytest.fixture(scope="module", params=SHARES)
def used(
    request: pytest.FixtureRequest, toy: Toy, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """What each of four trainers counted over 40 steps, with room for all embeddings or for some."""
    counts = counted(toy, tmp_path_factory.mktemp("cache"), SHARE=request.param)
    assert all((count["evicted"] > 0) == (request.param != "1") for count in counts)
    return counts


def counted(toy: Toy, folder: Path, **env: str) -> list[dict[str, Any]]:
    graph, lm, store = toy
    partition = build_partition(graph, lm, store, hosts=2, trainers=2)
    plan = plan_of(graph, lm, cache={"max_age": MAX_AGE, "refresh": 0.0, "budget": 0.0})
    run = run_processes(
        plan,
        partition,
        folder,
        hosts=2,
        trainers=2,
        client=CLIENT,
        env=env,
        servers=1 if env["SHARE"] == "1" else 2,
    )
    return [json.loads((run / f"cache-{rank}.json").read_text()) for rank in range(4)]


def test_every_embedding_found_is_that_of_its_node_at_one_step(used: list[dict[str, Any]]) -> None:
    least = 0.2 if used[0]["evicted"] else 0.5
    assert all(counts["hits"] > least * counts["texts"] for counts in used)
    assert [counts["wrong"] for counts in used] == [0] * 4


def test_no_embedding_is_older_than_the_bound_and_some_are_that_old(used: list[dict[str, Any]]) -> None:
    assert [counts["oldest"] for counts in used] == [MAX_AGE] * 4


def test_what_any_trainer_computed_is_found_by_all_from_the_next_step_on(used: list[dict[str, Any]]) -> None:
    assert [counts["unseen"] for counts in used] == [0] * 4
    assert all(counts["foreign"] > 0 for counts in used)


def test_texts_that_gradients_reach_never_come_from_the_cache(used: list[dict[str, Any]]) -> None:
    assert [counts["served_trained"] for counts in used] == [0] * 4


def test_all_trainers_know_what_is_fresh_and_the_records_say_the_same(used: list[dict[str, Any]]) -> None:
    assert [counts["fresh"] for counts in used] == [0] * 4


@pytest.mark.parametrize("changes", [{"COPIED": "0"}, {"COPIED": "0.3"}, {"SCRIBBLED": "1"}])
def test_what_is_found_is_the_same_with_copies_without_and_with_damaged_ones(
    used: list[dict[str, Any]], toy: Toy, tmp_path: Path, changes: dict[str, str]
) -> None:
    share = SHARES[bool(used[0]["evicted"])]
    others = counted(toy, tmp_path / "run", SHARE=share, **changes)
    told = [{name: value for name, value in count.items() if name != "fetched"} for count in (*used, *others)]
    assert told[:4] == told[4:]
    assert all(few["fetched"] < many["fetched"] for few, many in zip(used, others, strict=True))
