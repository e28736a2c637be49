"""Plans: read, overridden, checked, written."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from partition.errors import UsageError
from pipeline.config import ModelPlan, TrainPlan, load_plan
from pipeline.plan_idle import STAGE_KEYS, TASK_KEYS
from pipeline.plan_stages import STAGE_KINDS, TASK_KINDS, StagePlan, TaskPlan

REPO = Path(__file__).resolve().parents[3]

TEXT = """
name = "small"
seed = 3
[graph]
path = "data/graph"
[model]
fanout_of = { cites = [3, 4] }
[tasks.uses]
relations = ["uses"]
[[stages]]
name = "mlm"
kind = "mlm"
[[stages]]
name = "joint"
kind = "joint"
task = "uses"
epochs = 1
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "plan.toml"
    file.write_text(TEXT)
    return file


def changed(path, old: str, new: str):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    return path


def test_values_of_the_file_are_read_and_the_rest_has_defaults(path):
    plan = load_plan(path)
    assert (plan.name, plan.seed, plan.graph.path) == ("small", 3, "data/graph")
    assert plan.model == ModelPlan(fanout_of={"cites": (3, 4)})
    assert [stage.name for stage in plan.stages] == ["mlm", "joint"]
    assert (plan.stages[1].epochs, type(plan.stages[1].epochs)) == (1.0, float)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 3", "sead = 3", r"sead: unknown key; did you mean 'seed'\?"),
        ("[model]", "[model]\nhiden = 8", r"model.hiden: unknown key; did you mean 'hidden'\?"),
        ("[model]", "[modle]", r"modle: unknown key; did you mean 'model'\?"),
        ('kind = "mlm"', 'kind = "mlm"\nbatchsize = 8', r"batchsize: unknown key; did you mean 'batch_size'"),
        ('path = "data/graph"', "", r"graph\.path is missing"),
        ('name = "small"', "", r"name is missing"),
        ('name = "small"', "name = 3", r"name = 3: expected str"),
        ("seed = 3", "seed = true", r"seed = True: expected int"),
        ("seed = 3", "seed = 3.5", r"seed = 3.5: expected int"),
        ('relations = ["uses"]', 'relations = "uses"', r"tasks.uses.relations = 'uses': expected a list"),
        ("[graph]\n", "graph = 3\n[partition]\n", r"graph.*expected a table"),
        ('task = "uses"', 'task = "use"', r"'use' is no task of this plan; did you mean 'uses'\?"),
        ('task = "uses"', "", r"joint.task is missing"),
        ('task = "uses"', 'task = "uses"\nstart = "mml"', r"no earlier stage; did you mean 'mlm'\?"),
        ('name = "joint"', 'name = "mlm"', r"expected a name used once"),
        ("seed = 3", "seed = ", r"plan.toml"),
    ],
)  # fmt: skip
def test_a_wrong_plan_is_a_usage_error_that_names_file_and_key(path, old, new, message):
    with pytest.raises(UsageError, match=message) as caught:
        load_plan(changed(path, old, new))
    assert "plan.toml" in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_missing_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="no such plan"):
        load_plan(tmp_path / "none.toml")


@pytest.mark.parametrize(
    "override",
    [
        "model.gnn_layers=4",
        "model.dropout=1.0",
        "model.dropout_of.uses=1.0",
        "model.fanout=[10]",
        "model.fanout=[10, 0]",
        "model.pooling=max",
        "model.max_length=2",
        "model.sampler=ladies",
        "partition.cluster_size=1",
        "tasks.uses.relations=[]",
        "tasks.uses.loss=hinge",
        "tasks.uses.negative_mix={}",
        "tasks.uses.negative_mix.part=0",
        "stages.joint.epochs=0",
        "stages.joint.batch_size=0",
        "stages.joint.clusters=-1",
        "stages.joint.elsewhere=1.0",
        "stages.joint.train_choice=random",
        "stages.mlm.mask=1",
        "stages.mlm.kind=mml",
        "engine.zero=3",
        "engine.clip=-1",
        "engine.precision=fp16",
        "engine.forward_precision=int8",
        "stages.joint.forward_tokens=0",
    ],
)
def test_a_value_out_of_range_names_its_key(path, override):
    key = override.split("=")[0]
    with pytest.raises(UsageError) as caught:
        load_plan(path, [override])
    assert f"plan.toml: {key} = " in str(caught.value)
    assert "expected" in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tasks.uses.negative_mix.parts=1"], r"negative_mix\.parts: unknown key; did you mean 'part'"),
        (["tasks.uses.log_q=true", "tasks.uses.loss=logistic"], r"log_q corrects a softmax"),
        (["tasks.uses.log_q=true", "tasks.uses.negatives=batch"], r"take negatives = 'joint'"),
        (["tasks.uses.log_q=true", "tasks.uses.negative_mix.part=1"], r"give anywhere a weight"),
    ],
)
def test_a_mixture_that_cannot_be_had_is_a_usage_error(path, overrides, message):
    with pytest.raises(UsageError, match=message):
        load_plan(path, overrides)


