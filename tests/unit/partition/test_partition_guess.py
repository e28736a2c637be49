"""Tables of a folder -> graph.toml: what is taken for nodes, edges, texts, labels, splits, features."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from partition.errors import DataError, UsageError
from partition.guess import GraphGuess, TableGuess, guess_graph
from partition.guess_copies import old_copies
from partition.guess_files import survey
from partition.guess_split import draw_splits, parse_shares, plan_splits
from partition.guess_toml import graph_toml
from partition.schema import parse_schema
from partition.storage import InputFolder
from partition.tables import GraphTables, load_tables, table_files

SPLIT = ["train", "train", "train", "valid", "test"]


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)


def guessed(folder: Path) -> GraphGuess:
    return guess_graph(survey(InputFolder(str(folder))), "g")


def table(guess: GraphGuess, name: str) -> TableGuess:
    return next(table for table in guess.tables if table.name == name)


def loaded(guess: GraphGuess, folder: Path) -> GraphTables:
    """What a build reads from the guessed file."""
    schema = parse_schema(graph_toml(guess), where="graph.toml")
    return load_tables(schema, table_files(schema, InputFolder(str(folder))))


def split(folder: Path, text: str, shares: str = "80,10,10") -> GraphTables:
    """What a build reads from a graph.toml after its tables were given a split."""
    inputs = InputFolder(str(folder))
    splits = plan_splits(text, inputs, parse_shares(shares), where="graph.toml")
    splits.write(inputs)
    schema = parse_schema(splits.text, where="graph.toml")
    return load_tables(schema, table_files(schema, inputs))


def write_papers(folder: Path, *, count: int = 60) -> None:
    rows = [
        (f"p{i}", f"a paper on graphs and number {i}", "abc"[i % 3], SPLIT[i % 5], i / count)
        for i in range(count)
    ]
    write_csv(folder / "papers.csv", ["Paper ID", "Abstract", "label", "set", "score"], rows)
    cites = [(f"p{i}", f"p{(i * 7 + 1) % count}") for i in range(count)]
    write_csv(folder / "cites.csv", ["from", "to"], cites)


def test_a_table_of_papers_and_one_of_citations_are_read_as_they_are_meant(tmp_path: Path) -> None:
    write_papers(tmp_path)
    guess = guessed(tmp_path)
    papers = table(guess, "papers")
    found = {key: papers.value(key) for key in ("id", "text", "label", "split")}
    assert found == {"id": "Paper ID", "text": "Abstract", "label": "label", "split": "set"}
    tables = loaded(guess, tmp_path)
    assert Counter(tables.nodes["papers"].splits) == {0: 36, 1: 12, 2: 12}
    assert tables.nodes["papers"].features.shape == (60, 1)
    assert len(tables.edges["cites"].source) == 60


def test_parts_with_one_header_are_one_table_named_after_their_folder(tmp_path: Path) -> None:
    for part in range(3):
        ids = range(part * 10, part * 10 + 10)
        pq.write_table(
            pa.table({"id": list(ids), "parent_node_id": [i // 2 for i in ids]}),
            _parent(tmp_path / "node" / f"part-{part:05d}.parquet"),
        )
    guess = guessed(tmp_path)
    assert table(guess, "node").table.paths == ("node/*.parquet",)
    tables = loaded(guess, tmp_path)
    assert len(tables.nodes["node"].ids) == 30
    assert tables.edges["node_parent_node"].destination.tolist() == [i // 2 for i in range(30)]


def test_a_numbered_family_beside_other_files_gets_a_glob_of_its_own(tmp_path: Path) -> None:
    write_papers(tmp_path)
    for year in (2019, 2020):
        write_csv(tmp_path / f"author-{year}.csv", ["id"], [(f"{year}x{i}",) for i in range(5)])
    assert table(guessed(tmp_path), "author").table.paths == ("author-*.csv",)


def test_file_names_tell_small_integer_ids_apart(tmp_path: Path) -> None:
    for name in ("author", "paper"):
        write_csv(tmp_path / f"{name}.csv", ["id"], [(i,) for i in range(20)])
    pairs = [(i, (i * 3) % 20) for i in range(20)] * 2
    write_csv(tmp_path / "author__writes__paper.csv", ["src_id", "dst_id"], pairs)
    write_csv(tmp_path / "unclear.csv", ["src_id", "dst_id"], pairs)
    guess = guessed(tmp_path)
    writes = table(guess, "writes")
    assert writes.sure
    assert (writes.value("source"), writes.value("destination")) == ("author", "paper")
    assert not table(guess, "unclear").sure
    assert "say which one is meant" in graph_toml(guess)


def test_a_dangling_column_leaves_the_table_commented_out_with_its_number(tmp_path: Path) -> None:
    write_papers(tmp_path)
    rows = [("p1", "p2"), ("p3", "p999"), ("p3", "p999"), ("p4", "p5")]
    write_csv(tmp_path / "lost.csv", ["src", "dst"], rows)
    text = graph_toml(guessed(tmp_path))
    assert "2 of 4 values (1 different) are no ids of papers, such as 'p999'" in text
    assert "# [edges.lost]" in text
    assert [edge.name for edge in parse_schema(text, where="graph.toml").edges] == ["cites"]


def test_a_table_of_edges_without_its_node_table_asks_for_one(tmp_path: Path) -> None:
    write_papers(tmp_path)
    write_csv(
        tmp_path / "written.csv", ["paper_id", "author"], [(f"p{i % 9}", f"a{i % 4}") for i in range(30)]
    )
    written = table(guessed(tmp_path), "written")
    assert not written.sure
    assert "no table has a node for any of its values" in written.notes[-1]


def test_a_foreign_key_of_a_node_table_is_a_relation(tmp_path: Path) -> None:
    write_csv(tmp_path / "venue.csv", ["id", "name"], [(i, f"Venue {i}") for i in range(4)])
    write_csv(tmp_path / "paper.csv", ["id", "venue_id"], [(i, i % 4) for i in range(40)])
    tables = loaded(guessed(tmp_path), tmp_path)
    assert tables.edges["paper_venue"].destination.tolist() == [i % 4 for i in range(40)]


def test_a_foreign_key_with_gaps_is_an_idea_only(tmp_path: Path) -> None:
    write_papers(tmp_path)
    write_csv(tmp_path / "venue.csv", ["id", "name"], [(i, f"Venue {i}") for i in range(4)])
    rows = [(i, i % 4 if i else None) for i in range(40)]
    columns = pa.table({"id": [i for i, _ in rows], "venue_id": [v for _, v in rows]})
    pq.write_table(columns, tmp_path / "talk.parquet")
    talk = table(guessed(tmp_path), "talk_venue")
    assert not talk.sure
    assert "1 of 40 cells are empty" in talk.notes[-1]


def test_features_with_gaps_or_large_numbers_are_ideas_only(tmp_path: Path) -> None:
    rows = [(i, 2000 + i, i / 50, "" if i == 3 else 0.5 + i / 99) for i in range(50)]
    write_csv(tmp_path / "thing.csv", ["id", "year", "size", "holey"], rows)
    found = [line for line in table(guessed(tmp_path), "thing").lines if line.key == "features"]
    assert {line.value: line.sure for line in found} == {
        ("size",): True,
        ("year",): False,
        ("holey",): False,
    }


def test_a_split_in_other_words_is_an_idea_that_says_which_words_are_wanted(tmp_path: Path) -> None:
    rows = [(i, "ab"[i % 2], ["Train", "Dev", "Test"][i % 3]) for i in range(60)]
    write_csv(tmp_path / "thing.csv", ["id", "label", "part"], rows)
    split = next(line for line in table(guessed(tmp_path), "thing").lines if line.key == "split")
    assert not split.sure
    assert "train, valid, test" in split.why


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("semi.csv", b"a;b\n1;2\n", "separated by semicolons"),
        ("tabs.csv", b"a\tb\n1\t2\n", "separated by tabs"),
        ("notes.tsv", b"a\tb\n", "not read"),
        ("empty.csv", b"", "not readable as a table"),
        ("latin.csv", "id,täxt\n1,ä\n".encode("latin-1"), "not readable as a table"),
        ("twice.csv", b"a,a\n1,2\n", "a name twice"),
        ("torn.parquet", b"PAR1 and no more", "not readable as a table"),
    ],
)
def test_files_that_are_no_tables_are_named_with_the_reason(
    tmp_path: Path, name: str, content: bytes, problem: str
) -> None:
    write_papers(tmp_path)
    (tmp_path / name).write_bytes(content)
    guess = guessed(tmp_path)
    assert any(name in sentence and problem in sentence for sentence in guess.left_out)
    assert table(guess, "cites").sure


@pytest.mark.parametrize(
    "header",
    [
        ["id", "predicted", "probability"],
        ["id", "rank", "predicted", "probability"],
        ["source", "destination", "predicted", "probability", "label", "split"],
        ["source", "rank", "destination", "relation", "score"],
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_answers_of_predict_in_the_folder_are_no_tables(
    tmp_path: Path, header: list[str], suffix: str
) -> None:
    write_papers(tmp_path)
    write_csv(tmp_path / "out.csv", header, [[f"p{i}"] * len(header) for i in range(60)])
    if suffix == "parquet":
        pq.write_table(pyarrow.csv.read_csv(tmp_path / "out.csv"), tmp_path / "out.parquet")
        (tmp_path / "out.csv").unlink()
    guess = guessed(tmp_path)
    assert [table.name for table in guess.tables] == ["papers", "cites"]
    (told,) = guess.left_out
    assert told.startswith(
        f"out.{suffix}: not read, since its columns are those of an answer of lmgnn predict"
    )


@pytest.mark.parametrize(("fixed", "taken"), [(3, False), (-1, True)])
def test_vectors_of_embed_in_the_folder_are_no_table_but_lists_of_any_length_are(
    tmp_path: Path, fixed: int, taken: bool
) -> None:
    write_papers(tmp_path)
    vectors = pa.array([[0.5, float(i), 1.0] for i in range(60)], pa.list_(pa.float32(), fixed))
    ids = pa.array([f"v{i}" for i in range(60)], pa.large_string())
    pq.write_table(pa.table({"id": ids, "embedding": vectors}), tmp_path / "new.parquet")
    guess = guessed(tmp_path)
    assert ("new" in [table.name for table in guess.tables]) is taken
    assert any("those of what lmgnn embed writes" in told for told in guess.left_out) is not taken


def test_names_that_toml_has_to_quote_come_back_as_they_were(tmp_path: Path) -> None:
    odd = 'the "id"\\ of\tit'
    write_csv(tmp_path / "a b.csv", [odd, "x"], [(f"n{i}", i % 2) for i in range(20)])
    write_csv(tmp_path / "links.csv", ["src", "dst"], [(f"n{i}", f"n{i}") for i in range(20)])
    guess = guess_graph(survey(InputFolder(str(tmp_path))), 'a "name"\n')
    schema = parse_schema(graph_toml(guess), where="graph.toml")
    assert (schema.name, schema.nodes[0].path) == ('a "name"\n', ("a b.csv",))
    assert table(guess, "a_b").value("id") in (odd, "")


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no readable table"):
        survey(InputFolder(str(tmp_path)))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_drawn_split_goes_into_a_copy_and_leaves_the_table_alone(tmp_path: Path, kind: str) -> None:
    labels = [["a", "b", None][i % 3] for i in range(300)]
    columns = pa.table({"id": [f"{i:03d}" for i in range(300)], "label": labels})
    file = tmp_path / f"thing.{kind}"
    if kind == "csv":
        pa.csv.write_csv(columns, file)
    else:
        pq.write_table(columns, file)
    write_csv(tmp_path / "link.csv", ["src", "dst"], [(f"{i:03d}", f"{i // 2:03d}") for i in range(300)])
    before = file.read_bytes()
    tables = split(tmp_path, graph_toml(guessed(tmp_path)), "50,25,25")
    things = tables.nodes["thing"]
    assert file.read_bytes() == before
    assert things.ids.to_pylist() == columns["id"].to_pylist()
    assert ((things.labels >= 0) == (things.splits >= 0)).all()
    counts = Counter(things.splits[things.labels >= 0].tolist())
    assert counts[0] / 200 == pytest.approx(0.5, abs=0.1)
    assert tables.edges["link"].splits is None


def test_without_labels_the_relation_gets_the_split_and_both_directions_share_it(tmp_path: Path) -> None:
    write_csv(tmp_path / "node.csv", ["id"], [(i,) for i in range(100)])
    pairs = [(i, (i * 7 + 3) % 100) for i in range(100)]
    write_csv(tmp_path / "link.csv", ["src", "dst"], [*pairs, *((b, a) for a, b in pairs)])
    splits = split(tmp_path, graph_toml(guessed(tmp_path)), "8,1,1").edges["link"].splits
    assert splits is not None
    assert (splits[:100] == splits[100:]).all()


def write_topics(folder: Path, *, cites_split: bool = False, **columns: Sequence[str]) -> None:
    """Papers with a column of four topics that nobody called a label, other columns, and citations."""
    rows = [
        (
            f"p{i}",
            f"a paper on graphs and number {i}",
            "wxyz"[i % 4],
            *(c[i % len(c)] for c in columns.values()),
        )
        for i in range(120)
    ]
    write_csv(folder / "papers.csv", ["id", "abstract", "topic", *columns], rows)
    cites = [(f"p{i}", f"p{(i * 7 + 1) % 120}", *([SPLIT[i % 5]] if cites_split else [])) for i in range(120)]
    write_csv(folder / "cites.csv", ["from", "to", *(["split"] if cites_split else [])], cites)


def test_a_split_switches_the_only_likely_label_on_and_keeps_the_link_task(tmp_path: Path) -> None:
    write_topics(tmp_path)
    text = graph_toml(guessed(tmp_path))
    assert '# label = "topic"' in text
    tables = split(tmp_path, text)
    assert tables.nodes["papers"].classes == tuple("wxyz")
    assert tables.nodes["papers"].splits is not None
    assert tables.edges["cites"].splits is not None


def test_of_two_likely_labels_none_is_taken(tmp_path: Path) -> None:
    write_topics(tmp_path, language=["en", "de"])
    tables = split(tmp_path, graph_toml(guessed(tmp_path)))
    assert tables.nodes["papers"].labels is None
    assert tables.edges["cites"].splits is not None


def test_where_some_tables_have_a_split_the_others_get_one_and_these_stay(tmp_path: Path) -> None:
    write_topics(tmp_path, cites_split=True)
    text = graph_toml(guessed(tmp_path))
    tables = split(tmp_path, text)
    assert tables.nodes["papers"].splits is not None
    assert tables.edges["cites"].schema.path == ("cites.csv",)
    assert Counter(tables.edges["cites"].splits) == {0: 72, 1: 24, 2: 24}
    inputs, shares = InputFolder(str(tmp_path)), parse_shares("80,10,10")
    edited = plan_splits(text, inputs, shares, where="graph.toml").text
    with pytest.raises(UsageError, match="no table needs one"):
        plan_splits(edited, inputs, shares, where="graph.toml")


def test_a_second_split_finds_nothing_to_do_where_some_relation_has_none(tmp_path: Path) -> None:
    write_topics(tmp_path)
    write_csv(tmp_path / "likes.csv", ["from", "to"], [(f"p{i}", f"p{i // 2}") for i in range(60)])
    inputs, shares = InputFolder(str(tmp_path)), parse_shares("80,10,10")
    first = plan_splits(graph_toml(guessed(tmp_path)), inputs, shares, where="graph.toml")
    first.write(inputs)
    assert [table.name for table in first.drawn] == ["cites", "papers"]
    with pytest.raises(UsageError, match="no table needs one"):
        plan_splits(first.text, inputs, shares, where="graph.toml")


def test_only_copies_whose_tables_have_changed_are_made_again_and_old_rows_stay_where_they_were(
    tmp_path: Path,
) -> None:
    write_topics(tmp_path)
    inputs, shares = InputFolder(str(tmp_path)), parse_shares("80,10,10")
    first = plan_splits(graph_toml(guessed(tmp_path)), inputs, shares, where="graph.toml")
    first.write(inputs)
    before = pyarrow.csv.read_csv(tmp_path / "with_split" / "papers.csv")
    with (tmp_path / "papers.csv").open("a") as stream:
        stream.write("new,a paper on graphs and one more,w\n")
    second = plan_splits(first.text, inputs, shares, where="graph.toml")
    assert [(table.name, table.again) for table in second.drawn] == [("papers", True)]
    second.write(inputs)
    after = pyarrow.csv.read_csv(tmp_path / "with_split" / "papers.csv")
    assert after.slice(0, 120) == before
    assert after["id"][120].as_py() == "new"
    schema = parse_schema(second.text, where="graph.toml")
    assert list(old_copies(schema, inputs)) == []


def test_a_split_that_was_taken_out_is_drawn_anew_from_the_table_itself(tmp_path: Path) -> None:
    write_topics(tmp_path)
    inputs = InputFolder(str(tmp_path))
    first = plan_splits(graph_toml(guessed(tmp_path)), inputs, parse_shares("80,10,10"), where="graph.toml")
    first.write(inputs)
    lines = first.text.splitlines(keepends=True)
    at = next(n for n, line in enumerate(lines) if line.startswith("split = ") and "hash of the id" in line)
    tables = split(tmp_path, "".join(lines[:at] + lines[at + 1 :]), "10,10,80")
    counts = Counter(tables.nodes["papers"].splits.tolist())
    assert counts[2] > counts[0]
    header = pyarrow.csv.read_csv(tmp_path / "with_split" / "papers.csv").column_names
    assert header == ["id", "abstract", "topic", "split"]


def without_a_split_folder(folder: Path) -> str:
    """graph.toml after `with_split/` was removed by hand."""
    write_topics(folder)
    inputs = InputFolder(str(folder))
    splits = plan_splits(graph_toml(guessed(folder)), inputs, parse_shares("80,10,10"), where="graph.toml")
    splits.write(inputs)
    shutil.rmtree(folder / "with_split")
    return splits.text


def test_copies_that_nobody_knows_the_tables_of_are_an_error_with_the_way_out(tmp_path: Path) -> None:
    text = without_a_split_folder(tmp_path)
    with pytest.raises(DataError, match=r"with_split/papers\.csv: no such file") as refused:
        plan_splits(text, InputFolder(str(tmp_path)), parse_shares("80,10,10"), where="graph.toml")
    assert "remove graph.toml too" in refused.value.hint
    assert not (tmp_path / "with_split").exists()


def test_a_graph_toml_of_the_users_own_keeps_all_but_what_the_split_changes(tmp_path: Path) -> None:
    write_topics(tmp_path)
    mine = """name = "mine"
