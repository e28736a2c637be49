"""Building: found again, shared between processes, the same from CSV, memory and Parquet."""

from __future__ import annotations

import copy
import fcntl
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from partition_graphs import SMALL, write_graph

from partition.__main__ import main
from partition.build import BuildOptions, build, find_or_build
from partition.errors import DiskFullError
from partition.manifest import FORMAT_VERSION, PartitionManifest
from partition.reader import open_tokens, read_ids
from partition.storage import writing
from partition.store import finished

ROOT = Path(__file__).parents[3]


def quiet(line: str) -> None:
    """Nobody listens."""


def made(folder: Path | str, store: Path, **options: Any) -> PartitionManifest:
    return PartitionManifest.load(build(str(folder), BuildOptions(**options), store=str(store), say=quiet))


def test_the_same_request_is_found_and_not_built_again(small_graph: Path, tmp_path: Path) -> None:
    first = find_or_build(str(small_graph), BuildOptions(hosts=2), store=str(tmp_path / "s"), say=quiet)
    written = (first.path / "graph.json").stat().st_mtime_ns
    again = find_or_build(str(small_graph), BuildOptions(hosts=2), store=str(tmp_path / "s"), say=quiet)
    assert (first.found, again.found, again.path) == (False, True, first.path)
    assert (again.path / "graph.json").stat().st_mtime_ns == written


def test_a_copy_of_the_folder_has_the_same_id(small_graph: Path, tmp_path: Path) -> None:
    shutil.copytree(small_graph, tmp_path / "copy")
    assert made(small_graph, tmp_path / "s").id == made(tmp_path / "copy", tmp_path / "t").id


CHANGES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "hosts": lambda folder: {"hosts": 2},
    "seed": lambda folder: {"seed": 1},
    "relations": lambda folder: {"relations": ("cites",)},
    "table": lambda folder: [write_graph(folder, changed_table()), {}][1],
}


def changed_table() -> dict[str, Any]:
    tables = copy.deepcopy(SMALL)
    tables["writes"]["columns"]["src_id"][0] = 6
    return tables


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_another_input_or_option_has_another_id(
    change: Callable[[Path], dict[str, Any]], small_graph: Path, tmp_path: Path
) -> None:
    before = made(small_graph, tmp_path / "s").id
    options = change(small_graph)
    assert made(small_graph, tmp_path / "s", **options).id != before


def test_another_tokenizer_file_has_another_id(small_graph: Path, tmp_path: Path, tokenizer: str) -> None:
    mine = tmp_path / "tokenizer"
    shutil.copytree(tokenizer, mine)
    before = made(small_graph, tmp_path / "s", tokenizer=str(mine)).id
    path = mine / "tokenizer.json"
    path.write_text(path.read_text().replace('"graph"', '"grape"'))
    assert made(small_graph, tmp_path / "s", tokenizer=str(mine)).id != before


def test_csv_gives_what_parquet_gives(tmp_path: Path, tokenizer: str) -> None:
    tables = copy.deepcopy(SMALL)
    tables["paper"]["columns"]["title"] = ['a "graph",\nnode', "edge", None, ""]
    tables["author"]["columns"]["id"] = ["007", "07", "7"]
    tables["writes"]["columns"]["src_id"] = ["007", "07", "7", "7"]
    found = {}
    for suffix in ("parquet", "csv"):
        write_graph(tmp_path / suffix, tables, suffix=suffix)
        part = made(tmp_path / suffix, tmp_path / "s", tokenizer=tokenizer)
        path = tmp_path / "s" / part.id
        texts = [array.tolist() for array in open_tokens(path, 0, "paper")]
        ids = [read_ids(path, 0, name).to_pylist() for name in ("paper", "author")]
        found[suffix] = (part.node_types, part.relations, part.stats, texts, ids)
    assert found["csv"] == found["parquet"]
    assert sorted(found["csv"][-1][1]) == ["007", "07", "7"]


def test_integer_ids_in_csv_stay_integers(tmp_path: Path) -> None:
    write_graph(tmp_path / "graph", SMALL, suffix="csv")
    part = made(tmp_path / "graph", tmp_path / "s")
    assert sorted(read_ids(tmp_path / "s" / part.id, 0, "author").to_pylist()) == [5, 6, 7]


def test_tables_in_memory_are_read_like_files(small_graph: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(small_graph) + "/", "/graphs/small/", recursive=True)
    try:
        part = made("memory://graphs/small", tmp_path / "s")
    finally:
        memory.rm("/graphs", recursive=True)
    assert part.id == made(small_graph, tmp_path / "s").id


def test_left_out_relations_leave_their_node_types(small_graph: Path, tmp_path: Path) -> None:
    part = made(small_graph, tmp_path / "s", relations=("cites",))
    assert [t.name for t in part.node_types] == ["paper", "author"]
    assert [r.name for r in part.relations] == ["cites", "rev_cites"]


def test_reverse_relations_follow_the_options_and_the_file(tmp_path: Path) -> None:
    tables = copy.deepcopy(SMALL)
    tables["writes"]["keys"] = 'reverse = "written_by"'
    part = made(write_graph(tmp_path / "graph", tables), tmp_path / "s", reverse=False)
    assert [(r.name, r.reverse, r.is_reverse) for r in part.relations] == [
        ("cites", "", False),
        ("writes", "written_by", False),
        ("written_by", "writes", True),
    ]


