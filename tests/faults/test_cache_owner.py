"""The host that owns a part of the embedding cache fails: what it held is rebuilt, or was in the checkpoint;
what is damaged is not used; nothing is used beyond its age."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kills import DEADLINE_S, PLAN_HEAD, kill_in, start
from safetensors.torch import load_file
from toy import build_partition, plan_of, run_processes, write_lm

CLIENT = Path(__file__).parents[1] / "flows" / "clients" / "cache_client.py"
MAX_AGE = 6
PLAN = (
    PLAN_HEAD
    + """[engine]
checkpoint_every = 7
threads = 1
[cache]
max_age = {max_age}
drift = -1
[tasks.cites]
relations = ["cites"]
[[stages]]
name = "joint"
kind = "joint"
task = "cites"
batch_size = 10
train_nodes = 4
evals = 0
"""
)
HOSTS = ("--nodes", "2", "--trainers-per-node", "1", "--max-restarts", "1")


@pytest.fixture(scope="module")
def plan(toy: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    graph, _, store = toy
    folder = tmp_path_factory.mktemp("cache_owner")
    lm = write_lm(folder / "lm", dropout=0.1)
    (folder / "plan.toml").write_text(PLAN.format(graph=graph, lm=lm, store=store, max_age=MAX_AGE))
    return folder / "plan.toml"


def steps_of(run: Path, rank: int) -> list[dict[str, Any]]:
    """Step events, those that a restart made again in place of the lost ones."""
    name = "events.jsonl" if rank == 0 else f"events-{rank}.jsonl"
    events = [json.loads(line) for line in (run / name).read_text().splitlines()]
    return list({event["step"]: event for event in events if event["event"] == "step"}.values())


def finished(plan: Path, run: Path, *flags: str, killed: bool) -> Path:
    process = start(plan, run, *HOSTS, *flags)
    if killed:
        kill_in(run, process, "joint", "server-1", after=20)
    assert process.wait(DEADLINE_S) == 0, run.with_suffix(".log").read_text()[-3000:]
    assert json.loads((run / "outcome.json").read_text())["restarts"] == int(killed)
    return run


@pytest.mark.drill
@pytest.mark.timeout(1200)
def test_an_owner_whose_shard_was_in_the_checkpoint_comes_back_with_it(plan: Path, tmp_path: Path) -> None:
    whole = finished(plan, tmp_path / "whole", killed=False)
    killed = finished(plan, tmp_path / "killed", killed=True)
    for rank in range(2):
        expected, got = steps_of(whole, rank), steps_of(killed, rank)
        for name in ("loss", "cache_usable", "cache_age"):
            assert [event[name] for event in got] == [event[name] for event in expected]
    weights = [load_file(next((run / "stages" / "joint").glob("0*/rank-0/model.safetensors")))
               for run in (whole, killed)]  # fmt: skip
    assert all(weight.equal(weights[1][name]) for name, weight in weights[0].items())


@pytest.mark.drill
@pytest.mark.timeout(1200)
def test_an_owner_whose_shard_is_lost_rebuilds_it_and_serves_nothing_older(
    plan: Path, tmp_path: Path
) -> None:
    run = finished(plan, tmp_path / "cold", "--set", "cache.checkpoint_gib=0", killed=True)
    for rank in range(2):
        again = [event for event in steps_of(run, rank) if event["attempt"] == 2]
        assert again[0]["step"] > 1
        assert again[0]["cache_usable"] == 0
        for since, event in enumerate(again):
            assert event["cache_age"] <= min(since, MAX_AGE)
        assert len(again) > 2 * MAX_AGE
        late = again[MAX_AGE:]
        found, texts = (sum(event[name] for event in late) for name in ("cache_usable", "cache_texts"))
        assert found > 0.5 * texts


def test_a_shard_that_lost_bits_is_computed_again_and_never_served(
    toy: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    graph, lm, store = toy
    partition = build_partition(graph, lm, store, hosts=2, trainers=2)
    plan = plan_of(graph, lm, cache={"max_age": MAX_AGE, "refresh": 0.0, "budget": 0.0})
    run = run_processes(
        plan, partition, tmp_path / "run", hosts=2, trainers=2, client=CLIENT, env={"DAMAGED_AT": "20"}
    )
    for counts in (json.loads((run / f"cache-{rank}.json").read_text()) for rank in range(4)):
        assert counts["hits"] > 0.4 * counts["texts"]
        assert counts["wrong"] == 0
        assert counts["unseen"] == 0  # found are the whole ones that are young enough, and no other
        assert counts["oldest"] == MAX_AGE
