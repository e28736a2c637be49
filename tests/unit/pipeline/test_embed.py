"""Vectors of texts against transformers itself, from the language model that a run leaves behind."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from toy import plan_of, write_lm
from transformers import AutoModel, AutoTokenizer

from partition.guess_files import survey
from partition.storage import InputFolder
from pipeline.__main__ import main
from pipeline.use import embed, exported

MAX_LENGTH, WIDTH = 12, 4


def write_run(folder: Path, *, pooling: str = "mean", names: tuple[str, ...] = ("shared",)) -> Path:
    """A finished run with one task, language models and four exported authors."""
    plan = plan_of(Path("graph"), Path("elsewhere"), model={"pooling": pooling, "max_length": MAX_LENGTH})
    export = folder / "export" / "cites"
    (export / "embeddings" / "author").mkdir(parents=True)
    for name in names:
        write_lm(export / "lm" / name)
    (folder / "plan.json").write_text(plan.to_json())
    (folder / "metrics.json").write_text('{"tasks": {"cites": {"test": 0.5}}}')
    told = {"plan": asdict(plan.tasks["cites"]), "width": WIDTH, "classes": [], "ends": {}, "columns": {}}
    (export / "task.json").write_text(json.dumps(told))
    for part in range(2):
        values = pa.FixedSizeListArray.from_arrays(pa.array([float(part)] * 2 * WIDTH, pa.float32()), WIDTH)
        authors = pa.table({"id": [str(2 * part), str(2 * part + 1)], "embedding": values})
        pq.write_table(authors, export / "embeddings" / "author" / f"part-{part}.parquet")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


def reference(folder: Path, text: str, pooling: str) -> torch.Tensor:
    """The vector of one text, nothing padded."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        tokens = tokenizer(text, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")["input_ids"]
        states = model(input_ids=tokens).last_hidden_state[0]
    return states[0] if pooling == "cls" else states.mean(0)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_nodes_own_text_gets_the_pooled_states_of_the_exported_model(tmp_path, toy, pooling):
    run = write_run(tmp_path / "run", pooling=pooling)
    papers, out = str(toy[0] / "paper.parquet"), tmp_path / "out.parquet"
    arguments = ["--texts", papers, "--column", "text", "--id", "id", "--output", str(out)]
    assert main(["embed", str(run), *arguments]) == 0
    given, found = pq.read_table(papers), pq.read_table(out)
    assert found["id"].to_pylist() == given["id"].to_pylist()
    for row in range(0, 240, 24):
        expected = reference(run / "export/cites/lm/shared", given["text"][row].as_py(), pooling)
        assert found["embedding"][row].as_py() == pytest.approx(expected.tolist(), abs=1e-5)


def test_empty_and_long_texts_are_treated_as_in_training(run, tmp_path):
    texts = ["", "common1 " * 30, "nothing that the tokenizer knows"]
    pq.write_table(pa.table({"t": texts}), tmp_path / "t.parquet")
    arguments = [
        "--texts",
        str(tmp_path / "t.parquet"),
        "--column",
        "t",
        "--output",
        str(tmp_path / "o.parquet"),
    ]
    assert main(["embed", str(run), *arguments]) == 0
    found = pq.read_table(tmp_path / "o.parquet").to_pydict()
    assert found["id"] == ["0", "1", "2"]
    for text, vector in zip(texts, found["embedding"], strict=True):
        expected = reference(run / "export/cites/lm/shared", text, "mean")
        assert vector == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_table_read_in_pieces_gives_the_same_vectors(run, toy, tmp_path, monkeypatch):
    texts = pq.read_table(toy[0] / "paper.parquet").select(["text"])
    pyarrow.csv.write_csv(texts, tmp_path / "t.csv")
    outputs = [tmp_path / "whole.parquet", tmp_path / "pieces.parquet"]
    for output in outputs:
        arguments = ["--texts", str(tmp_path / "t.csv"), "--column", "text", "--output", str(output)]
        assert main(["embed", str(run), *arguments]) == 0
        monkeypatch.setattr(embed, "_TEXTS", 7)
        monkeypatch.setattr(exported, "_ROWS", 50)
    whole, pieces = (pq.read_table(output) for output in outputs)
    assert pieces["id"].to_pylist() == whole["id"].to_pylist() == [str(i) for i in range(240)]
    flat = [torch.tensor(table["embedding"].to_pylist()) for table in (whole, pieces)]
    torch.testing.assert_close(*flat, atol=1e-5, rtol=0)


