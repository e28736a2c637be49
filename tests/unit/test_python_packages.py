"""examples/python_packages: exact edges of a small made-up package, masks, splits, and idempotence."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "python_packages" / "build.py"

SOURCES = {
    "shop/__init__.py": '''
        """A shop. See Till.add_item and `open_till`."""
        from .till import Till, open_till
    ''',
    "shop/base.py": '''
        """Foundations."""
        class Base:
            """Common ground."""
            def __init__(self, size):
                self.helper()
                check_size(size)
            def helper(self):
                """Help."""
            def shared(self):
                return self.helper()

        def check_size(size):
            """Complain about a bad size."""
            return check_size
    ''',
    "shop/till.py": '''
        """The till."""
        from __future__ import annotations
        import os
        import shop.base as ground
        from shop.base import Base, check_size as check
        from . import prices

        class Till(Base):
            """Takes money."""
            def add_item(self, item):
                """Adds an item; uses price_of and Price of, see open_till() and float."""
                check(1)
                self.shared()
                return prices.price_of(item) or os.getcwd()
            def shared(self):
                return super().shared()
            @property
            def total(self):
                return ground.Base.helper
            @total.setter
            def total(self, value):
                prices.round_up(value)
            @staticmethod
            def rate(self):
                return self.add_item

        def open_till(check):
            """Opens."""
            from shop.prices import price_of as cost
            check(2)
            cost(Till(3))

        def reopen_till():
            return open_till(None)
    ''',
    "shop/prices.py": '''
        from shop import *
        import shop
        def price_of(item):
            def inner(round_up):
                return round_up(item)
            return inner
        def round_up(value):
            """Rounds; price_of knows more."""
            return shop.Till, shop.till.open_till, shop.nothing, open_till
    ''',
    "shop/broken.py": "print 'old'",
    "shop/tests/test_till.py": "def test_nothing(): pass",
}

USES = {
    ("shop.base:Base", "shop.base:Base.helper"): "message",  # __init__ is code of its class
    ("shop.base:Base", "shop.base:check_size"): "",
    ("shop.base:Base.shared", "shop.base:Base.helper"): "message",
    ("shop.till:Till.add_item", "shop.base:check_size"): "",
    ("shop.till:Till.add_item", "shop.till:Till.shared"): "message",
    ("shop.till:Till.add_item", "shop.prices:price_of"): "",
    ("shop.till:Till.shared", "shop.base:Base.shared"): "message",  # the same name
    ("shop.till:Till.total", "shop.base:Base.helper"): "",
    ("shop.till:Till.total", "shop.prices:round_up"): "",
    ("shop.till:open_till", "shop.prices:price_of"): "",
    ("shop.till:open_till", "shop.till:Till"): "message",  # "open till" names it
    ("shop.till:reopen_till", "shop.till:open_till"): "",
    ("shop.prices:round_up", "shop.till:Till"): "",
    ("shop.prices:round_up", "shop.till:open_till"): "",
}


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("python_packages_build", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


builder = _load()
questions, wording, lexical = (sys.modules[n] for n in ("questions", "wording", "lexical"))  # imported by it


def _write(folder: Path, sources: dict[str, str]) -> Path:
    for name, text in sources.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = text.strip("\n").split("\n")
        indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
        path.write_text("\n".join(line[indent:] for line in lines).rstrip() + "\n")
    return folder


def _pairs(folder: Path, relation: str) -> list[tuple[str, str]]:
    table = pq.read_table(folder / "edges" / f"{relation}.parquet")
    return list(zip(table["src_id"].to_pylist(), table["dst_id"].to_pylist(), strict=True))


def _texts(folder: Path, node_type: str) -> dict[str, str]:
    table = pq.read_table(folder / "nodes" / f"{node_type}.parquet")
    return dict(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the graph of the made-up package."""
    root = tmp_path_factory.mktemp("shop")
    _write(root, SOURCES)
    builder.build({"shop": root / "shop"}, root / "graph")
    return root / "graph"


