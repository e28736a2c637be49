"""`lmgnn bench batches` against counts by hand on the very batches. Beside a run:
tests/flows/test_estimate_run.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import build_partition, plan_of, write_lm

from partition.errors import UsageError
from partition.manifest import PartitionManifest
from pipeline.batch import Ragged
from pipeline.config import TrainPlan
from pipeline.cost.batches import chosen_stage, main, means_of, stage_batches
from pipeline.cost.offline import OfflineGraph
from pipeline.cost.replay import BatchCost
from pipeline.cost.trial import Trials
from pipeline.lm import TextEncoder
from pipeline.model import LMGNN

WARM = {"name": "warm", "kind": "gnn_warm", "task": "cites"}
JOINT: dict[str, Any] = {
    **{"name": "joint", "kind": "joint", "task": "cites", "start": "warm"},
    **{"batch_size": 8, "train_nodes": 5, "forward_tokens": 40},
}
CACHE = {"mode": "bounded", "max_age": 3, "refresh": 0.0}


@pytest.fixture(scope="module")
def case(toy, tmp_path_factory) -> tuple[Path, Path, Path]:
    """(graph, a language model with dropout, a partition of two hosts with one trainer each)."""
    graph, _, store = toy
    lm = write_lm(tmp_path_factory.mktemp("dropping") / "lm", dropout=0.1)
    return graph, lm, build_partition(graph, lm, store, hosts=2, trainers=1)


def planned(case: tuple[Path, Path, Path], **changes: object) -> TrainPlan:
    return plan_of(case[0], case[1], **{"stages": [WARM, JOINT], "cache": CACHE, **changes})


def drawn(plan: TrainPlan, folder: Path, steps: int, parts: list[int] | None = None) -> list[list[BatchCost]]:
    manifest = PartitionManifest.load(folder)
    replay = Trials(plan, manifest, folder, LMGNN(plan, manifest)).replay(plan.stages[1])
    return list(replay.steps(range(steps), parts))


def lists(graph: OfflineGraph, ids: torch.Tensor) -> list[tuple[int, ...]]:
    tokens = graph.tokens("paper", ids)
    return [
        tuple(tokens.values[a:b].tolist())
        for a, b in torch.stack([tokens.offsets[:-1], tokens.offsets[1:]], 1)
    ]


class Counted:
    """The plan's language model, and how many tokens it is given."""

    def __init__(self, plan: TrainPlan) -> None:
        self._encoder = TextEncoder.from_plan(plan.model)
        self._encoder.packing.suits(plan.model.max_length)  # tries it before the hook counts
        self._encoder.base.register_forward_pre_hook(self._count, with_kwargs=True)
        self._tokens = 0

    def _count(self, _: object, __: object, given: dict[str, torch.Tensor]) -> None:
        self._tokens += given["input_ids"].numel()

    def tokens(self, texts: set[tuple[int, ...]]) -> int:
        """Of these texts, padding included."""
        self._tokens = 0
        offsets = torch.tensor([0, *map(len, texts)]).cumsum(0)
        some = Ragged(torch.tensor([token for text in texts for token in text]), offsets)
        self._encoder.encode(some, JOINT["forward_tokens"])
        return self._tokens


@pytest.mark.parametrize(("accumulate", "parts"), [(1, None), (2, None), (1, [1])])
def test_texts_tokens_and_hits_are_those_counted_by_hand(case, accumulate, parts):
    """With a cache that starts full and forgets after three steps, of all parts or of one alone; texts with
    gradients, and those equal to one, are not stored, since the language model has dropout."""
    folder, steps = case[2], 8
    plan = planned(case, engine={"accumulate": accumulate})
    lm = Counted(plan)
    graph = OfflineGraph(folder, PartitionManifest.load(folder))
    computed_at = dict.fromkeys(range(graph.ids.count["paper"]), 0)
    for step, costs in enumerate(drawn(plan, folder, steps, parts)):
        assert len(costs) == accumulate * len(parts or range(2))
        computed = set()
        for cost in costs:
            ids, rows = cost.batch.nodes["paper"], cost.batch.train_rows["paper"]
            texts = dict(zip(ids.tolist(), lists(graph, ids), strict=True))
            chosen = set(ids[rows].tolist())
            usable = {i for i in texts if i not in chosen and step - computed_at[i] <= 3}
            trained = {texts[i] for i in chosen}
            forward = {i for i in texts if i not in usable and texts[i] not in trained}
            run = {texts[i] for i in forward}
            assert cost.found == len(usable)
            assert (cost.work.rows_trained, cost.work.rows_forward) == (len(trained), len(run))
            assert cost.work.tokens == 3 * lm.tokens(trained) + lm.tokens(run)
            computed |= forward
        computed_at |= dict.fromkeys(computed, step)
    assert computed_at != dict.fromkeys(computed_at, 0)


