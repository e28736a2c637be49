"""`lmgnn partition verify --deep` finds files that do not fit together although their checksums are right."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dgl
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from dgl.data.utils import load_tensors, save_tensors
from partition_graphs import communities, write_graph
from partition_parts import Parts, check_parts

from partition.__main__ import main
from partition.manifest import PartitionManifest
from partition.store import seal, verify

Break = Callable[[Path], None]
Graph = dgl.DGLGraph


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, tokenizer: str) -> Path:
    """A partition of two hosts with files of every kind; it has a parent whose nodes have moved."""
    folder = tmp_path_factory.mktemp("sound")
    tables = communities(groups=4)
    for nodes in ("gone", "new"):
        for table, name in (("paper", "id"), ("cites", "src_id"), ("cites", "dst_id"), ("writes", "dst_id")):
            column = tables[table]["columns"][name]
            column[:] = [nodes if node in ("p0", "gone") else node for node in column]
        write_graph(folder / "graph", tables)
        parts = Parts(tables, folder, 2, 2, tokenizer=tokenizer, cluster_size=10)
    assert parts.manifest.reuse.how == "extended"
    check_parts(parts)
    return parts.path


def graph(change: Callable[[Graph], Graph | None], name: str = "part1/graph.dgl") -> Break:
    """A change of a host's graph; what it gives, if anything, takes the graph's place."""

    def apply(folder: Path) -> None:
        found = dgl.load_graphs(str(folder / name))[0][0]
        dgl.save_graphs(str(folder / name), [change(found) or found], formats=["csc"])

    return apply


def rewired(found: Graph, sources: torch.Tensor, destinations: torch.Tensor) -> Graph:
    """The same graph with other ends of its edges."""
    other = dgl.graph((sources, destinations), num_nodes=found.num_nodes())
    for key, values in found.ndata.items():
        other.ndata[key] = values
    for key, values in found.edata.items():
        other.edata[key] = values
    return other


def edge_twice(found: Graph) -> None:
    found.edata[dgl.EID][0] = found.edata[dgl.EID][1]


def edge_of_the_other_host(found: Graph) -> None:
    found.edata[dgl.EID][0] = 0


def numbers_swapped(*, same_destination: bool) -> Callable[[Graph], None]:
    """Two edges of one relation, one after the other by number."""

    def change(found: Graph) -> None:
        destinations = found.edges(order="eid")[1]
        order = found.edata[dgl.EID].argsort()
        one, two = order[:-1], order[1:]
        alike = found.edata[dgl.ETYPE][one] == found.edata[dgl.ETYPE][two]
        place = torch.nonzero(alike & ((destinations[one] == destinations[two]) == same_destination))[0]
        pair = torch.cat([one[place], two[place]])
        found.edata[dgl.EID][pair] = found.edata[dgl.EID][pair.flip(0)]

    return change


def edge_missing(found: Graph) -> Graph:
    return dgl.remove_edges(found, torch.tensor([3]))


def edge_into_halo(found: Graph) -> Graph:
    sources, destinations = found.edges(order="eid")
    destinations[-1] = found.num_nodes() - 1
    return rewired(found, sources, destinations)


def edge_from_elsewhere(found: Graph) -> Graph:
    """A paper gets another author, but the author not the paper."""
    sources, destinations = found.edges(order="eid")
    writes = torch.nonzero(found.edata[dgl.ETYPE] == 2).flatten()
    inner = writes[found.ndata["inner_node"][sources[writes]] == 1]
    one = inner[0]
    other = inner[sources[inner] != sources[one]][0]
    sources[one] = sources[other]
    return rewired(found, sources, destinations)


def edge_from_another_type(found: Graph) -> Graph:
    sources, destinations = found.edges(order="eid")
    inner = torch.nonzero(found.ndata["inner_node"][sources] == 1).flatten()
    authors = torch.nonzero(found.ndata[dgl.NTYPE] == 1).flatten()
    cites = inner[found.edata[dgl.ETYPE][inner] == 0]
    sources[cites[0]] = authors[0]
    return rewired(found, sources, destinations)


def halo_too_many(found: Graph) -> Graph:
    more = dgl.add_nodes(found, 1)
    known = set(found.ndata[dgl.NID].tolist())
    more.ndata[dgl.NID][-1] = next(node for node in range(80) if node not in known)
    return more


def halo_swapped(found: Graph) -> None:
    found.ndata[dgl.NID][-2:] = found.ndata[dgl.NID][-2:].flip(0).clone()


def halo_of_its_own(found: Graph) -> None:
    found.ndata[dgl.NID][-1] = found.ndata[dgl.NID][0]


def flagged(data: str, name: str, place: int, value: int) -> Callable[[Graph], None]:
    def change(found: Graph) -> None:
        getattr(found, data)[name][place] = value

    return change


def tensors(name: str, key: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> Break:
    """A change of a named tensor, None to leave it out."""

    def apply(folder: Path) -> None:
        found = load_tensors(str(folder / name))
        changed = change(found.pop(key))
        if changed is not None:
            found[key] = changed
        save_tensors(str(folder / name), found)

    return apply


def array(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Break:
    def apply(folder: Path) -> None:
        np.save(folder / name, change(np.load(folder / name)))

    return apply


def rows(name: str, change: Callable[[dict[str, list[Any]]], None]) -> Break:
    """A change of a Parquet table as columns of Python values."""

    def apply(folder: Path) -> None:
        table = pq.read_table(folder / name)
        columns = table.to_pydict()
        change(columns)
        pq.write_table(pa.table(columns, schema=table.schema), folder / name)

    return apply


def cell(name: str, column: str, place: int, value: Any) -> Break:
    def change(columns: dict[str, list[Any]]) -> None:
        columns[column][place] = value

    return rows(name, change)


def last_row_gone(columns: dict[str, list[Any]]) -> None:
    for values in columns.values():
        values.pop()


def first_rows_swapped(columns: dict[str, list[Any]]) -> None:
    for values in columns.values():
        values[0], values[-1] = values[-1], values[0]


def old_id_twice(columns: dict[str, list[Any]]) -> None:
    columns["old"][0] = columns["old"][1]


def layout(change: Callable[[dict[str, Any]], None]) -> Break:
    def apply(folder: Path) -> None:
        raw = json.loads((folder / "graph.json").read_text())
        change(raw)
        (folder / "graph.json").write_text(json.dumps(raw))

    return apply


def one_edge_less(raw: dict[str, Any]) -> None:
    raw["edge_map"]["paper:rev_writes:author"][1][1] -= 1


def gap_between_hosts(raw: dict[str, Any]) -> None:
    for spans in raw["edge_map"].values():
        spans[1] = [place + 1 for place in spans[1]]


def other_node_map(raw: dict[str, Any]) -> None:
    raw["node_map"]["paper"][0][1] += 1


BROKEN: dict[str, tuple[Break, str]] = {
    "edge twice": (graph(edge_twice), r"part1/graph\.dgl: its edges are not each of"),
    "edge of two parts": (graph(edge_of_the_other_host), r"part1/graph\.dgl: its edges are not each of"),
    "edge in no part": (graph(edge_missing), r"part1/graph\.dgl: its edges are not each of"),
    "edge into halo": (graph(edge_into_halo), "goes to a node of another host"),
    "edge without its reverse": (graph(edge_from_elsewhere), "rev_writes are not those of writes turned"),
    "edge's source of another type": (graph(edge_from_another_type), "the source of an edge is of another"),
    "edges out of order": (graph(numbers_swapped(same_destination=True)), "not sorted by destination"),
    "edges misnumbered": (graph(numbers_swapped(same_destination=False)), "not numbered by relation"),
    "relation": (graph(flagged("edata", dgl.ETYPE, 0, 3)), "another relation's number"),
    "inner_edge": (graph(flagged("edata", "inner_edge", 0, 0)), "inner_edge is not 1"),
    "halo too many": (graph(halo_too_many), "halo nodes are not the sources"),
    "halo out of order": (graph(halo_swapped), "halo nodes are not the sources"),
    "halo of its own": (graph(halo_of_its_own), "a halo node is one of its own"),
    "halo taken for inner": (graph(flagged("ndata", "inner_node", -1, 1)), "inner_node is wrong"),
    "halo that is nowhere": (graph(flagged("ndata", dgl.NID, -1, 200)), "nodes that are not in the graph"),
    "node type": (graph(flagged("ndata", dgl.NTYPE, 0, 1)), "a node has another type's number"),
    "own nodes": (graph(flagged("ndata", dgl.NID, 0, 199)), r"its first nodes are not \d+ to 199"),
    "feature row": (tensors("part0/node_feat.dgl", "paper/feat", lambda x: x[1:]), "paper/feat is float32"),
    "feature dtype": (tensors("part0/node_feat.dgl", "paper/feat", torch.Tensor.double), "feat is float64"),
    "features": (tensors("part1/node_feat.dgl", "paper/feat", lambda x: None), "paper/feat is missing"),
    "label": (tensors("part0/node_feat.dgl", "paper/label", lambda x: x + 1), r"to 3, expected -1 to 2"),
    "edge feature": (
        tensors("part1/edge_feat.dgl", "paper:cites:paper/feat", lambda x: x[1:]),
        "cites:paper/feat is float32",
    ),
    "offset too few": (
        array("part0/tokens/paper.offsets.npy", lambda x: x[:-1]),
        r"\d+ offsets, expected \d+",
    ),
    "offsets falling": (array("part0/tokens/paper.offsets.npy", lambda x: x[::-1]), "do not rise from 0"),
    "token too few": (array("part1/tokens/paper.values.npy", lambda x: x[:-1]), r"values\.npy: \d+ tokens, "),
    "token below 0": (array("part1/tokens/paper.values.npy", lambda x: x - 9), "tokens are -7 to"),
    "hash too few": (array("part1/tokens/paper.hashes.npy", lambda x: x[1:]), r"\d+ hashes, expected \d+"),
    "own id too few": (rows("part0/ids/author.parquet", last_row_gone), r"\d+ ids, expected \d+"),
    "own id twice": (cell("part1/ids/paper.parquet", "id", 0, "p9"), "an id that the type has already"),
    "target elsewhere": (cell("part1/targets/nodes/paper.parquet", "id", 0, 0), "ids are 0 to"),
    "target's split": (cell("part0/targets/nodes/paper.parquet", "split", 1, 3), "expected 0 to 2"),
    "target's label": (cell("part0/targets/nodes/paper.parquet", "label", 1, -1), "labels are -1 to"),
    "target too few": (
        rows("part0/targets/nodes/paper.parquet", last_row_gone),
        r"manifest\.json: \d+ \w+ targets of nodes paper in the files",
    ),
    "edge target's source": (cell("part0/targets/edges/cites.parquet", "source", 0, 160), "to 160, expected"),
    "edge target elsewhere": (cell("part0/targets/edges/cites.parquet", "destination", 0, 159), "to 159,"),
    "edge target's label": (cell("part1/targets/edges/cites.parquet", "label", 0, 2), "to 2, expected -1 to"),
    "edge targets unsorted": (rows("part1/targets/edges/cites.parquet", first_rows_swapped), "not sorted by"),
    "edge target too few": (
        rows("part0/targets/edges/cites.parquet", last_row_gone),
        r"manifest\.json: \d+ \w+ targets of edges cites in the files",
    ),
    "moved twice": (rows("part0/moved/paper.parquet", old_id_twice), "old ids are not each"),
    "edge_map short": (layout(one_edge_less), "159 edges of rev_writes, expected 160"),
    "edge_map with a gap": (layout(gap_between_hosts), "do not follow one another"),
    "node_map": (layout(other_node_map), r"graph\.json: node_map is"),
    "no such file": (lambda folder: (folder / "part0/ids/paper.parquet").unlink(), "no such file"),
}
"""What is wrong -> how it is made so, and what is said of it."""


def resealed(folder: Path, manifest: PartitionManifest) -> None:
    """Checksums that fit whatever the files hold."""
    for name in ("manifest.json", "manifest.sha256"):
        (folder / name).unlink()
    seal(folder, manifest)
    verify(folder)


@pytest.mark.parametrize("name", BROKEN)
def test_what_does_not_fit_is_found_although_the_checksums_are_right(
    name: str, sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, said = BROKEN[name]
    shutil.copytree(sound, tmp_path / "broken")
    change(tmp_path / "broken")
    resealed(tmp_path / "broken", PartitionManifest.load(sound))
    assert main(["verify", str(tmp_path / "broken")]) == 0
    capsys.readouterr()
    assert main(["verify", "--deep", str(tmp_path / "broken")]) == 13
    assert re.search(said, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("offsets", "said"),
    [((0, 40), "2 offsets of author"), ((1,) * 21, "do not rise from 0"), ((0,) * 21, "do not end at 40")],
)
def test_offsets_that_do_not_fit_are_found(
    offsets: tuple[int, ...], said: str, sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = PartitionManifest.load(sound)
    shutil.copytree(sound, tmp_path / "broken")
    resealed(tmp_path / "broken", replace(manifest, offsets={**manifest.offsets, "author": offsets}))
    assert main(["verify", "--deep", str(tmp_path / "broken")]) == 13
    assert said in capsys.readouterr().err


def test_a_sound_partition_fits(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--deep", str(sound)]) == 0
    assert "files are as written and fit together" in capsys.readouterr().out


def test_a_partition_at_a_url_is_to_be_pulled_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--deep", "s3://bucket/store/0123456789abcdef0123"]) == 2
    assert "pull it first" in capsys.readouterr().err