def test_a_bad_row_late_in_a_table_is_named_and_leaves_no_file(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(exported, "_ROWS", 2)
    (tmp_path / "t.csv").write_text("title,key\na,1\nb,2\nc,3\nd,\n")
    arguments = ["--texts", str(tmp_path / "t.csv"), "--column", "title", "--id", "key"]
    assert main(["embed", str(run), *arguments, "--output", str(tmp_path / "out.parquet")]) == 3
    assert (
        "t.csv, row 3 (counting from 0), line 5, column 'key': the id is missing" in capsys.readouterr().err
    )
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_exported_nodes_of_all_parts_land_in_one_file(run, tmp_path):
    assert main(["embed", str(run), "--nodes", "author", "--output", str(tmp_path / "o.parquet")]) == 0
    found = pq.read_table(tmp_path / "o.parquet").to_pydict()
    assert found["id"] == ["0", "1", "2", "3"]
    assert found["embedding"] == [[0.0] * WIDTH] * 2 + [[1.0] * WIDTH] * 2


def test_init_passes_over_what_embed_writes(run, tmp_path):
    (tmp_path / "t.csv").write_text("key,title\n" + "".join(f"k{i},common{i}\n" for i in range(9)))
    out = str(tmp_path / "out.parquet")
    texts = ["--texts", str(tmp_path / "t.csv"), "--column", "title", "--id", "key"]
    for arguments in (["--nodes", "author"], texts):
        assert main(["embed", str(run), *arguments, "--output", out]) == 0
        found = survey(InputFolder(str(tmp_path)))
        assert [table.name for table in found.tables] == ["t"]
        assert found.skipped[0].startswith("out.parquet: not read")


def test_each_node_type_may_have_a_language_model_of_its_own(tmp_path, capsys):
    run = write_run(tmp_path / "run", names=("author", "paper"))
    (tmp_path / "t.csv").write_text("t\ncommon1\n")
    arguments = ["--texts", str(tmp_path / "t.csv"), "--column", "t", "--output", str(tmp_path / "o.parquet")]
    assert main(["embed", str(run), *arguments]) == 2
    assert "--type is one of author, paper" in capsys.readouterr().err
    assert main(["embed", str(run), *arguments, "--type", "paper"]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ("--texts FOLDER/t.csv --column titel", 3, "t.csv: no column 'titel'; did you mean 'title'"),
        (
            "--texts FOLDER/t.csv --column title --id key",
            3,
            "t.csv, row 1 (counting from 0), line 3, column 'key'",
        ),
        (
            "--texts FOLDER/n.parquet --column year",
            3,
            "n.parquet (--texts), column 'year': a text is a string",
        ),
        ("--texts FOLDER/gone.csv --column title", 3, "gone.csv: no such file"),
        ("--texts FOLDER/t.txt --column title", 3, "t.txt: tables end in .parquet or .csv"),
        ("--nodes venue", 2, "there are author"),
    ],
)
def test_a_wrong_question_is_one_line_with_its_exit_code(run, tmp_path, capsys, arguments, code, told):
    (tmp_path / "t.csv").write_text("title,key\na,1\nb,\n")
    pq.write_table(pa.table({"year": [2001]}), tmp_path / "n.parquet")
    words = arguments.replace("FOLDER", str(tmp_path)).split()
    assert main(["embed", str(run), *words, "--output", str(tmp_path / "out.parquet")]) == code
    complaint = capsys.readouterr().err
    assert told in complaint
    assert complaint.count("\n") == 1
    assert not (tmp_path / "out.parquet").exists()