def test_exactly_the_confident_references_become_uses(shop: Path) -> None:
    assert sorted(_pairs(shop, "uses")) == sorted(USES)


def test_only_edges_worth_asking_are_targets(shop: Path) -> None:
    splits = pq.read_table(shop / "edges" / "uses.parquet")["split"].to_pylist()
    found = dict(zip(_pairs(shop, "uses"), splits, strict=True))
    assert {p for p, s in found.items() if s == "message"} == {p for p, s in USES.items() if s == "message"}
    assert set(found.values()) <= {"message", "train", "valid", "test"}


def test_a_base_class_is_inherited_and_not_used(shop: Path) -> None:
    assert _pairs(shop, "inherits") == [("shop.till:Till", "shop.base:Base")]
    assert ("shop.till:Till", "shop.base:Base") not in _pairs(shop, "uses")


def test_modules_and_symbols_are_joined(shop: Path) -> None:
    assert set(_pairs(shop, "imports")) == {
        ("shop", "shop.till"),
        ("shop.till", "shop.base"),
        ("shop.till", "shop.prices"),
        ("shop.prices", "shop"),
    }
    assert set(_pairs(shop, "defined_in")) == {
        (symbol, symbol.partition(":")[0]) for symbol in _texts(shop, "symbol")
    }


def test_tests_broken_files_and_dunder_methods_are_no_symbols(shop: Path) -> None:
    assert set(_texts(shop, "symbol")) == {
        *(f"shop.base:{n}" for n in ("Base", "Base.helper", "Base.shared", "check_size")),
        *(f"shop.till:Till{n}" for n in ("", ".add_item", ".shared", ".total", ".rate")),
        *(f"shop.till:{n}" for n in ("open_till", "reopen_till")),
        *(f"shop.prices:{n}" for n in ("price_of", "round_up")),
    }


def test_a_text_says_its_own_name_and_masks_the_names_of_others(shop: Path) -> None:
    assert _texts(shop, "symbol")["shop.till:Till.add_item"] == (
        "method till add item (item) Adds an item; uses [SYM] and [SYM], see [SYM]() and float."
    )


def test_module_texts_mask_names_as_well(shop: Path) -> None:
    assert _texts(shop, "module")["shop"] == "module [SYM]: A [SYM]. See [SYM] and `[SYM]`."


def test_a_class_shows_the_arguments_of_its_initialiser(shop: Path) -> None:
    assert _texts(shop, "symbol")["shop.base:Base"] == "class base (size) Common ground."


@pytest.mark.parametrize(
    ("text", "linked", "expected"),
    [
        ("uses open_file here", [], "uses [SYM] here"),
        ("the open file and Open-Files", ["open_file"], "the [SYM] and Open-Files"),
        ("Graph of a graph, GRAPHS", ["Graph"], "[SYM] of a [SYM], GRAPHS"),
        ("mode and remodel", ["mode"], "[SYM] and remodel"),
        ("plain mode stays", [], "plain mode stays"),
        ("call mode(x) or .mode or `mode`", [], "call [SYM](x) or .[SYM] or `[SYM]`"),
        ("open_file_mode", ["mode"], "open_file_[SYM]"),
        ("[SYM] sym", ["sym"], "[SYM]"),
    ],
)
def test_masking(text: str, linked: list[str], expected: str) -> None:
    assert wording.Masker(["open_file", "Graph", "mode"], ["shop", "net2"])(text, linked) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("shop.till and Shop, shopping", "[SYM].till and [SYM], shopping"),
        ("a net 2 error in Net2", "a [SYM] error in [SYM]"),
        ("workshop", "workshop"),
    ],
)
def test_names_of_packages_are_masked_however_they_are_joined(text: str, expected: str) -> None:
    masker = wording.Masker([], ["shop", "net2"])
    assert masker(text, []) == masker.words(text.split()) == expected


