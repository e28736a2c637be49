"""`lmgnn init`: files written, never overwritten, and plans that load and fit their graph."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from partition.errors import DataError, UsageError
from pipeline.config import load_plan
from pipeline.start import check, init
from pipeline.start.sizes import two_digits

WORDS = [
    "graph",
    "text",
    "model",
    "edge",
    "node",
    "learning",
    "query",
    "index",
    "vision",
    "robot",
    "agent",
    "logic",
]


def write_tables(folder: Path, *, split: bool = True, papers: int = 90) -> Path:
    """Papers with text and label, authors with nothing, two relations; splits if wanted."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["train", "train", "train", "valid", "test"]
    texts = [" ".join(WORDS[(i * k) % 12] for k in range(1, 9)) + f" {i}" for i in range(papers)]
    paper = {"id": list(range(papers)), "text": texts, "label": ["ab"[i % 2] for i in range(papers)]}
    cites = {"src_id": list(range(papers)), "dst_id": [(i * 7 + 1) % papers for i in range(papers)]}
    writes = {"author_id": [f"a{i % 9}" for i in range(papers)], "paper_id": list(range(papers))}
    writes["label"] = ["xy"[i % 2] for i in range(papers)]
    if split:
        for columns in (paper, cites, writes):
            columns["split"] = [words[i % 5] for i in range(papers)]
    pq.write_table(pa.table(paper), folder / "paper.parquet")
    pq.write_table(pa.table({"id": [f"a{i}" for i in range(9)]}), folder / "author.parquet")
    pq.write_table(pa.table(cites), folder / "cites.parquet")
    pq.write_table(pa.table(writes), folder / "writes.parquet")
    return folder


def test_every_label_and_split_becomes_a_task_with_its_stages(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "papers")
    assert init.main([str(folder)]) == 0
    plan = load_plan(folder / "plan.toml")
    kinds = {name: task.kind for name, task in plan.tasks.items()}
    assert kinds == {
        "paper_label": "node_classification",
        "cites": "link_prediction",
        "writes_label": "edge_classification",
    }
    assert [stage.kind for stage in plan.stages] == ["mlm", "graph_lm", *["gnn_warm", "joint"] * 3]
    assert [stage.start for stage in plan.stages if stage.kind == "gnn_warm"] == ["", "graph_lm", "graph_lm"]
    assert check.main([str(folder / "plan.toml")]) == 0


def test_many_relations_between_the_same_types_are_one_link_task(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "papers")
    words = ["train", "train", "train", "valid", "test"]
    names = ["extends", "refutes", "reviews"]
    for step, name in enumerate([*names, "retracts"], start=2):
        ends = {"src_id": list(range(90)), "dst_id": [(i * step + 5) % 90 for i in range(90)]}
        # Training rows alone are enough; a relation without any cannot be part of the task.
        split = {"reviews": ["train"] * 90, "retracts": ["valid"] * 90}.get(name) or [
            words[i % 5] for i in range(90)
        ]
        pq.write_table(pa.table({**ends, "split": split}), folder / f"{name}.parquet")
    assert init.main([str(folder)]) == 0
    plan = load_plan(folder / "plan.toml")
    assert set(plan.tasks) == {"paper_label", "writes_label", "links"}
    assert sorted(plan.tasks["links"].relations) == ["cites", *names]
    assert plan.tasks["links"].scorer == "distmult"
    assert check.main([str(folder / "plan.toml")]) == 0


def test_links_of_a_relation_with_labels_are_a_comment_that_makes_a_plan(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "papers")
    init.main([str(folder)])
    text = (folder / "plan.toml").read_text()
    start = text.index("# [tasks.writes]")
    ideas = (text[start : text.index("\n\n", start)], text[text.rindex("\n# [[stages]]") :])
    for idea in ideas:
        text = text.replace(idea, re.sub(r"(?m)^# ", "", idea))
    (folder / "plan.toml").write_text(text)
    plan = load_plan(folder / "plan.toml")
    assert (plan.tasks["writes"].kind, plan.tasks["writes"].relations) == ("link_prediction", ("writes",))
    assert (plan.stages[-1].task, plan.stages[-1].start) == ("writes", "graph_lm")
    assert check.main([str(folder / "plan.toml")]) == 0