def test_the_means_are_sums_over_all_parts_and_steps(case):
    plan, folder = planned(case), case[2]
    told = stage_batches(plan, plan.stages[1], PartitionManifest.load(folder), folder, steps=5).means
    costs = [cost for step in drawn(plan, folder, 5) for cost in step]
    targets = sum(cost.targets for cost in costs)
    assert (told.batches, told.targets) == (10, targets / 10)
    assert targets == sum(int(cost.batch.links["cites"].head.numel()) for cost in costs)
    run = sum(cost.work.tokens_trained + cost.work.tokens_forward for cost in costs)
    padding = sum(cost.work.padding_trained + cost.work.padding_forward for cost in costs)
    assert told.padding_share == padding / run > 0
    assert told.lm_tokens_per_target == sum(cost.work.tokens for cost in costs) / targets
    assert told.texts == sum(len(cost.batch.nodes["paper"]) for cost in costs) / 10
    assert told.lm_rows_found == sum(cost.found for cost in costs) / 10 > 0
    assert told.remote_bytes_per_target == sum(cost.remote_bytes for cost in costs) / targets > 0
    assert told.seconds > 0


def test_on_one_host_nothing_is_remote(case, toy):
    graph, lm, store = toy
    folder = build_partition(graph, lm, store, hosts=1, trainers=2)
    assert means_of(drawn(planned(case), folder, 2)[1]).remote_bytes_per_target == 0


def test_without_a_number_an_epoch_is_drawn(case):
    plan, folder = planned(case), case[2]
    told = stage_batches(plan, plan.stages[0], PartitionManifest.load(folder), folder)
    train = PartitionManifest.load(folder).relation("cites").targets["train"]
    assert told.steps == told.steps_per_epoch
    assert told.means.targets * told.means.batches == train


def test_of_a_warm_stage_no_text_runs_and_stored_embeddings_travel(case):
    plan, folder = planned(case), case[2]
    told = stage_batches(plan, plan.stages[0], PartitionManifest.load(folder), folder, steps=2).means
    assert told.lm_tokens_per_target == told.padding_share == 0
    assert told.remote_bytes_per_target > 0


def test_the_stage_is_the_first_joint_one_else_the_first_with_a_graph(case):
    assert chosen_stage(planned(case), "").name == "joint"
    assert chosen_stage(planned(case), "warm").name == "warm"
    assert chosen_stage(planned(case, stages=[WARM]), "").name == "warm"
    with pytest.raises(UsageError, match="--stage jiont: no such stage"):
        chosen_stage(planned(case), "jiont")


def test_more_steps_than_the_stage_has_are_refused_with_the_way_out(case):
    plan, folder = planned(case), case[2]
    with pytest.raises(UsageError, match=r"--batches 9999.*stages\.joint\.epochs"):
        stage_batches(plan, plan.stages[1], PartitionManifest.load(folder), folder, steps=9999)


def plan_file(case: tuple[Path, Path, Path], folder: Path) -> Path:
    file = folder / "plan.toml"
    file.write_text(
        f'name = "toy"\ngraph.path = "{case[0]}"\npartition.store = "{folder}/store"\n'
        f'model = {{ lm = "{case[1]}", max_length = 12, hidden = 16, fanout = [3, 3] }}\n'
        'tasks.cites.relations = ["cites"]\n'
        '[[stages]]\nname = "joint"\nkind = "joint"\ntask = "cites"\nbatch_size = 8\n'
    )
    return file


def test_the_command_builds_the_partition_of_a_plan_and_prints_one_line_of_json(case, tmp_path, capsys):
    arguments = ["batches", "--config", str(plan_file(case, tmp_path)), "--batches", "2"]
    answers = []
    for more in ([], ["--set", "model.fanout=[1, 1]"]):
        assert main([*arguments, *more, "--json"]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert [(answer["hosts"], answer["parts"], answer["steps"]) for answer in answers] == [(1, 2, 2)] * 2
    assert answers[0]["means"]["nodes"] > answers[1]["means"]["nodes"]
    assert main(arguments) == 0
    assert "lm_tokens_per_target" in capsys.readouterr().out


def test_a_partition_whose_texts_are_cut_elsewhere_is_refused(case, tmp_path):
    arguments = ["batches", "--config", str(plan_file(case, tmp_path)), "--partition", str(case[2])]
    with pytest.raises(UsageError, match=r"cut at 12 tokens, model\.max_length is 11"):
        main([*arguments, "--set", "model.max_length=11"])