def test_short_names_of_packages_count_as_their_names(tmp_path: Path) -> None:
    _write(tmp_path, {"net2/__init__.py": "", "net2/a.py": '"""nt and net"""\nimport net2 as nt'})
    builder.build({"net2": tmp_path / "net2"}, tmp_path / "graph")
    assert _texts(tmp_path / "graph", "module")["net2.a"] == "module [SYM] a: [SYM] and [SYM]"


def test_no_docstring_is_cut_inside_a_name(tmp_path: Path) -> None:
    words = "x" * (wording.DOCSTRING_LETTERS - 4)
    _write(tmp_path, {"p/__init__.py": f'"""{words} open_file"""\ndef open_file(): pass'})
    builder.build({"p": tmp_path / "p"}, tmp_path / "graph")
    assert _texts(tmp_path / "graph", "module")["p"] == f"module [SYM]: {words}"


def test_a_name_is_found_in_another_however_it_is_cut() -> None:
    assert wording.contains(("make", "progressbar"), ("progress", "bar"))
    assert wording.contains(("progress", "bar", "maker"), ("progressbar",))
    assert not wording.contains(("progress", "bars"), ("progress", "bar"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("open_file", ("open", "file")),
        ("_openFile", ("open", "file")),
        ("HTTPServer2", ("http", "server", "2")),
        ("__", ()),
    ],
)
def test_names_fall_into_words(name: str, words: tuple[str, ...]) -> None:
    assert wording.name_words(name) == words


def test_both_directions_of_a_pair_share_their_split() -> None:
    pairs = [(f"a{i}", f"b{i}") for i in range(200)]
    assert [questions.edge_split(p) for p in pairs] == [questions.edge_split(p[::-1]) for p in pairs]


def test_splits_of_links_are_seventy_ten_twenty() -> None:
    splits = [questions.edge_split((f"a{i}", "b")) for i in range(20_000)]
    for name, share in (("train", 0.7), ("valid", 0.1), ("test", 0.2)):
        assert abs(splits.count(name) / len(splits) - share) < 0.0115  # 3.5 standard deviations


def test_symbols_are_split_sixty_fifteen_twenty_five() -> None:
    splits = [questions.area_split(f"p.m{i}:f") for i in range(20_000)]
    for name, share in (("train", 0.6), ("valid", 0.15), ("test", 0.25)):
        assert abs(splits.count(name) / len(splits) - share) < 0.0125  # 3.5 standard deviations


@pytest.fixture(scope="module")
def areas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the graph of packages p, with a large and a small package inside, and q, which is small."""
    root = tmp_path_factory.mktemp("areas")
    functions = "\n".join(f"def f{i}(): pass" for i in range(-(-questions.SYMBOLS // questions.MODULES)))
    inside = {f"p/{part}m{i}.py": functions for part in ("", "large/") for i in range(questions.MODULES)}
    small = {f"p/small/m{i}.py": functions for i in range(questions.MODULES - 1)}
    whole = {"p/large/__init__.py": '"""A docstring."""', "q/__init__.py": functions}
    _write(root, {"p/__init__.py": "", "p/small/__init__.py": "", **inside, **small, **whole})
    builder.build({"p": root / "p", "q": root / "q"}, root / "graph")
    return root / "graph"


def test_the_area_of_a_symbol_is_the_smallest_large_package_around_it(areas: Path) -> None:
    table = pq.read_table(areas / "nodes" / "symbol.parquet").to_pydict()
    found = dict(zip(table["id"], table["label"], strict=True))
    assert found["p.m0:f0"] == "p"
    assert found["p.large.m0:f0"] == "p.large"
    assert found["p.small.m0:f0"] == "p"
    assert found["q:f0"] is None
    schema = tomllib.loads((areas / "graph.toml").read_text())["nodes"]["symbol"]
    assert schema["classes"] == ["p", "p.large"]


def test_a_class_and_all_inside_it_share_their_split(areas: Path) -> None:
    table = pq.read_table(areas / "nodes" / "symbol.parquet").to_pydict()
    asked = {i: s for i, s in zip(table["id"], table["split"], strict=True) if not i.startswith("q:")}
    assert asked == {i: questions.area_split(i) for i in asked}
    assert questions.area_split("p.m:C") == questions.area_split("p.m:C.inner.method")


REFERENCES = """
    class A: pass
    class B(A): pass
    class E: pass
    class S:
        name = A
    def wrap(f): return f
    def make(): pass

    @wrap
    def decorated(): wrap(1)
    @make(A)
    def decorated_by_call(): pass
    def catching():
        try: make()
        except (A, B): raise E(1) from None
    def checking(x):
        E()
        return isinstance(x, A | E) and issubclass(x, (B, int))
    def matching(x):
        match x:
            case A(): pass
    def annotated(x: A, *, y: list[B] | None = None) -> E:
        z: S = S()
    def calling(): return make(A, key=B().lower())
    def using(): return S.name.upper(), S.unknown()