def test_a_share_from_elsewhere_asks_for_clusters(path):
    with pytest.raises(UsageError, match=r"set stages\.joint\.clusters"):
        load_plan(path, ["stages.joint.elsewhere=0.1"])
    assert load_plan(path, ["stages.joint.elsewhere=0.1", "stages.joint.clusters=4"]).stages[1].clusters == 4


def test_overrides_reach_every_level(path):
    plan = load_plan(
        path,
        ["seed=9", "model.gnn=sage", 'model.lm="a/b"', "model.fanout=[1, -1]", "stages.joint.epochs=0.5",
         "tasks.uses.scorer=distmult", "engine.clip=0", "partition.reverse=false"],
    )  # fmt: skip
    assert (plan.seed, plan.model.gnn, plan.model.lm, plan.model.fanout) == (9, "sage", "a/b", (1, -1))
    assert (plan.stages[1].epochs, plan.stages[0].epochs) == (0.5, 1.0)
    assert plan.tasks["uses"].scorer == "distmult"
    assert (plan.engine.clip, plan.partition.reverse) == (0.0, False)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "expected key=value"),
        ("sede=3", "did you mean 'seed'"),
        ("stages.warm.epochs=3", "no stage 'warm'"),
        ("name.x=3", "name holds no keys"),
    ],
)
def test_a_wrong_override_is_a_usage_error(path, override, message):
    with pytest.raises(UsageError, match=message):
        load_plan(path, [override])


def test_json_gives_the_same_plan_back(path):
    plan = load_plan(path)
    assert TrainPlan.from_json(plan.to_json()) == plan
    assert TrainPlan.from_json(plan.to_json()).fingerprint() == plan.fingerprint()


def test_the_fingerprint_sees_every_number(path):
    prints = {load_plan(path, o).fingerprint() for o in ([], ["seed=4"], ["stages.joint.rate=0.002"])}
    assert len(prints) == 3


def test_plans_cannot_be_changed(path):
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_plan(path).seed = 4  # type: ignore[misc]


def test_reading_plans_needs_the_standard_library_alone():
    code = "import sys, pipeline.config; print([m for m in ('torch', 'numpy', 'dgl') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


IDLE = """
name = "p"
[graph]
path = "g"
[tasks.links]
relations = ["cites"]
[tasks.topic]
kind = "node_classification"
node_type = "paper"
[[stages]]
name = "mlm"
kind = "mlm"
[[stages]]
name = "warm"
kind = "gnn_warm"
task = "links"
[[stages]]
name = "topic_warm"
kind = "gnn_warm"
task = "topic"
"""


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("tasks.topic.scorer=dot", "tasks.topic.scorer has no effect: it is for link_prediction"),
        ("tasks.topic.decoder=mlp", "it is for edge_classification, this task is node_classification"),
        ("tasks.links.class_weights=balanced", "it is for node_classification and edge_classification"),
        ("stages.warm.train_nodes=32", "stages.warm.train_nodes has no effect: it is for joint"),
        ("stages.warm.lm_rate=1e-4", "stages.warm.lm_rate has no effect"),
        ("stages.warm.mask=0.2", "it is for mlm, this stage is gnn_warm"),
        ("stages.mlm.rate=0.1", "stages.mlm.rate has no effect"),
        ("stages.topic_warm.negatives=batch", "task 'topic' predicts classes, not links"),
    ],
)
def test_a_key_without_an_effect_is_an_error_that_says_what_it_is_for(tmp_path, override, said):
    (tmp_path / "plan.toml").write_text(IDLE)
    load_plan(tmp_path / "plan.toml", ["stages.warm.rate=1e-2", "tasks.links.scorer=distmult"])
    with pytest.raises(UsageError) as caught:
        load_plan(tmp_path / "plan.toml", [override])
    assert f"{tmp_path}/plan.toml: " in str(caught.value)
    assert said in str(caught.value)
    assert "leave it out" in str(caught.value)


def test_the_plan_of_a_run_names_every_key_and_loads_all_the_same(tmp_path):
    (tmp_path / "plan.toml").write_text(IDLE)
    plan = load_plan(tmp_path / "plan.toml")
    assert TrainPlan.from_json(plan.to_json()) == plan


def test_keys_that_are_told_to_have_no_effect_are_keys_of_a_plan():
    for keys, plan, kinds in ((TASK_KEYS, TaskPlan, TASK_KINDS), (STAGE_KEYS, StagePlan, STAGE_KINDS)):
        assert set(keys) <= {field.name for field in dataclasses.fields(plan)}
        assert {kind for some in keys.values() for kind in some} <= set(kinds)


@pytest.mark.parametrize(
    "plan",
    sorted(p for folder in ("examples", "benchmarks") for p in (REPO / folder).rglob("*.toml")),
    ids=str,
)
def test_every_plan_of_the_repository_loads(plan):
    assert load_plan(plan).stages


def test_the_plan_of_the_readme_loads(tmp_path):
    examples = re.findall(r"(?s)```toml\n(.*?)```", (REPO / "README.md").read_text())
    (text,) = [text for text in examples if "[[stages]]" in text]
    (tmp_path / "plan.toml").write_text(text)
    assert len(load_plan(tmp_path / "plan.toml").stages) == 5