# my papers
[nodes.work]
path = [  # one
  "papers.csv",
]
text = "abstract"
label = "topic"  # chosen by me

[edges.points_to]
path = "cites.csv"
source = "work"
destination = "work"
source_id = "from"
destination_id = "to"
"""
    inputs = InputFolder(str(tmp_path))
    splits = plan_splits(mine, inputs, parse_shares("80,10,10"), where="graph.toml")
    edited = splits.text
    assert [(table.name, table.path) for table in splits.drawn] == [("work", "with_split/work.csv")]
    assert '# my papers\n[nodes.work]\npath = "with_split/work.csv"' in edited
    assert 'label = "topic"  # chosen by me\nsplit = "split"' in edited
    assert edited.endswith(mine[mine.index("\n[edges.points_to]") :])


def test_a_table_that_cannot_be_changed_by_lines_is_refused_with_what_to_write(tmp_path: Path) -> None:
    write_topics(tmp_path)
    text = (
        'nodes.papers = { path = "papers.csv", text = "abstract", label = "topic" }\n[edges.cites]\n'
        'path = "cites.csv"\nsource = "papers"\ndestination = "papers"\nsource_id = "from"\n'
        'destination_id = "to"\n'
    )
    with pytest.raises(UsageError, match="cannot be changed from here") as refused:
        split(tmp_path, text)
    assert 'split = "split"' in refused.value.hint
    assert not (tmp_path / "with_split").exists()


def test_a_row_keeps_its_split_when_others_come() -> None:
    shares = parse_shares("80,10,10")
    first = draw_splits([str(i) for i in range(100)], shares)
    assert (draw_splits([str(i) for i in range(200)], shares)[:100] == first).all()


@pytest.mark.parametrize("text", ["80,20", "a,b,c", "80,0,20", "1,1,inf", ""])
def test_shares_that_are_no_three_numbers_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="three numbers"):
        parse_shares(text)


def _parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
