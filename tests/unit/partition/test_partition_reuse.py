"""Labels, texts, features or settings of the text change: nodes stay where they are, files are linked."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from partition_graphs import WORDS, communities, write_graph, write_tokenizer
from partition_parts import Parts, check_parts

from partition import retoken
from partition.__main__ import main
from partition.build import BuildOptions, find_or_build
from partition.csr import DiskGraph
from partition.manifest import PartitionManifest
from partition.methods import METHODS
from partition.store import verify
from partition.token_lists import TokenLists
from partition.tokens import tokenize

Change = Callable[[dict[str, Any]], dict[str, Any]]


def column(table: str, name: str, values: list[Any]) -> Change:
    """Other values in the first rows of a column, no other options."""

    def change(tables: dict[str, Any]) -> dict[str, Any]:
        tables[table]["columns"][name][: len(values)] = values
        return {}

    return change


TOKENS = {f"tokens/paper.{kind}.npy" for kind in ("values", "offsets", "hashes")}
CHANGES: dict[str, tuple[Change, set[str]]] = {
    "labels": (column("paper", "label", [2, None, 0]), {"node_feat.dgl", "targets/nodes/paper.parquet"}),
    "splits": (column("paper", "part", ["test", None, "train"]), {"targets/nodes/paper.parquet"}),
    "features": (column("paper", "size", [7, 8]), {"node_feat.dgl"}),
    "texts": (column("paper", "text", ["model model"]), TOKENS),
    "edge features": (
        column("cites", "weight", [99.0] * 9),
        {"edge_feat.dgl", "targets/edges/cites.parquet"},
    ),
    "edge labels": (column("cites", "label", ["blue", None, "red"] * 3), {"targets/edges/cites.parquet"}),
    "max_length": (lambda tables: {"max_length": 4}, TOKENS),
    "no texts": (lambda tables: {"tokenizer": ""}, set()),
}
"""What changes -> how, and the files of a host that must be written anew."""


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory, tokenizer: str) -> Path:
    """Folder with a graph and a store that holds its partition."""
    folder = tmp_path_factory.mktemp("origin")
    made(communities(), folder, tokenizer=tokenizer)
    return folder


def made(tables: dict[str, Any], folder: Path, **options: Any) -> Parts:
    write_graph(folder / "graph", tables)
    return Parts(tables, folder, *options.pop("shape", (2, 2)), **{"cluster_size": 10, **options})


def no_metis(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(graph: DiskGraph, weights: np.ndarray, blocks: int, seed: int) -> np.ndarray:
        raise AssertionError("METIS is run")

    monkeypatch.setitem(METHODS, "metis", refuse)


@pytest.mark.parametrize("name", CHANGES)
def test_what_does_not_steer_the_cut_leaves_every_node_where_it_is(
    name: str, origin: Path, tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(origin / "store", tmp_path / "store")
    tables = communities()
    change, anew = CHANGES[name]
    before = Parts(tables, origin, 2, 2, cluster_size=10, tokenizer=tokenizer)
    options = {"tokenizer": tokenizer, **change(tables)}
    no_metis(monkeypatch)
    after = made(tables, tmp_path, **options)
    assert (after.manifest.parent, after.manifest.reuse.how) == (before.manifest.id, "kept")
    assert after.ids == before.ids
    assert after.places() == before.places()
    if name != "no texts":  # the check counts on them
        check_parts(after)
    verify(after.path)
    for path, info in after.manifest.files.items():
        if "/" in path:
            linked = os.path.samefile(after.path / path, tmp_path / "store" / before.manifest.id / path)
            assert linked == (path.partition("/")[2] not in anew)
            assert not linked or info == before.manifest.files[path]


def test_another_tokenizer_keeps_the_cut(
    origin: Path, tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(origin / "store", tmp_path / "store")
    words = WORDS[::-1]
    mine = write_tokenizer(tmp_path / "tokenizer", words)
    no_metis(monkeypatch)
    after = made(communities(), tmp_path, tokenizer=str(mine), words=words)
    before = Parts(communities(), origin, 2, 2, cluster_size=10, tokenizer=tokenizer)
    assert after.places() == before.places()
    check_parts(after)


def test_the_same_texts_are_not_tokenized_again(
    origin: Path, tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(origin / "store", tmp_path / "store")
    monkeypatch.setattr(retoken, "tokenize", None)
    after = made(communities(), tmp_path, tokenizer=tokenizer, seed=5)
    assert after.manifest.parent == ""
    check_parts(after)


def test_only_texts_that_are_new_are_tokenized(
    origin: Path, tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(origin / "store", tmp_path / "store")
    tables, seen = communities(), []
    columns = tables["paper"]["columns"]
    columns["text"][5:7] = ["edge edge edge", "node node node"]
    for name, values in columns.items():
        columns[name] = values[::-1]

    def watched(texts: pa.Array, *rest: Any, **named: Any) -> TokenLists:
        seen.extend(texts.to_pylist())
        return tokenize(texts, *rest, **named)

    monkeypatch.setattr(retoken, "tokenize", watched)
    check_parts(made(tables, tmp_path, tokenizer=tokenizer))
    assert seen == ["node node node", "edge edge edge"]


def test_one_host_of_two_trainers_takes_over_the_cut_for_two_hosts(
    tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = made(communities(), tmp_path, shape=(2, 1), tokenizer=tokenizer)
    no_metis(monkeypatch)
    after = made(communities(), tmp_path, shape=(1, 2), tokenizer=tokenizer)
    assert (after.manifest.reuse.how, after.places()) == ("kept", before.places())
    check_parts(after)


def test_a_partition_outlives_its_parent(tmp_path: Path, tokenizer: str) -> None:
    before = made(communities(), tmp_path, tokenizer=tokenizer)
    tables = communities()
    tables["paper"]["columns"]["label"][0] = 1
    after = made(tables, tmp_path, tokenizer=tokenizer)
    shutil.rmtree(before.path)
    check_parts(after)


def test_where_nothing_can_be_linked_files_are_copied(
    tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(source)

    monkeypatch.setattr(os, "link", refuse)
    before = made(communities(), tmp_path, tokenizer=tokenizer)
    tables = communities()
    tables["paper"]["columns"]["label"][0] = 1
    after = made(tables, tmp_path, tokenizer=tokenizer)
    check_parts(after)
    name = "part0/graph.dgl"
    assert after.manifest.files[name] == before.manifest.files[name]
    assert not os.path.samefile(after.path / name, before.path / name)


def test_a_damaged_file_of_the_parent_is_written_anew(tmp_path: Path, tokenizer: str) -> None:
    before = made(communities(), tmp_path, tokenizer=tokenizer)
    for name in ("part0/graph.dgl", "part1/tokens/paper.values.npy"):
        good = (before.path / name).read_bytes()
        (before.path / name).write_bytes(good[:-4] + b"oops")
    tables = communities()
    tables["paper"]["columns"]["label"][0] = 1
    check_parts(made(tables, tmp_path, tokenizer=tokenizer))


def test_a_parent_whose_ids_are_damaged_is_not_reused(tmp_path: Path) -> None:
    before = made(communities(), tmp_path)
    path = before.path / "part0/ids/paper.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    lines: list[str] = []
    after = made(communities(), tmp_path, seed=0, keep_eval_edges=True, say=lines.append)
    assert after.manifest.parent == ""
    assert any(before.manifest.id in line and "not reused" in line for line in lines)


def test_partitions_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    for name, text in (("a", "{"), ("b", '{"version": 1}'), ("c", '{"version": 3}')):
        (tmp_path / "store" / name).mkdir(parents=True)
        (tmp_path / "store" / name / "manifest.json").write_text(text)
    assert made(communities(groups=2), tmp_path).manifest.parent == ""


def test_a_manifest_of_before_loads_with_defaults(tmp_path: Path) -> None:
    parts = made(communities(groups=2), tmp_path)
    raw = json.loads(parts.manifest.to_json())
    for name in ("parent", "keys", "reuse", "seconds", "schema_name"):
        del raw[name]
    old = PartitionManifest.from_json(json.dumps(raw))
    assert (old.parent, old.keys, old.reuse.how, old.seconds) == ("", {}, "", {})


def test_the_drift_of_targets_is_told(origin: Path, tmp_path: Path, tokenizer: str) -> None:
    shutil.copytree(origin / "store", tmp_path / "store")
    before = Parts(communities(), origin, 2, 2, cluster_size=10, tokenizer=tokenizer)
    tables = communities()
    columns = tables["paper"]["columns"]
    first = {node for node, (part, _) in before.places()["paper"].items() if part == 0}
    columns["part"] = ["train" if node in first else None for node in columns["id"]]
    columns["label"] = [1] * len(columns["id"])
    lines: list[str] = []
    after = made(tables, tmp_path, tokenizer=tokenizer, say=lines.append)
    was, now = after.manifest.reuse.drift["targets"]
    counts = after.manifest.stats["balance"]["parts"]["targets"]
    assert now == max(counts) * 4 / sum(counts) > 1.3 > was
    assert after.manifest.reuse.drift["nodes"][0] == after.manifest.reuse.drift["nodes"][1]
    assert any("mean weight" in line and "--no-reuse" in line for line in lines)


def test_without_reuse_a_partition_with_a_parent_is_built_afresh_under_another_id(tmp_path: Path) -> None:
    tables, folder = communities(groups=4), tmp_path / "graph"
    made(tables, tmp_path)
    tables["paper"]["columns"]["label"][0] = 1
    kept = made(tables, tmp_path)
    fresh = made(tables, tmp_path, reuse=False)
    options = BuildOptions(hosts=2, trainers=2, cluster_size=10, max_length=6)
    for reuse, parts in ((True, kept), (False, fresh)):
        found = find_or_build(str(folder), options, store=str(tmp_path / "store"), say=print, reuse=reuse)
        assert (found.id, found.found) == (parts.manifest.id, True)
    assert kept.manifest.parent
    assert not fresh.manifest.parent
    assert fresh.manifest.id != kept.manifest.id


def test_without_reuse_a_request_that_is_new_has_its_usual_id(tmp_path: Path) -> None:
    tables = communities(groups=4)
    one = made(tables, tmp_path, reuse=False)
    (tmp_path / "other").mkdir()
    two = made(tables, tmp_path / "other")
    assert one.manifest.id == two.manifest.id
    again = copy.deepcopy(tables)
    again["paper"]["columns"]["size"][0] += 1
    assert made(again, tmp_path, reuse=False).manifest.parent == ""


def test_the_command_takes_no_reuse_and_show_names_the_parent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = communities(groups=4)
    first = made(tables, tmp_path)
    tables["paper"]["columns"]["label"][0] = 1
    kept = made(tables, tmp_path)
    assert main(["show", str(kept.path)]) == 0
    assert f"kept from partition {first.manifest.id}" in capsys.readouterr().out
    arguments = ["build", str(tmp_path / "graph"), "--store", str(tmp_path / "store"), "--no-reuse", "--json"]
    options = ["--hosts", "2", "--trainers", "2", "--cluster-size", "10", "--max-length", "6"]
    assert main([*arguments, *options]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["id"] not in (kept.manifest.id, first.manifest.id)
    assert PartitionManifest.load(result["path"]).parent == ""