def test_held_out_edges_that_are_stored_as_well_are_counted(tmp_path: Path) -> None:
    tables = copy.deepcopy(SMALL)
    for name, value in (("src_id", "c"), ("dst_id", "d"), ("weight", 9.0), ("split", "train")):
        tables["cites"]["columns"][name].append(value)
    part = made(write_graph(tmp_path / "graph", tables), tmp_path / "s")
    assert part.stats["leaks"] == {"cites": 1}
    assert part.relation("cites").count == 4


def command(folder: Path, store: Path) -> list[str]:
    arguments = ["build", str(folder), "--store", str(store), "--json"]
    return [sys.executable, "-m", "partition", *arguments]


def test_of_two_builders_one_builds_and_the_other_finds_it(small_graph: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    part_id = made(small_graph, tmp_path / "elsewhere").id
    store.mkdir()
    with (store / f"{part_id}.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        both = [
            subprocess.Popen(
                command(small_graph, store),
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        for process in both:
            assert process.stderr is not None
            assert any("waiting" in line for line in process.stderr)
    outputs = [process.communicate(timeout=120)[0] for process in both]
    results = [json.loads(output.splitlines()[-1]) for output in outputs]
    assert sorted(result["found"] for result in results) == [False, True]
    assert {result["path"] for result in results} == {str(store / part_id)}
    assert [manifest.id for manifest in finished(store, say=quiet)] == [part_id]


def test_what_a_killed_builder_left_is_removed(small_graph: Path, tmp_path: Path) -> None:
    part_id = made(small_graph, tmp_path / "elsewhere").id
    left = tmp_path / "store" / f"{part_id}.building-1"
    (left / "part0").mkdir(parents=True)
    (left / "graph.json").write_text("{")
    made(small_graph, tmp_path / "store")
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == [part_id, f"{part_id}.lock"]


def test_a_store_of_an_unknown_kind_is_refused(
    small_graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    for command in (["build", str(small_graph)], ["ls"], ["gc"]):
        assert main([*command, "--store", "s4://bucket/store"]) == 2
        assert "'s4://bucket/store'" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_a_store_may_be_a_file_url(small_graph: Path, tmp_path: Path) -> None:
    found = build(str(small_graph), BuildOptions(), store=f"file://{tmp_path}/kept", say=lambda line: None)
    assert found.parent == tmp_path / "kept"


def test_a_full_disk_is_called_so() -> None:
    with pytest.raises(DiskFullError, match="no space"), writing(Path("/dev/full")):
        Path("/dev/full").write_text("x")


def test_a_disk_that_fills_up_while_building_leaves_no_partition(tmp_path: Path) -> None:
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("this user may not make namespaces (unshare)")
    tables = copy.deepcopy(SMALL)
    tables["author"]["columns"]["id"] = list(range(30_000))
    folder, store = write_graph(tmp_path / "graph", tables), tmp_path / "small"
    store.mkdir()
    script = 'mount -t tmpfs -o size=256k none "$0" && "$@"; code=$?; ls "$0"; exit $code'
    done = subprocess.run(
        [*unshare, "sh", "-c", script, str(store), *command(folder, store)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 14, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert [name for name in done.stdout.split() if not name.endswith(".lock")] == []


def test_the_command_ends_with_a_line_of_json(
    small_graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["build", str(small_graph), "--store", str(tmp_path / "s"), "--hosts", "2", "--no-reverse"]
    assert main([*arguments, "--relations", "cites", "--relations", "writes", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    part = PartitionManifest.load(result["path"])
    assert (part.id, part.hosts, part.options["reverse"]) == (result["id"], 2, False)
    assert set(result) == {"id", "path", "seconds", "found"}


def test_a_failed_command_says_why_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(tmp_path), "--store", str(tmp_path / "s")]) == 3
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert error[0].startswith("error: graph.toml: no such file")


def test_show_ls_and_verify_tell_of_a_partition(
    small_graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = made(small_graph, tmp_path / "s", hosts=2)
    assert main(["ls", "--store", str(tmp_path / "s")]) == 0
    assert main(["show", str(tmp_path / "s" / part.id)]) == 0
    assert main(["verify", str(tmp_path / "s" / part.id)]) == 0
    out = capsys.readouterr().out
    assert out.count(part.id) == 3
    assert "relation cites: paper -> paper, 3 edges" in out


def test_ls_passes_over_a_partition_of_another_format_and_says_so(
    small_graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "s"
    old, new = made(small_graph, store, hosts=2), made(small_graph, store, hosts=1)
    manifest = store / old.id / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"version": {FORMAT_VERSION}', '"version": 1'))
    capsys.readouterr()
    assert main(["ls", "--store", str(store), "--json"]) == 0
    told = capsys.readouterr()
    assert [found["id"] for found in json.loads(told.out)] == [new.id]
    assert f"{old.id}: partition format 1 is not the {FORMAT_VERSION} of this code" in told.err