"""


def test_the_syntax_around_a_name_is_the_kind_of_the_reference(tmp_path: Path) -> None:
    _write(tmp_path, {"p/__init__.py": REFERENCES})
    builder.build({"p": tmp_path / "p"}, tmp_path / "graph")
    table = pq.read_table(tmp_path / "graph" / "edges" / "uses.parquet")
    found: dict[str, dict[str, str]] = {}
    for (source, target), kind in zip(
        _pairs(tmp_path / "graph", "uses"), table["label"].to_pylist(), strict=True
    ):
        found.setdefault(source.removeprefix("p:"), {})[target.removeprefix("p:")] = kind
    assert found == {
        "S": {"A": "value"},
        "decorated": {"wrap": "decorator"},  # it is called as well: the first of KINDS wins
        "decorated_by_call": {"make": "decorator", "A": "value"},
        "catching": {"make": "call", "A": "exception", "B": "exception", "E": "exception"},
        "checking": {"A": "check", "E": "check", "B": "check"},
        "matching": {"A": "check"},
        "annotated": {"A": "annotation", "B": "annotation", "E": "annotation", "S": "annotation"},
        "calling": {"make": "call", "A": "value", "B": "call"},
        "using": {"S": "value"},
    }


def test_a_parameter_is_a_node_if_symbols_of_two_packages_take_it(tmp_path: Path) -> None:
    sources = {
        "p/__init__.py": "def f(near, far): pass\ndef g(near, far, *rest): pass\ndef h(far): pass",
        "q/__init__.py": "class A:\n def __init__(self, near): pass\n def m(self, rest): pass",
    }
    _write(tmp_path, sources)
    builder.build({"p": tmp_path / "p", "q": tmp_path / "q"}, tmp_path / "graph")
    assert _pairs(tmp_path / "graph", "takes") == [("p:f", "near"), ("p:g", "near"), ("q:A", "near")]
    parameters = pq.read_table(tmp_path / "graph" / "nodes" / "parameter.parquet")
    assert parameters.to_pydict() == {"id": ["near"]}


def test_a_popular_target_is_no_question(tmp_path: Path) -> None:
    users = "\n".join(f"def user{i}(): return tool()" for i in range(questions.POPULAR + 1))
    _write(tmp_path, {"p/__init__.py": "def tool(): pass\n" + users})
    facts = builder.build({"p": tmp_path / "p"}, tmp_path / "graph")
    assert facts["uses"] == {"message": questions.POPULAR + 1}


def test_circles_of_bases_and_imports_end(tmp_path: Path) -> None:
    sources = {
        "p/__init__.py": "from p.a import thing",
        "p/a.py": "from p import thing\nclass A(B): pass\nclass B(A):\n def go(self): self.lost(); thing()",
    }
    _write(tmp_path, sources)
    facts = builder.build({"p": tmp_path / "p"}, tmp_path / "graph")
    assert facts["edges"]["inherits"] == 2
    assert facts["edges"]["uses"] == 0


def test_a_class_inside_a_method_has_its_own_self(tmp_path: Path) -> None:
    body = """
        class A:
            def go(self):
                class Inner:
                    def run(self):
                        return self.stop()
            def stop(self): pass
    """
    _write(tmp_path, {"p/__init__.py": body})
    facts = builder.build({"p": tmp_path / "p"}, tmp_path / "graph")
    assert facts["edges"]["uses"] == 0


def test_the_same_sources_give_the_same_bytes(tmp_path: Path, shop: Path) -> None:
    _write(tmp_path, dict(reversed(SOURCES.items())))
    builder.build({"shop": tmp_path / "shop"}, tmp_path / "graph")
    for path in sorted(p for p in shop.rglob("*") if p.is_file()):
        assert (tmp_path / "graph" / path.relative_to(shop)).read_bytes() == path.read_bytes()


def test_a_finished_graph_is_found_and_left(tmp_path: Path) -> None:
    _write(tmp_path, SOURCES)
    first = builder.build({"shop": tmp_path / "shop"}, tmp_path / "graph")
    before = (tmp_path / "graph" / "graph.toml").stat().st_ino
    second = builder.build({"shop": tmp_path / "shop"}, tmp_path / "graph")
    assert (first["found"], second["found"]) == (False, True)
    assert (tmp_path / "graph" / "graph.toml").stat().st_ino == before


def test_changed_sources_replace_the_graph(tmp_path: Path) -> None:
    _write(tmp_path, SOURCES)
    first = builder.build({"shop": tmp_path / "shop"}, tmp_path / "graph")
    (tmp_path / "shop" / "base.py").write_text("def new(): pass\n")
    second = builder.build({"shop": tmp_path / "shop"}, tmp_path / "graph")
    assert first["corpus"] != second["corpus"]
    assert "shop.base:new" in _texts(tmp_path / "graph", "symbol")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["graph", "shop"]


def test_a_folder_of_somebody_else_is_not_touched(tmp_path: Path) -> None:
    _write(tmp_path, {**SOURCES, "graph/letter.txt": "mine"})
    with pytest.raises(FileExistsError, match=r"name another folder.*graph\.builder="):
        builder.build({"shop": tmp_path / "shop"}, tmp_path / "graph")
    assert [p.name for p in (tmp_path / "graph").iterdir()] == ["letter.txt"]


def test_a_missing_package_is_named() -> None:
    with pytest.raises(LookupError, match="no_such_package_here"):
        builder.find_packages(["no_such_package_here"])


def test_graph_toml_names_every_table_and_column(shop: Path) -> None:
    raw = tomllib.loads((shop / "graph.toml").read_text())
    for kind, keys in (("nodes", ("id", "text", "label", "split")), ("edges", ("label", "split"))):
        ends = ["src_id", "dst_id"] if kind == "edges" else []  # the names that graph.toml takes for granted
        for table in raw[kind].values():
            names = pq.read_schema(shop / table["path"]).names
            named = [*ends, *table.get("features", []), *(table[key] for key in keys if key in table)]
            assert sorted(named) == sorted(names)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the graph of some of the installed packages."""
    folder = tmp_path_factory.mktemp("installed") / "graph"
    builder.build(builder.find_packages(["click", "jinja2", "requests"]), folder)
    return folder


