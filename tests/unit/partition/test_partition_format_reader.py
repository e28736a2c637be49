"""A reader that knows docs/partition-format.md and none of our code finds all that the tables hold."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dgl
import numpy as np
import pyarrow.parquet as pq
import pytest
from dgl.data.utils import load_tensors
from partition_parts import Parts
from test_partition_format import partitions  # noqa: F401  (a fixture)

SPLITS = {"train": 0, "valid": 1, "test": 2}
CITES = "paper:cites:paper"


class Reader:
    """A partition by the page alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = json.loads((folder / "manifest.json").read_text())
        self.layout = json.loads((folder / "graph.json").read_text())
        self.hosts = range(self.manifest["hosts"])
        self.own = {t: [i for h in self.hosts for i in self.own_ids(t, h)] for t in self.layout["ntypes"]}

    def own_ids(self, node_type: str, host: int) -> list[Any]:
        return self.rows(host, f"ids/{node_type}.parquet")["id"]

    def rows(self, host: int, name: str) -> dict[str, list[Any]]:
        return pq.read_table(self.folder / f"part{host}" / name).to_pydict()

    def own_id(self, number: int) -> Any:
        """The own id of one of DGL's ids."""
        for node_type, spans in self.layout["node_map"].items():
            before = 0
            for start, end in spans:
                if start <= number < end:
                    return self.own[node_type][number - start + before]
                before += end - start
        raise AssertionError(number)

    def nodes(self, node_type: str, key: str) -> dict[Any, Any]:
        """Own id -> the row of a named tensor."""
        found = {}
        for host in self.hosts:
            values = load_tensors(str(self.folder / f"part{host}" / "node_feat.dgl"))[f"{node_type}/{key}"]
            assert str(values.dtype) == {"feat": "torch.float32", "label": "torch.int32"}[key]
            found |= dict(zip(self.own_ids(node_type, host), values.tolist(), strict=True))
        return found

    def edges(self, relation: str) -> Iterator[tuple[Any, Any, float]]:
        """(own id of the source, of the destination, feature) of the edges of a relation with features."""
        number = self.layout["etypes"][relation]
        for host in self.hosts:
            graph = dgl.load_graphs(str(self.folder / f"part{host}" / "graph.dgl"))[0][0]
            features = load_tensors(str(self.folder / f"part{host}" / "edge_feat.dgl"))[f"{relation}/feat"]
            first = self.layout["edge_map"][relation][host][0]
            sources, destinations = (graph.ndata["_ID"][ends].tolist() for ends in graph.edges(order="eid"))
            ids, relations = graph.edata["_ID"].tolist(), graph.edata["_TYPE"].tolist()
            for source, destination, edge, kind in zip(sources, destinations, ids, relations, strict=True):
                if kind == number:
                    yield self.own_id(source), self.own_id(destination), float(features[edge - first, 0])


@pytest.fixture(scope="module")
def read(partitions: tuple[Parts, Parts]) -> list[tuple[Reader, dict[str, Any]]]:  # noqa: F811
    """Readers with the tables that they should find."""
    return [(Reader(parts.path), parts.tables) for parts in partitions]


def test_features_and_labels_are_by_id(read: list[tuple[Reader, dict[str, Any]]]) -> None:
    for reader, tables in read:
        columns = tables["paper"]["columns"]
        vectors = zip(columns["size"], columns["vector"], strict=True)
        features = dict(zip(columns["id"], ([size, *vector] for size, vector in vectors), strict=True))
        assert reader.nodes("paper", "feat") == features
        labels = [-1 if label is None else label for label in columns["label"]]
        assert reader.nodes("paper", "label") == dict(zip(columns["id"], labels, strict=True))


def test_features_of_edges_and_of_their_reverses_are_by_dgls_id(
    read: list[tuple[Reader, dict[str, Any]]],
) -> None:
    for reader, tables in read:
        columns = tables["cites"]["columns"]
        rows = zip(columns["src_id"], columns["dst_id"], columns["weight"], columns["split"], strict=True)
        ends = [(source, end, weight) for source, end, weight, split in rows if split != "test"]
        assert Counter(reader.edges(CITES)) == Counter(ends)
        turned = Counter((end, source, weight) for source, end, weight in ends)
        assert Counter(reader.edges("paper:rev_cites:paper")) == turned


def test_hashes_are_of_the_texts(read: list[tuple[Reader, dict[str, Any]]]) -> None:
    for reader, tables in read:
        columns = tables["paper"]["columns"]
        texts = dict(zip(columns["id"], columns["text"], strict=True))
        for host in reader.hosts:
            found = np.load(reader.folder / f"part{host}" / "tokens" / "paper.hashes.npy")
            digests = (
                hashlib.blake2b((texts[node] or "").encode(), digest_size=8).digest()
                for node in reader.own_ids("paper", host)
            )
            assert found.tolist() == [int.from_bytes(digest, "little") for digest in digests]


def test_targets_are_on_the_host_of_their_node(read: list[tuple[Reader, dict[str, Any]]]) -> None:
    for reader, tables in read:
        columns = tables["paper"]["columns"]
        rows = zip(columns["id"], columns["part"], columns["label"], strict=True)
        expected = [
            (node, SPLITS[split], label) for node, split, label in rows if split and label is not None
        ]
        found = []
        for host in reader.hosts:
            targets = reader.rows(host, "targets/nodes/paper.parquet")
            own = [reader.own["paper"][i] for i in targets["id"]]
            assert set(own) <= set(reader.own_ids("paper", host))
            assert targets["id"] == sorted(targets["id"])
            found += zip(own, targets["split"], targets["label"], strict=True)
        assert sorted(found) == sorted(expected)


def test_targets_of_edges_are_on_the_host_of_their_destination(
    read: list[tuple[Reader, dict[str, Any]]],
) -> None:
    codes = {"red": 0, "blue": 1, None: -1}
    for reader, tables in read:
        names = ("src_id", "dst_id", "split", "label", "weight")
        rows = zip(*(tables["cites"]["columns"][name] for name in names), strict=True)
        expected = Counter((s, d, SPLITS[split], codes[label], w) for s, d, split, label, w in rows if split)
        found: Counter[Any] = Counter()
        for host in reader.hosts:
            targets = reader.rows(host, "targets/edges/cites.parquet")
            order = list(zip(targets["destination"], targets["source"], targets["split"], strict=True))
            assert order == sorted(order)
            sources, ends = ([reader.own["paper"][i] for i in targets[n]] for n in ("source", "destination"))
            assert set(ends) <= set(reader.own_ids("paper", host))
            weights = [features[0] for features in targets["features"]]
            found.update(zip(sources, ends, targets["split"], targets["label"], weights, strict=True))
        assert found == expected


def test_maps_lead_to_the_same_own_ids_in_the_parent(read: list[tuple[Reader, dict[str, Any]]]) -> None:
    before, after = (reader for reader, _ in read)
    assert after.manifest["parent"] == before.manifest["id"]
    for node_type, own in after.own.items():
        pairs = [after.rows(host, f"moved/{node_type}.parquet") for host in after.hosts]
        old, new = ([i for rows in pairs for i in rows[name]] for name in ("old", "new"))
        assert [before.own[node_type][i] for i in old] == [own[i] for i in new]
        assert {own[i] for i in new} == set(own) & set(before.own[node_type])
