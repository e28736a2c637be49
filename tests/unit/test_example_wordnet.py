"""examples/wordnet: synsets, relations and splits of a few made-up lines in WordNet's format."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq
import pytest

from partition.schema import parse_schema

SCRIPT = Path(__file__).parents[2] / "examples" / "wordnet" / "build.py"

DATA = {
    "noun": """\
  1 This is the licence.
00000010 03 n 01 thing 0 002 ~ 00000020 n 0000 + 00000050 v 0101 | whatever there is
00000020 05 n 02 house_cat 0 tabby 1 003 @ 00000010 n 0000 #m 00000030 n 0000 ! 00000030 n 0101 | a "c | t"
00000030 14 n 0a a 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0 j 0 002 %m 00000020 n 0000 ! 00000020 n 0101 | ten lemmas
""",
    "verb": "00000050 29 v 01 be 0 002 + 00000010 n 0101 @ 00000050 v 0000 01 + 02 00 | exist\n",
    "adj": "00000060 00 s 01 galore(ip) 0 001 & 00000070 a 0000 | in plenty\n"
    "00000070 00 a 01 many 0 001 & 00000060 a 0000 | a lot\n",
    "adv": "00000080 02 r 01 much 0 001 \\ 00000070 a 0101 | greatly\n",
}


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("wordnet_build", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


builder = _load()


def _write(folder: Path) -> Path:
    folder.mkdir()
    for part, lines in DATA.items():
        (folder / f"data.{part}").write_text(lines)
    return folder


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("wordnet")
    assert builder.main([str(root / "graph"), "--dict", str(_write(root / "dict"))]) == 0
    return root / "graph"


def _edges(graph: Path, relation: str) -> list[tuple[str, str]]:
    table = pq.read_table(graph / "edges" / f"{relation}.parquet")
    return list(zip(table["src_id"].to_pylist(), table["dst_id"].to_pylist(), strict=True))


def test_a_text_is_the_lemmas_and_the_gloss(graph: Path) -> None:
    table = pq.read_table(graph / "nodes" / "synset.parquet")
    texts = dict(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))
    assert texts["n00000020"] == 'house cat, tabby: a "c | t"'
    assert texts["n00000030"] == "a, b, c, d, e, f, g, h, i, j: ten lemmas"  # their number is hexadecimal
    assert texts["a00000060"] == "galore: in plenty"


def test_the_label_is_the_lexicographer_file(graph: Path) -> None:
    labels = pq.read_table(graph / "nodes" / "synset.parquet")["label"].to_pylist()
    assert labels == [
        *("noun.Tops", "noun.animal", "noun.group"),
        *("verb.body", "adj.all", "adj.all", "adv.all"),
    ]


def test_of_two_inverse_pointers_one_direction_is_stored(graph: Path) -> None:
    assert _edges(graph, "hypernym") == [("n00000020", "n00000010")]  # a loop is none
    assert _edges(graph, "member_holonym") == [("n00000020", "n00000030")]


@pytest.mark.parametrize(
    ("relation", "pair"),
    [
        ("antonym", ("n00000020", "n00000030")),
        ("derivation", ("n00000010", "v00000050")),
        ("similar_to", ("a00000060", "a00000070")),
    ],
)
def test_a_symmetric_pointer_is_stored_once(graph: Path, relation: str, pair: tuple[str, str]) -> None:
    assert _edges(graph, relation) == [pair]


def test_a_pointer_to_another_part_of_speech_finds_it(graph: Path) -> None:
    assert _edges(graph, "pertainym") == [("r00000080", "a00000070")]


def test_graph_toml_names_every_table_and_column(graph: Path) -> None:
    schema = parse_schema((graph / "graph.toml").read_text(), where="graph.toml")
    assert len(schema.edges) == 18
    for table in (*schema.nodes, *schema.edges):
        assert sorted(pq.read_schema(graph / table.path[0]).names) == sorted(table.columns)


def test_a_line_that_is_no_synset_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _write(tmp_path / "dict")
    (folder / "data.verb").write_text("00000050 29 v 01 be 0\n")
    assert builder.main([str(tmp_path / "graph"), "--dict", str(folder)]) == 3
    assert "data.verb, line 1: no synset" in capsys.readouterr().err
    assert not (tmp_path / "graph").exists()


def test_missing_files_say_which_package_has_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert builder.main([str(tmp_path / "graph"), "--dict", str(tmp_path)]) == 3
    assert "wordnet-base" in capsys.readouterr().err


def test_a_folder_that_holds_something_is_not_touched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    assert builder.main([str(tmp_path), "--dict", str(tmp_path)]) == 3
    assert "is there already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