def _assert_no_target_is_named(graph: Path, *, at_least: int) -> None:
    def words_of(text: str) -> list[str]:
        return re.findall("[^\\W_]+", text.lower())

    words = {i: words_of(t) for i, t in _texts(graph, "symbol").items()}
    masker = wording.Masker([], [*builder.PACKAGES, "jinja", "urllib", "nx"])
    splits = pq.read_table(graph / "edges" / "uses.parquet")["split"].to_pylist()
    targets = [p for p, s in zip(_pairs(graph, "uses"), splits, strict=True) if s != "message"]
    assert len(targets) >= at_least
    for source, target in targets:
        name = re.split(r"[:.]", target)[-1].strip("_").lower()
        # the kind stands before the own name, whose words may be masked
        own = 1 + len(words_of(masker.words(wording.name_words(source.partition(":")[2]))))
        for piece in (words[source][:own], words[source][own:]):
            for form in (name, name.replace("_", " "), name.replace("_", "")):
                assert f" {form} " not in f" {' '.join(piece)} ", (source, target)


def test_no_text_holds_the_name_of_a_target(installed: Path) -> None:
    _assert_no_target_is_named(installed, at_least=1_000)


def test_no_module_text_holds_the_name_of_a_target_elsewhere(installed: Path) -> None:
    words = {i: re.findall("[^\\W_]+", t.lower()) for i, t in _texts(installed, "module").items()}
    splits = pq.read_table(installed / "edges" / "uses.parquet")["split"].to_pylist()
    ends = [(a.partition(":")[0], b) for a, b in _pairs(installed, "uses")]
    across = [
        (module, target)
        for (module, target), split in zip(ends, splits, strict=True)
        if split != "message" and module != target.partition(":")[0]
    ]
    assert len(across) >= 300
    for module, target in across:
        name = " ".join(wording.name_words(re.split(r"[:.]", target)[-1]))
        assert f" {name} " not in f" {' '.join(words[module])} ", (module, target)


