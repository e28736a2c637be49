"""docs/partition-format.md against partitions: its example runs, and it names whatever is written."""

from __future__ import annotations

import ast
import copy
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dgl
import pyarrow.parquet as pq
import pytest
from partition_graphs import communities, expected_tokens, write_graph
from partition_parts import LENGTH, Parts
from partition_remotes import files_of, objects_at, quiet

from partition import remote

PAGE = (Path(__file__).parents[3] / "docs" / "partition-format.md").read_text()
MAPS = {
    "offsets": "TYPE",
    "inputs": "TABLE",
    "files": "FILE",
    "keys": "KEY",
    "seconds": "STEP",
    "stats.leaks": "RELATION",
    "stats.balance.hosts": "KIND",
    "stats.balance.parts": "KIND",
    "node_types[].targets": "SPLIT",
    "relations[].targets": "SPLIT",
    "stats.quarantine": "TABLE",
    "stats.quarantine.TABLE.reasons": "REASON",
    "reuse.drift": "FIGURE",
}
"""Maps of the manifest whose keys are names -> what the page calls those."""
WORDS = {str: "string", bool: "boolean", int: "integer", float: "number"}


@pytest.fixture(scope="module")
def partitions(tmp_path_factory: pytest.TempPathFactory, tokenizer: str) -> tuple[Parts, Parts]:
    """One cut afresh, and one that extends it by a node and leaves rows out."""
    folder = tmp_path_factory.mktemp("format")
    first = _made(communities(groups=4), folder, tokenizer)
    tables = communities(groups=4)
    for table, name in (("paper", "id"), ("cites", "src_id"), ("cites", "dst_id"), ("writes", "dst_id")):
        column = tables[table]["columns"][name]
        column[:] = ["new" if node == "p0" else node for node in column]
    return first, _made(tables, folder, tokenizer, bad_rows="quarantine")


@pytest.fixture(scope="module")
def store(partitions: tuple[Parts, Parts], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the example finds `store/ID`."""
    folder = tmp_path_factory.mktemp("example")
    (folder / "store").mkdir()
    (folder / "store" / "ID").symlink_to(partitions[0].path)
    return folder


def _made(tables: dict[str, Any], folder: Path, tokenizer: str, **options: Any) -> Parts:
    written = copy.deepcopy(tables)
    if options:
        for name in ("paper", "cites"):
            columns = written[name]["columns"].items()
            written[name]["columns"] = {key: [*values, values[0]] for key, values in columns}
        written["cites"]["columns"]["dst_id"][-1] = "nowhere"
    write_graph(folder / "graph", written)
    return Parts(tables, folder, 2, 2, tokenizer=tokenizer, cluster_size=10, **options)


def _example() -> str:
    (code,) = re.findall(r"(?s)```python\n(.*?)```", PAGE)
    return str(code)


def _section(title: str) -> str:
    """From a headline to the next one of any level."""
    return re.split(r"(?m)^#+ ", PAGE.split(f"# {title}\n", 1)[1], maxsplit=1)[0]


def _rows(title: str) -> dict[str, str]:
    """Each word in code in the first column of a section's tables -> the second column."""
    rows = re.findall(r"(?m)^\| ([^|]*`[^|]*) \| ([^|]*) \|", _section(title))
    return {word: second for first, second in rows for word in re.findall("`([^`]+)`", first)}


def _in_edges(tables: dict[str, Any]) -> dict[tuple[str, Any], Counter[tuple[str, Any]]]:
    """(node type, own id) -> (relation, own id of the source) of message edges, as the tables have them."""
    found: dict[tuple[str, Any], Counter[tuple[str, Any]]] = {}
    for name, table in tables.items():
        if "ends" not in table:
            continue
        columns, (source_type, destination_type) = table["columns"], table["ends"]
        for row, (source, destination) in enumerate(zip(columns["src_id"], columns["dst_id"], strict=True)):
            if columns.get("split", {row: None})[row] not in ("valid", "test"):
                found.setdefault((destination_type, destination), Counter())[name, source] += 1
                found.setdefault((source_type, source), Counter())[f"rev_{name}", destination] += 1
    return found


def test_the_example_finds_part_tokens_and_neighbours_of_every_node(
    partitions: tuple[Parts, Parts], store: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(store)
    names: dict[str, Any] = {}
    exec(compile(_example(), "partition-format.md", "exec"), names)
    parts = partitions[0]
    columns = parts.tables["paper"]["columns"]
    text_of = dict(zip(columns["id"], columns["text"], strict=True))
    expected, places = _in_edges(parts.tables), parts.places()
    asked = [("paper", node) for node in columns["id"]]
    asked += [("author", node) for node in parts.tables["author"]["columns"]["id"]]
    for node_type, node in asked:
        part, tokens, neighbours = names["look_up"](node_type, node)
        assert part == places[node_type][node][0]
        wanted = expected_tokens(text_of[node], LENGTH) if node_type == "paper" else None
        assert tokens == wanted
        assert Counter(neighbours) == expected.get((node_type, node), Counter())
    assert len({places[node_type][node][0] for node_type, node in asked}) == 4
    printed = capsys.readouterr().out.splitlines()
    assert printed == [str(found) for found in names["look_up"]("paper", "p7")]


def test_the_example_needs_none_of_our_code() -> None:
    imported = set()
    for node in ast.walk(ast.parse(_example())):
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).partition(".")[0])
    assert imported == {"json", "pathlib", "dgl", "numpy", "pyarrow"}