def test_what_is_there_is_overwritten_with_force_only(tmp_path: Path) -> None:
    folder = write_tables(tmp_path)
    init.main([str(folder)])
    (folder / "graph.toml").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        init.main([str(folder)])
    assert (folder / "graph.toml").read_text() == "mine"
    assert init.main([str(folder), "--force"]) == 0
    assert "[nodes.paper]" in (folder / "graph.toml").read_text()


def test_a_graph_toml_of_the_users_own_gets_a_plan_and_stays_as_it_is(tmp_path: Path) -> None:
    folder = write_tables(tmp_path)
    init.main([str(folder)])
    (folder / "plan.toml").unlink()
    mine = (folder / "graph.toml").read_text().replace('name = "', 'name = "my ')
    (folder / "graph.toml").write_text(mine)
    assert init.main([str(folder)]) == 0
    assert (folder / "graph.toml").read_text() == mine
    assert load_plan(folder / "plan.toml").name.startswith("my ")


def test_without_a_split_there_is_no_plan_but_the_command_that_draws_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tables(tmp_path, split=False)
    assert init.main([str(folder)]) == 0
    assert not (folder / "plan.toml").exists()
    assert f"lmgnn init {folder} --split 80,10,10 " in capsys.readouterr().out
    assert init.main([str(folder), "--split", "60,20,20"]) == 0
    assert set(load_plan(folder / "plan.toml").tasks) == {"paper_label", "writes_label"}
    assert sorted(os.listdir(folder / "with_split")) == ["made_of.json", "paper.parquet", "writes.parquet"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_split_that_cannot_be_read_afterwards_leaves_every_file_as_it_was(tmp_path: Path) -> None:
    folder = write_tables(tmp_path, split=False)
    init.main([str(folder)])
    cites = pq.read_table(folder / "cites.parquet").slice(0, 5)
    pq.write_table(cites.set_column(1, "dst_id", [[999] * 5]), folder / "cites.parquet")
    before = contents(folder)
    with pytest.raises(DataError, match="999"):
        init.main([str(folder), "--split", "80,10,10"])
    assert contents(folder) == before


def test_a_second_split_changes_nothing_and_says_so(tmp_path: Path) -> None:
    folder = write_tables(tmp_path, split=False)
    init.main([str(folder), "--split", "80,10,10"])
    before = contents(folder)
    for more in ([], ["--force"]):
        with pytest.raises(UsageError, match="no table needs one, and nothing was changed"):
            init.main([str(folder), "--split", "80,10,10", *more])
    assert contents(folder) == before


@pytest.mark.parametrize("arguments", [["--split", "80,10,10"], []])
def test_a_split_folder_removed_by_hand_is_named_and_nothing_is_written(
    tmp_path: Path, arguments: list[str]
) -> None:
    folder = write_tables(tmp_path, split=False)
    init.main([str(folder), "--split", "80,10,10"])
    shutil.rmtree(folder / "with_split")
    (folder / "plan.toml").unlink()
    before = contents(folder)
    with pytest.raises(DataError, match=r"graph\.toml names this copy"):
        init.main([str(folder), *arguments])
    with pytest.raises(DataError, match=r"graph\.toml names this copy"):
        check.main([str(folder)])
    assert contents(folder) == before


def test_a_copy_that_is_old_is_told_by_check_and_made_again_beside_the_same_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tables(tmp_path, split=False)
    init.main([str(folder), "--split", "60,20,20"])
    plan = folder / "plan.toml"
    plan.write_text(plan.read_text() + "# mine\n")
    check.main([str(plan)])
    assert "has changed since" not in capsys.readouterr().out
    paper = pq.read_table(folder / "paper.parquet")
    texts = pa.array(["another text", *paper["text"].to_pylist()[1:]])
    pq.write_table(paper.set_column(1, "text", texts), folder / "paper.parquet")
    check.main([str(plan)])
    told = capsys.readouterr().out
    assert "[nodes.paper]: paper.parquet has changed since with_split/paper.parquet was made of it" in told
    assert "`lmgnn init FOLDER --split 60,20,20` makes the copy again" in told
    assert init.main([str(folder), "--split", "60,20,20"]) == 0
    assert "stays as it is: only copies" in capsys.readouterr().out
    assert plan.read_text().endswith("# mine\n")
    assert pq.read_table(folder / "with_split" / "paper.parquet")["text"][0].as_py() == "another text"
    check.main([str(plan)])
    assert "has changed since" not in capsys.readouterr().out


def test_a_plan_is_announced_only_where_one_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tables(tmp_path, split=False)
    init.main([str(folder)])
    capsys.readouterr()
    assert init.main([str(folder)]) == 0
    told = capsys.readouterr().out
    assert "graph.toml is there and stays as it is." in told
    assert "no plan yet" in told
    assert "a plan is made" not in told


def test_a_split_keeps_an_edited_graph_toml_also_with_force(tmp_path: Path) -> None:
    folder = write_tables(tmp_path, split=False)
    init.main([str(folder)])
    text = (folder / "graph.toml").read_text()
    (folder / "graph.toml").write_text(text.replace("[edges.writes]", "[edges.wrote]"))
    (folder / "plan.toml").write_text("old")
    with pytest.raises(UsageError, match=r"plan\.toml is there already"):
        init.main([str(folder), "--split", "80,10,10"])
    assert init.main([str(folder), "--split", "80,10,10", "--force"]) == 0
    assert set(load_plan(folder / "plan.toml").tasks) == {"paper_label", "wrote_label"}


def test_tables_without_a_clear_relation_end_in_a_data_error_after_the_ideas_are_written(
    tmp_path: Path,
) -> None:
    pq.write_table(pa.table({"id": [1, 2, 3]}), tmp_path / "node.parquet")
    pq.write_table(pa.table({"src": [1, 2, 9], "dst": [1, 2, 3]}), tmp_path / "link.parquet")
    with pytest.raises(DataError, match="no table of edges is clear enough"):
        init.main([str(tmp_path)])
    assert "# [edges.link]" in (tmp_path / "graph.toml").read_text()


def test_a_graph_without_text_trains_no_language_model(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": list(range(40))}), tmp_path / "node.parquet")
    ends = {"src": list(range(40)), "dst": [(i * 3) % 40 for i in range(40)]}
    split = [["train", "train", "valid", "test"][i % 4] for i in range(40)]
    pq.write_table(pa.table({**ends, "split": split}), tmp_path / "link.parquet")
    assert init.main([str(tmp_path)]) == 0
    plan = load_plan(tmp_path / "plan.toml")
    assert [stage.kind for stage in plan.stages] == ["gnn_warm"]


def test_a_url_keeps_its_graph_toml_and_the_plan_is_local(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tables(tmp_path / "remote")
    monkeypatch.chdir(tmp_path)
    url = f"file://{folder}"
    assert init.main([url]) == 0
    assert (folder / "graph.toml").exists()
    assert load_plan(tmp_path / "plan.toml").graph.path == url
    assert check.main([str(tmp_path / "plan.toml")]) == 0


@pytest.mark.parametrize("papers", [90, 3000])
def test_language_model_stages_stay_within_their_steps(tmp_path: Path, papers: int) -> None:
    folder = write_tables(tmp_path, papers=papers)
    init.main([str(folder)])
    plan = load_plan(folder / "plan.toml")
    for stage in plan.stages:
        if stage.kind != "gnn_warm":
            assert stage.epochs * 2 * papers / stage.batch_size <= 1500
    assert plan.model.max_length == 64


@pytest.mark.parametrize("papers", [90, 3000])
def test_a_link_task_asks_for_no_more_candidates_than_check_finds_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], papers: int
) -> None:
    folder = write_tables(tmp_path, papers=papers)
    init.main([str(folder)])
    assert load_plan(folder / "plan.toml").tasks["cites"].eval_negatives == min(100, papers // 10)
    check.main([str(folder / "plan.toml")])
    assert "lower eval_negatives" not in capsys.readouterr().out


def test_numbers_are_written_with_two_digits() -> None:
    assert [two_digits(value) for value in (0.12345, 3.0, 17.2)] == [0.12, 3.0, 17.0]
