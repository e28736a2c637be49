"""A built partition loaded with DGL, and checks of every value in it against the tables it was made of."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import dgl
import numpy as np
import pyarrow.parquet as pq
from dgl.data.utils import load_tensors
from dgl.distributed import load_partition
from partition_graphs import WORDS, expected_tokens

from partition.build import BuildOptions, build
from partition.check import check_structure
from partition.manifest import PartitionManifest
from partition.reader import graph_config, open_tokens, read_edge_targets, read_ids, read_node_targets
from partition.store import verify

CODES = {"train": 0, "valid": 1, "val": 1, "test": 2}
LENGTH = 6


def quiet(line: str) -> None:
    """Nobody listens."""


class Parts:
    """A built partition, loaded with DGL, with original ids put back."""

    def __init__(
        self,
        tables: dict[str, Any],
        folder: Path,
        hosts: int,
        trainers: int,
        *,
        say: Callable[[str], None] = quiet,
        reuse: bool = True,
        words: Sequence[str] = WORDS,
        **options: Any,
    ) -> None:
        self.tables, self.words = tables, words
        options = {"cluster_size": 3, "max_length": LENGTH, **options}
        self.path = build(
            str(folder / "graph"),
            BuildOptions(hosts=hosts, trainers=trainers, **options),
            store=str(folder / "store"),
            say=say,
            reuse=reuse,
        )
        self.manifest = PartitionManifest.load(self.path)
        with mock.patch.dict(os.environ, {"DGL_DIST_DEBUG": "1"}):
            self.loaded = [load_partition(str(graph_config(self.path)), host) for host in range(hosts)]
        self.ids = {
            t.name: [i for host in range(hosts) for i in read_ids(self.path, host, t.name).to_pylist()]
            for t in self.manifest.node_types
        }

    def edges(self) -> Iterator[tuple[str, Any, Any, tuple[float, ...]]]:
        """(relation, original source, original destination, features) of every edge of every part."""
        for host, (block, _, features, book, *_) in enumerate(self.loaded):
            sources, destinations, order = block.edges(form="all")
            nodes = block.ndata[dgl.NID]
            node_types, node_ids = (x.tolist() for x in book.map_to_per_ntype(nodes))
            edge_types, edge_ids = (x.tolist() for x in book.map_to_per_etype(block.edata[dgl.EID][order]))
            assert edge_types == block.edata[dgl.ETYPE][order].tolist()
            for source, destination, edge_type, edge_id in zip(
                sources.tolist(), destinations.tolist(), edge_types, edge_ids, strict=True
            ):
                relation = self.manifest.relations[edge_type]
                ends = []
                for node, kind in ((source, relation.source), (destination, relation.destination)):
                    assert self.manifest.node_types[node_types[node]].name == kind
                    ends.append(self.ids[kind][node_ids[node]])
                key = (relation.source, relation.name, relation.destination)
                row: tuple[float, ...] = ()
                if relation.feature_width:
                    first = 0 if host == 0 else int(book._typed_max_edge_ids[key][host - 1])
                    row = tuple(features[f"{':'.join(key)}/feat"][edge_id - first].tolist())
                yield (relation.name, *ends, row)

    def relation_tables(self) -> Iterator[tuple[str, dict[str, Any]]]:
        yield from ((name, table) for name, table in self.tables.items() if "ends" in table)

    def node_tables(self) -> Iterator[tuple[str, dict[str, Any]]]:
        yield from ((name, table) for name, table in self.tables.items() if "ends" not in table)

    def places(self) -> dict[str, dict[Any, tuple[int, int]]]:
        """Node type -> own id -> (part, cluster counted through all parts)."""
        bounds = np.array([0, *np.cumsum(self.manifest.clusters)])
        found = {}
        for name, ids in self.ids.items():
            clusters = np.searchsorted(self.manifest.offsets[name], np.arange(len(ids)), side="right") - 1
            parts = np.searchsorted(bounds, clusters, side="right") - 1
            found[name] = dict(zip(ids, zip(parts.tolist(), clusters.tolist(), strict=True), strict=True))
        return found


def check_parts(parts: Parts, *, keep_eval_edges: bool = False) -> None:
    """Whatever the tables hold is in the parts exactly once and unchanged."""
    check_structure(parts.path, verify(parts.path))
    _check_nodes(parts)
    _check_tokens(parts)
    _check_edges(parts, keep_eval_edges=keep_eval_edges)
    _check_node_targets(parts)
    _check_edge_targets(parts)
    _check_local_graphs(parts)


def _check_nodes(parts: Parts) -> None:
    for name, table in parts.node_tables():
        columns = table["columns"]
        assert Counter(parts.ids[name]) == Counter(columns["id"])
        row_of = {key: row for row, key in enumerate(columns["id"])}
        for key, column in (("feat", "vector"), ("label", "label")):
            if column not in columns:
                assert all(f"{name}/{key}" not in nodes for _, nodes, *_ in parts.loaded)
                continue
            values = np.concatenate([nodes[f"{name}/{key}"].numpy() for _, nodes, *_ in parts.loaded])
            assert len(values) == len(row_of)
            for node, value in zip(parts.ids[name], values, strict=True):
                row = row_of[node]
                if key == "feat":
                    assert value.tolist() == [columns["size"][row], *columns["vector"][row]]
                else:
                    assert value == (-1 if columns["label"][row] is None else columns["label"][row])


def _check_tokens(parts: Parts) -> None:
    length = parts.manifest.options["max_length"]
    for name, table in parts.node_tables():
        if "text" not in table["columns"]:
            continue
        text_of = dict(zip(table["columns"]["id"], table["columns"]["text"], strict=True))
        for host in range(parts.manifest.hosts):
            values, offsets = open_tokens(parts.path, host, name)
            nodes = read_ids(parts.path, host, name).to_pylist()
            assert values.dtype == np.int16
            assert len(offsets) == len(nodes) + 1
            for index, node in enumerate(nodes):
                found = values[offsets[index] : offsets[index + 1]].tolist()
                assert found == expected_tokens(text_of[node], length, parts.words)


def _check_edges(parts: Parts, *, keep_eval_edges: bool) -> None:
    expected: Counter[Any] = Counter()
    for name, table in parts.relation_tables():
        columns = table["columns"]
        for row, (source, destination) in enumerate(zip(columns["src_id"], columns["dst_id"], strict=True)):
            held_out = columns.get("split", [None] * (row + 1))[row] in ("valid", "test")
            if held_out and not keep_eval_edges:
                continue
            features = (columns["weight"][row],) if "weight" in columns else ()
            expected[name, source, destination, features] += 1
            if "reverse = false" not in table["keys"]:
                expected[f"rev_{name}", destination, source, features] += 1
    assert Counter(parts.edges()) == expected
    counts = Counter(edge[0] for edge in expected.elements())
    assert {r.name: r.count for r in parts.manifest.relations if r.count} == dict(counts)


def _check_node_targets(parts: Parts) -> None:
    for name, table in parts.node_tables():
        columns = table["columns"]
        if "label" not in columns:
            continue
        found = []
        for host in range(parts.manifest.hosts):
            targets = read_node_targets(parts.path, host, name)
            first, last = parts.manifest.host_range(name, host)
            assert all(first <= node < last for node in targets.id)
            found += zip(targets.id.tolist(), targets.split.tolist(), targets.label.tolist(), strict=True)
        rows = zip(columns["id"], columns["part"], columns["label"], strict=True)
        expected = [
            (key, CODES[split], label) for key, split, label in rows if split in CODES and label is not None
        ]
        assert sorted((str(parts.ids[name][i]), *rest) for i, *rest in found) == sorted(
            (str(key), *rest) for key, *rest in expected
        )
        assert sum(parts.manifest.node_type(name).targets.values()) == len(expected)


def _check_edge_targets(parts: Parts) -> None:
    for name, table in parts.relation_tables():
        columns, info = table["columns"], parts.manifest.relation(name)
        expected: Counter[Any] = Counter()
        for row, split in enumerate(columns.get("split", [])):
            if split in CODES:
                label = {"red": 0, "blue": 1, None: -1}[columns["label"][row]]
                weight = columns["weight"][row] if "weight" in columns else None
                expected[columns["src_id"][row], columns["dst_id"][row], CODES[split], label, weight] += 1
        found: Counter[Any] = Counter()
        for host in range(parts.manifest.hosts) if expected else ():
            targets = read_edge_targets(parts.path, host, name)
            keys = list(zip(targets.destination, targets.source, targets.split, strict=True))
            assert keys == sorted(keys)
            first, last = parts.manifest.host_range(info.destination, host)
            for i, (destination, source, split) in enumerate(keys):
                assert first <= destination < last
                weight = float(targets.features[i, 0]) if targets.features is not None else None
                ends = (parts.ids[info.source][source], parts.ids[info.destination][destination])
                found[*ends, int(split), int(targets.label[i]), weight] += 1
        assert found == expected
        assert sum(info.targets.values()) == expected.total()


def _check_local_graphs(parts: Parts) -> None:
    seen: list[int] = []
    starts = parts.manifest.homogeneous_starts()
    total = 0
    for host, (block, *_) in enumerate(parts.loaded):
        first = total
        total += sum(np.subtract(*parts.manifest.host_range(t, host)[::-1]) for t in starts)
        nodes, inner = block.ndata[dgl.NID].tolist(), block.ndata["inner_node"].tolist()
        assert nodes[: total - first] == list(range(first, total))
        assert inner == [1] * (total - first) + [0] * (len(nodes) - total + first)
        assert nodes[total - first :] == sorted(set(nodes[total - first :]) - set(range(first, total)))
        assert bool(block.edata["inner_edge"].all())
        seen += block.edata[dgl.EID].tolist()
        served = block.formats(["csc"])
        served.create_formats_()
        pointers, _, edges = served.adj_tensors("csc")
        relations = block.edata[dgl.ETYPE][edges] if len(edges) else block.edata[dgl.ETYPE]
        for begin, end in zip(pointers[:-1].tolist(), pointers[1:].tolist(), strict=True):
            assert relations[begin:end].tolist() == sorted(relations[begin:end].tolist())
    assert sorted(seen) == list(range(sum(r.count for r in parts.manifest.relations)))


def contents(path: Path) -> Any:
    """What a file holds, with dtypes; DGL writes addresses too, and row groups are pieces."""
    if path.suffix == ".parquet":
        return pq.read_table(path)
    if path.name == "graph.dgl":
        graph = dgl.load_graphs(str(path))[0][0]
        fields = {**dict(graph.ndata.items()), **dict(graph.edata.items())}
        held = [*graph.adj_tensors("csc"), *fields.values()]
        return [*fields, *((values.dtype, values.tolist()) for values in held)]
    if path.suffix == ".dgl":
        return {name: (values.dtype, values.tolist()) for name, values in load_tensors(str(path)).items()}
    return path.read_bytes()