def _walked(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(key as the page writes it, type) of all values of a manifest."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _walked(inner, f"{path}.{MAPS.get(path, key)}".lstrip("."))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for inner in value:
            yield from _walked(inner, f"{path}[]")
    elif isinstance(value, list):
        kinds = {WORDS[type(inner)] for inner in value}
        yield from ((path, f"list of {kind}") for kind in kinds)
    else:
        yield path, WORDS[type(value)]


def test_every_key_of_the_manifest_is_on_the_page_with_its_type(partitions: tuple[Parts, Parts]) -> None:
    found = set()
    for parts in partitions:
        found |= set(_walked(json.loads((parts.path / "manifest.json").read_text())))
    assert _rows("`manifest.json`") == dict(found)
    assert len(found) == len(dict(found))


def test_the_numbering_is_the_hash_that_the_page_says(partitions: tuple[Parts, Parts]) -> None:
    first, second = partitions
    raw = json.loads((first.path / "manifest.json").read_text())
    ids = {name: info["sha256"] for name, info in raw["files"].items() if re.match("part[0-9]+/ids/", name)}
    text = json.dumps([raw["clusters"], raw["offsets"], ids], sort_keys=True)
    numbering = hashlib.sha256(text.encode()).hexdigest()[:20]
    assert first.manifest.numbering == second.manifest.parent_numbering == numbering


def test_every_content_key_is_on_the_page(partitions: tuple[Parts, Parts]) -> None:
    kinds = {re.sub("nodes/[^/]+", "nodes/TYPE", key) for key in partitions[0].manifest.keys}
    kinds = {re.sub("edges/[^/]+", "edges/RELATION", key) for key in kinds}
    rows = _rows("Reuse of an earlier partition")
    assert kinds == {key for key in rows if key == "graph" or key in ("structure", "layout") or "/" in key}


def _kind(path: str) -> str:
    """A file as the page writes it."""
    path = re.sub("^part[0-9]+", "partH", path)
    name = "RELATION" if "/targets/edges/" in path else "TYPE"
    path = re.sub("/(paper|author|cites|writes)", f"/{name}", path)
    return re.sub("nodes[.]paper", "nodes.TYPE", re.sub("edges[.]cites", "edges.RELATION", path))


def test_every_kind_of_file_is_on_the_page(partitions: tuple[Parts, Parts]) -> None:
    written = {_kind(path) for parts in partitions for path in files_of(parts.path)}
    assert written == set(_rows("Files"))


def test_columns_and_fields_are_on_the_page_with_their_types(partitions: tuple[Parts, Parts]) -> None:
    files = _section("Files")
    for path in sorted(partitions[1].path.glob("part*/**/*.parquet")):
        kind = _kind(path.relative_to(partitions[1].path).as_posix())
        (line,) = [line for line in files.splitlines() if line.startswith(f"| `{kind}`")]
        for field in pq.read_schema(path):
            assert f"`{field.name}`" in line
            assert str(field.type).partition("[")[0].partition("<")[0] in line
    graph = dgl.load_graphs(str(partitions[0].path / "part1" / "graph.dgl"))[0][0]
    fields = {
        f'{data}["{name}"]': str(values.dtype).removeprefix("torch.")
        for data in ("ndata", "edata")
        for name, values in getattr(graph, data).items()
    }
    assert fields == _rows("`graph.dgl`")
    raw = json.loads((partitions[0].path / "graph.json").read_text())
    assert {re.sub("^part-[0-9]+", "part-H", key) for key in raw} == set(_rows("`graph.json`"))


def test_every_kind_of_object_at_a_url_is_on_the_page(partitions: tuple[Parts, Parts], bucket: str) -> None:
    objects, part_id = objects_at(f"s3://{bucket}/store"), partitions[1].manifest.id
    remote.push(objects, partitions[1].path, say=quiet)
    files = partitions[1].manifest.files
    kinds = {f"{name}.{info.sha256[:16]}": "FILE.SHA16" for name, info in files.items()}
    there = objects.listing(part_id)
    found = {f"ID/{kinds.get(key.removeprefix(f'{part_id}/'), key.rpartition('/')[2])}" for key in there}
    marker = (partitions[1].path / "manifest.sha256").read_text()[:16]
    assert {name.replace(marker, "SHA16") for name in found} == set(_rows("At a URL"))
