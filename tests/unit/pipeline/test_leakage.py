"""pipeline/leakage.py: a leak planted into a clean random graph is found, and nothing without one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from partition.build import BuildOptions, build
from partition.errors import UsageError
from pipeline.config import GraphPlan, PartitionPlan, StagePlan, TaskPlan, TrainPlan
from pipeline.given_tables import load_graph_tables
from pipeline.leaks.command import main
from pipeline.leaks.find import find_leaks

PAPERS, GROUPS = 600, 30
CLASSES = ("biology", "physics", "chemistry")
SPLITS = np.array(["train", "valid", "test"])
GRAPH_TOML = """
[nodes.paper]
path = "paper.parquet"
text = "text"
label = "field"
split = "split"
[nodes.forum]
path = "forum.parquet"
[edges.cites]
path = "cites.parquet"
source = "paper"
destination = "paper"
split = "split"
label = "kind"
[edges.reads]
path = "reads.parquet"
source = "paper"
destination = "paper"
[edges.posted]
path = "posted.parquet"
source = "paper"
destination = "forum"
"""
LINKS = TaskPlan(relations=("cites",))
KINDS = TaskPlan(kind="edge_classification", relations=("cites",))
FIELDS = TaskPlan(kind="node_classification", node_type="paper")


class Papers:
    """Random papers, citations without a pair twice, and readings beside them: nothing to guess from."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.names = np.array([f"p{i}" for i in range(PAPERS)])
        self.field = rng.choice(CLASSES, PAPERS)
        self.split = SPLITS[np.arange(PAPERS) % 3]
        self.text = [" ".join(rng.choice([f"word{i}" for i in range(99)], 8)) for _ in range(PAPERS)]
        pairs = rng.choice(PAPERS * (PAPERS - 1) // 2, 3000, replace=False)
        ends = np.stack(np.triu_indices(PAPERS, 1), axis=1)[pairs]
        self.cites, self.reads = ends[:1500], ends[1500:]
        self.cite_split = SPLITS[np.arange(1500) % 3]
        self.kind = rng.choice(["uses", "extends"], 1500)
        self.forum = rng.integers(0, GROUPS, PAPERS)

    def write(self, folder: Path) -> str:
        folder.mkdir()
        (folder / "graph.toml").write_text(GRAPH_TOML)
        papers = {"id": self.names, "text": self.text, "field": self.field, "split": self.split}
        tables = {"paper": papers, "forum": {"id": np.arange(GROUPS)}}
        tables["cites"] = {**self._ends(self.cites), "split": self.cite_split, "kind": self.kind}
        tables["reads"] = self._ends(self.reads)
        tables["posted"] = {"src_id": self.names, "dst_id": self.forum}
        for name, columns in tables.items():
            pq.write_table(pa.table(columns), folder / f"{name}.parquet")
        return str(folder)

    def _ends(self, pairs: np.ndarray) -> dict[str, np.ndarray]:
        return {"src_id": self.names[pairs[:, 0]], "dst_id": self.names[pairs[:, 1]]}


def _plan(graph: str, task: TaskPlan, *, relations: tuple[str, ...] = (), keep: bool = False) -> TrainPlan:
    return TrainPlan(
        name="test",
        graph=GraphPlan(graph, relations=relations),
        tasks={"asked": task},
        stages=(StagePlan("one", "gnn_warm", task="asked"),),
        partition=PartitionPlan(keep_eval_edges=keep),
    )


def _found(papers: Papers, folder: Path, task: TaskPlan, **options: object) -> dict[str, object]:
    """Kind -> leak."""
    plan = _plan(papers.write(folder / "graph"), task, **options)  # type: ignore[arg-type]
    return {leak.kind: leak for leak in find_leaks(load_graph_tables(plan), plan)}


@pytest.mark.parametrize("task", [LINKS, KINDS, FIELDS], ids=["links", "edge classes", "node classes"])
def test_a_clean_graph_gives_nothing(tmp_path: Path, task: TaskPlan) -> None:
    assert _found(Papers(), tmp_path, task) == {}


@pytest.mark.parametrize("turned", [False, True])
def test_an_answer_that_another_edge_of_its_relation_joins_is_found(tmp_path: Path, turned: bool) -> None:
    papers = Papers()
    test = np.flatnonzero(papers.cite_split == "test")[:100]
    again = papers.cites[test][:, ::-1] if turned else papers.cites[test]
    papers.cites = np.concatenate([papers.cites, again])
    papers.cite_split = np.concatenate([papers.cite_split, ["message"] * 100])
    papers.kind = np.concatenate([papers.kind, papers.kind[test]])
    leak = _found(papers, tmp_path, LINKS)["joined_by_same_relation"]
    assert (leak.level, leak.count, leak.share) == ("warning", 100, 0.1)
    source, destination = papers.names[papers.cites[test[0]]]
    assert leak.examples[0] == f"{source} -> {destination} (test)"
    assert len(leak.examples) == 3


def test_a_pair_in_several_splits_is_found_where_edges_have_classes(tmp_path: Path) -> None:
    papers = Papers()
    papers.cites[papers.cite_split == "valid"] = papers.cites[papers.cite_split == "train"]
    leak = _found(papers, tmp_path, KINDS)["joined_by_same_relation"]
    assert (leak.level, leak.count) == ("warning", 500)
    assert "several splits" in leak.message


@pytest.mark.parametrize(("share", "level"), [(0.1, "note"), (0.3, "note"), (0.6, "warning")])
def test_another_relation_that_joins_the_answers_is_weighed(tmp_path: Path, share: float, level: str) -> None:
    papers = Papers()
    asked = np.flatnonzero(papers.cite_split != "train")
    given = papers.cites[asked[: int(share * len(asked))]]
    papers.reads = np.concatenate([papers.reads, given[:, ::-1]])
    leak = _found(papers, tmp_path, LINKS)["joined_by_other_relation"]
    assert leak.level == level
    assert leak.share == pytest.approx(share)
    assert leak.count == len(given)


def test_a_relation_made_of_answers_is_a_warning_from_a_fifth_of_them_on(tmp_path: Path) -> None:
    papers = Papers()
    asked = np.flatnonzero(papers.cite_split != "train")
    papers.reads = papers.cites[asked[:300]]
    assert _found(papers, tmp_path, LINKS)["joined_by_other_relation"].level == "warning"


def test_relations_that_are_not_loaded_are_not_looked_at(tmp_path: Path) -> None:
    papers = Papers()
    papers.reads = papers.cites
    assert _found(papers, tmp_path, LINKS, relations=("cites", "posted")) == {}


def test_held_out_edges_that_carry_messages_are_a_warning(tmp_path: Path) -> None:
    leak = _found(Papers(), tmp_path, LINKS, keep=True)["held_out_edges_kept"]
    assert (leak.level, leak.share, leak.count) == ("warning", 1.0, 1000)


def test_a_relation_that_tells_the_class_of_a_pair_is_found(tmp_path: Path) -> None:
    papers = Papers()
    papers.reads = np.concatenate([papers.reads, papers.cites[papers.kind == "extends"]])
    leak = _found(papers, tmp_path, KINDS)["class_by_relation"]
    assert leak.level == "warning"
    assert "'reads'" in leak.message
    assert leak.count == ((papers.kind == "extends") & (papers.cite_split == "valid")).sum()


def test_a_neighbour_that_tells_the_class_is_found(tmp_path: Path) -> None:
    papers = Papers()
    papers.forum = np.array([CLASSES.index(f) for f in papers.field]) + 3 * (np.arange(PAPERS) % 10)
    leak = _found(papers, tmp_path, FIELDS)["class_by_neighbour"]
    assert (leak.level, leak.count, leak.share) == ("warning", 200, 1.0)
    assert "'posted'" in leak.message


def test_a_neighbour_that_tells_the_class_often_is_no_leak(tmp_path: Path) -> None:
    papers = Papers()
    papers.forum = np.array([CLASSES.index(f) for f in papers.field])
    papers.forum[::10] = 0
    assert _found(papers, tmp_path, FIELDS) == {}


@pytest.mark.parametrize(("copies", "level"), [(10, "note"), (40, "warning")])
def test_texts_of_training_in_evaluation_are_found(tmp_path: Path, copies: int, level: str) -> None:
    papers = Papers()
    for row in range(2, 3 * copies, 3):
        papers.text[row] = f"  {papers.text[row - 2]} \n".replace(" ", "  ")
    leak = _found(papers, tmp_path, FIELDS)["repeated_texts"]
    assert (leak.level, leak.count) == (level, copies)
    assert leak.examples[0] == "p2 (test) = p0 (train)"


def test_short_and_empty_texts_are_no_repetition(tmp_path: Path) -> None:
    papers = Papers()
    papers.text = ["", "a short one"] * (PAPERS // 2)
    assert _found(papers, tmp_path, FIELDS) == {}
    assert _found(papers, tmp_path / "graph", LINKS) == {}


def test_pairs_of_equal_texts_are_found(tmp_path: Path) -> None:
    papers = Papers()
    (a, b), (c, d) = papers.cites[0], papers.cites[1]
    papers.text[c], papers.text[d] = papers.text[a], papers.text[b]
    leak = _found(papers, tmp_path, LINKS)["repeated_texts"]
    assert (leak.level, leak.count) == ("note", 1)
    assert leak.examples == (f"p{c} -> p{d} (valid) = p{a} -> p{b} (train)",)


@pytest.mark.parametrize(("every", "level"), [(2, "warning"), (8, "note")])
def test_texts_that_name_their_class_are_found(tmp_path: Path, every: int, level: str) -> None:
    papers = Papers()
    named = [row for row in range(PAPERS) if row // 3 % every == 0]
    for row in named:
        papers.text[row] += f" ({papers.field[row].capitalize()}) "
    leak = _found(papers, tmp_path, FIELDS)["class_in_text"]
    assert (leak.level, leak.count) == (level, sum(papers.split[row] == "valid" for row in named))


def test_a_class_inside_a_longer_word_is_not_named(tmp_path: Path) -> None:
    papers = Papers()
    papers.text = [f"{text} micro{field}" for text, field in zip(papers.text, papers.field, strict=True)]
    assert _found(papers, tmp_path, FIELDS) == {}


def test_names_that_mislead_are_no_warning(tmp_path: Path) -> None:
    papers = Papers()
    shifted = np.where(np.arange(PAPERS) // 3 % 2, np.roll(papers.field, 1), papers.field)
    papers.text = [f"{text} {field}" for text, field in zip(papers.text, shifted, strict=True)]
    assert _found(papers, tmp_path, FIELDS)["class_in_text"].level == "note"


def test_a_task_over_a_relation_that_is_not_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'cites' is not loaded"):
        _found(Papers(), tmp_path, LINKS, relations=("reads",))


def test_the_command_writes_and_tells_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    papers = Papers()
    papers.text = [f"{text} {field}" for text, field in zip(papers.text, papers.field, strict=True)]
    graph = papers.write(tmp_path / "graph")
    plan = _plan(graph, FIELDS)
    (tmp_path / "plan.json").write_text(plan.to_json())
    built = build(graph, BuildOptions(), store=str(tmp_path / "store"), say=lambda _: None)
    output = tmp_path / "leaks.json"
    arguments = ["--plan", str(tmp_path / "plan.json"), "--partition", str(built), "--output", str(output)]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "warning: asked: 100.0% of the validation targets name their class" in told
    assert "p1 (valid)" in told
    assert "1 warning(s), 0 note(s)" in told
    found = json.loads(output.read_text())
    assert [(leak["kind"], leak["level"], leak["count"]) for leak in found] == [
        ("class_in_text", "warning", 200)
    ]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found


def test_a_plan_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such plan"):
        main(["--plan", str(tmp_path / "x.json"), "--partition", str(tmp_path), "--output", "x"])