def test_no_other_relation_joins_the_ends_of_a_uses_edge(installed: Path) -> None:
    uses, inherits = set(_pairs(installed, "uses")), set(_pairs(installed, "inherits"))
    assert inherits
    assert not uses & inherits
    assert not {(b, a) for a, b in uses} & inherits


@pytest.mark.parametrize("node_type", ["symbol", "module"])
def test_no_text_holds_the_name_of_a_package(installed: Path, node_type: str) -> None:
    for node, text in _texts(installed, node_type).items():
        words = " ".join(re.findall("[^\\W_]+", text.lower()))
        assert not re.search(r"\b(click|jinja|jinja ?2|requests)\b", words), (node, text)


@pytest.mark.parametrize("relation", ["uses", "inherits", "takes", "defined_in", "imports"])
def test_relations_are_free_of_repeats_and_loops(installed: Path, relation: str) -> None:
    pairs = _pairs(installed, relation)
    assert len(pairs) == len(set(pairs)) > 0
    assert all(a != b for a, b in pairs)


def test_the_file_of_a_user_holds_the_name_of_what_it_uses(installed: Path) -> None:
    """An independent look at the resolution: every name stands in the user's own file."""
    files = builder.corpus_files(builder.find_packages(["click", "jinja2", "requests"]))
    for source, target in _pairs(installed, "uses"):
        path = source.partition(":")[0].replace(".", "/")
        text = files.get(f"{path}.py") or files[f"{path}/__init__.py"]
        name = re.split(r"[:.]", target)[-1]
        assert re.search(rf"\b{name}\b", text.decode()), (source, target)


@pytest.mark.drill
def test_the_command_makes_the_default_graph(tmp_path: Path) -> None:
    command = [sys.executable, "-P", str(SCRIPT), str(tmp_path / "graph")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.search(r"^corpus [0-9a-f]{64} ", done.stdout, re.M)
    assert 8_000 <= len(_texts(tmp_path / "graph", "symbol")) <= 12_000
    _assert_no_target_is_named(tmp_path / "graph", at_least=5_000)
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout.startswith("found")


def test_word_features_tell_texts_of_the_same_words_from_others() -> None:
    texts = ["open the file", "open the file", "walk a graph", "walk along a graph", "open the door"]
    rows = np.array(lexical.word_features(texts))
    assert rows.shape == (5, lexical.WIDTH)
    near = rows @ rows.T
    assert near[0, 1] == pytest.approx(near[0, 0])
    assert near[0, 4] > near[0, 2] + 0.1
    assert near[2, 3] > near[2, 4] + 0.1


def test_texts_without_a_common_word_have_empty_features() -> None:
    assert not np.array(lexical.word_features(["one", "two"])).any()
