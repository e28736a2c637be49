"""examples/debian: relations, masks, labels and splits of a tiny archive in apt's own files."""

from __future__ import annotations

import gzip
import importlib.util
import lzma
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from partition.schema import parse_schema

SCRIPT = Path(__file__).parents[2] / "examples" / "debian" / "build.py"
PREFIX = "deb.debian.org_debian_dists_bookworm_main_"

PACKAGES = """\
Package: alpha
Version: 1
Maintainer: Ann <Ann@Example.org>
Section: utils
Pre-Depends: libalpha-core (>= 1), alpha
Depends: nothing | beta:any (>= 2) | gamma,
 mail-agent
Suggests: gamma
Conflicts: mail-agent, beta
Description: alpha tool
Description-md5: a1
Tag: use::viewing, role::program

Package: libalpha-core
Source: alpha (1.0)
Maintainer: Ann <ann@example.org>
Section: non-free/libs
Description: short only
Description-md5: gone

Package: beta
Maintainer: Bob <bob@example.org>
Section: utils
Recommends: alpha, two
Provides: mail-agent (= 1), two
Enhances: gamma
Description: b
Description-md5: b1

Package: gamma
Maintainer: Bob <bob@example.org>
Section: net
Provides: two
Description: c
Description-md5: c1
"""
TRANSLATION = """\
Package: alpha
Description-md5: a1
Description-en: alpha tool
 The Alpha tool
 needs libalpha-core, not alphabet.
 .
  * write to me@example.org about /etc/alpha.conf

Package: beta
Description-md5: b1
Description-en: two

Package: gamma
Description-md5: c1
Description-en: three
"""
SOURCES = """\
Package: alpha
Build-Depends: beta <!nocheck>
Build-Depends-Arch: gamma [amd64]
Files:
 0123 1 alpha.dsc

Package: beta
Build-Depends-Indep: mail-agent

Package: alpha
Extra-Source-Only: yes
Build-Depends: libalpha-core

Package: unbuilt
Build-Depends: beta
"""
FILES = {
    "binary-amd64_Packages": PACKAGES,
    "i18n_Translation-en": TRANSLATION,
    "source_Sources": SOURCES,
}


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("debian_build", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


builder = _load()


def _lists(folder: Path) -> Path:
    folder.mkdir()
    for name, text in FILES.items():
        (folder / (PREFIX + name)).write_text(text)
    return folder


def _build(out: Path, lists: Path) -> int:
    return builder.main([str(out), "--lists", str(lists), "--suite", "bookworm"])


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("debian")
    assert _build(root / "graph", _lists(root / "lists")) == 0
    return root / "graph"


def _edges(graph: Path, relation: str) -> list[tuple[str | int, str]]:
    table = pq.read_table(graph / "edges" / f"{relation}.parquet")
    return list(zip(table["src_id"].to_pylist(), table["dst_id"].to_pylist(), strict=True))


def _column(graph: Path, table: str, name: str) -> list[str]:
    return pq.read_table(graph / f"{table}.parquet")[name].to_pylist()


@pytest.mark.parametrize(
    ("relation", "pairs"),
    [
        # the first alternative that is a package; mail-agent is beta, which alone provides it
        ("depends", [("alpha", "beta"), ("alpha", "libalpha-core")]),
        ("recommends", [("beta", "alpha")]),  # "two" has two providers
        ("suggests", [("alpha", "gamma")]),
        ("enhances", [("beta", "gamma")]),
        ("conflicts", [("alpha", "beta")]),  # with what provides a name: not meant here
        ("build_depends", [("alpha", "beta"), ("alpha", "gamma"), ("beta", "beta")]),
        ("maintains", [(0, "alpha"), (1, "beta"), (1, "gamma"), (0, "libalpha-core")]),
    ],
)
def test_fields_become_relations(graph: Path, relation: str, pairs: list[tuple[str | int, str]]) -> None:
    assert _edges(graph, relation) == pairs


def test_a_package_is_built_from_the_source_it_names(graph: Path) -> None:
    assert _edges(graph, "built_from") == [
        *(("alpha", "alpha"), ("beta", "beta"), ("gamma", "gamma"), ("libalpha-core", "alpha")),
    ]


def test_names_and_addresses_are_masked(graph: Path) -> None:
    assert _column(graph, "nodes/package", "text")[0] == (
        "[PKG] tool\nThe [PKG] tool needs [PKG], not alphabet.\n* write to [EMAIL] about /etc/alpha.conf"
    )


def test_a_package_without_a_translation_keeps_its_short_description(graph: Path) -> None:
    assert _column(graph, "nodes/package", "text")[3] == "short only"


def test_the_label_is_the_section_without_the_area(graph: Path) -> None:
    assert _column(graph, "nodes/package", "label") == ["utils", "utils", "net", "libs"]


def test_packages_of_one_source_share_their_split(graph: Path) -> None:
    splits = _column(graph, "nodes/package", "split")
    assert splits[0] == splits[3]


def test_pairs_of_one_source_carry_messages_only(graph: Path) -> None:
    splits = dict(zip(_edges(graph, "depends"), _column(graph, "edges/depends", "split"), strict=True))
    assert splits.pop(("alpha", "libalpha-core")) == "message"
    assert "message" not in splits.values()


def test_only_pairs_of_one_relation_are_asked_for_their_kind(graph: Path) -> None:
    kinds = dict(zip(_edges(graph, "relates_to"), _column(graph, "edges/relates_to", "label"), strict=True))
    assert kinds == {("beta", "alpha"): "recommends", ("alpha", "gamma"): "suggests"}


def test_tags_that_tell_the_section_or_are_rare_are_left_out() -> None:
    sections = ["net"] * 6 + ["utils"] * 4
    tags = ["even::tag"] * 10
    told = [{"Section": s, "Tag": f"{t}, {s}::only,\nnew::TODO"} for s, t in zip(sections, tags, strict=True)]
    told[0]["Tag"] += ", rare::tag"
    packages = {f"p{i}": {"Package": f"p{i}", **paragraph} for i, paragraph in enumerate(told)}
    lists = sys.modules["aptlists"].Lists(packages, {}, {})
    assert builder.useful_tags(lists) == [(f"p{i}", "even::tag") for i in range(10)]


def test_graph_toml_names_every_table_and_column(graph: Path) -> None:
    schema = parse_schema((graph / "graph.toml").read_text(), where="graph.toml")
    for table in (*schema.nodes, *schema.edges):
        assert sorted(pq.read_schema(graph / table.path[0]).names) == sorted(table.columns)


def _lz4(text: bytes) -> bytes:
    stream = pa.BufferOutputStream()
    with pa.CompressedOutputStream(stream, "lz4") as packed:
        packed.write(text)
    return stream.getvalue().to_pybytes()


@pytest.mark.parametrize(("ending", "pack"), [("lz4", _lz4), ("gz", gzip.compress), ("xz", lzma.compress)])
def test_packed_lists_give_the_same_graph(
    tmp_path: Path, graph: Path, ending: str, pack: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "lists").mkdir()
    for name, text in FILES.items():
        (tmp_path / "lists" / f"{PREFIX}{name}.{ending}").write_bytes(pack(text.encode()))
    assert _build(tmp_path / "graph", tmp_path / "lists") == 0
    for path in (p for p in graph.rglob("*") if p.is_file()):
        assert (tmp_path / "graph" / path.relative_to(graph)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("source_Sources", "deb-src http://deb.debian.org/debian bookworm main"),
        ("i18n_Translation-en", "apt-get update -o Acquire::Languages=en"),
        ("binary-amd64_Packages", "run apt-get update"),
    ],
)
def test_a_missing_list_says_how_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, advice: str
) -> None:
    (_lists(tmp_path / "lists") / (PREFIX + name)).unlink()
    assert _build(tmp_path / "graph", tmp_path / "lists") == 3
    assert advice in capsys.readouterr().err


def test_lists_of_two_architectures_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lists = _lists(tmp_path / "lists")
    (lists / f"{PREFIX}binary-i386_Packages").write_text(PACKAGES)
    assert _build(tmp_path / "graph", lists) == 3
    assert "binary-amd64_Packages and" in capsys.readouterr().err


def test_a_line_that_is_no_field_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lists = _lists(tmp_path / "lists")
    (lists / f"{PREFIX}source_Sources").write_text("Package: a\nwhat is this\n")
    assert _build(tmp_path / "graph", lists) == 3
    assert "source_Sources, line 2: expected `Field: value`" in capsys.readouterr().err
