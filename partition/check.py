"""Whether a partition's files fit together, which checksums do not tell: `lmgnn partition verify --deep`.

Owns ranges of ids and graphs; what hangs on nodes and edges is check_values.py's. Expects what
docs/partition-format.md guarantees. Never looks at the tables, and holds the graph of one host at a time.
Shape letters: N nodes of a local graph, E its edges, R relations, H hosts.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import dgl
import numpy as np

from partition.arrays import pieces
from partition.check_values import check_own_ids, check_values, expect, reading
from partition.manifest import MANIFEST_NAME, PartitionManifest, RelationInfo


def check_structure(folder: Path, manifest: PartitionManifest) -> None:
    """StoreError names the first file that does not fit, and what was expected."""
    _check_ranges(folder / MANIFEST_NAME, manifest)
    edge_map = _check_layout(folder / "graph.json", manifest)
    pairs = np.zeros((2, len(manifest.relations)), dtype=np.uint64)
    totals: Counter[str] = Counter()
    for host in range(manifest.hosts):
        pairs += _check_graph(folder / f"part{host}" / "graph.dgl", manifest, edge_map, host)
        totals += check_values(folder, manifest, edge_map, host)
    _check_reverses(folder / MANIFEST_NAME, manifest, pairs)
    check_own_ids(folder, manifest)
    _check_totals(folder / MANIFEST_NAME, manifest, totals)


def _check_ranges(path: Path, manifest: PartitionManifest) -> None:
    expect(len(manifest.clusters) == manifest.parts, path, "clusters has another length than there are parts")
    for info in manifest.node_types:
        offsets = np.array(manifest.offsets.get(info.name, ()), dtype=np.int64)
        wanted = sum(manifest.clusters) + 1
        expect(len(offsets) == wanted, path, f"{len(offsets)} offsets of {info.name}, expected {wanted}")
        rising = bool((np.diff(offsets) >= 0).all())
        expect(rising and offsets[0] == 0, path, f"offsets of {info.name} do not rise from 0")
        expect(offsets[-1] == info.count, path, f"offsets of {info.name} do not end at {info.count}")


def _check_layout(path: Path, manifest: PartitionManifest) -> np.ndarray:
    """The edge map, int64 R x H x 2: [first, last) of DGL's ids."""
    hosts, relations = range(manifest.hosts), manifest.relations
    with reading(path):
        raw = json.loads(path.read_text())
        found = [raw["edge_map"][relation_key(r)] for r in relations]
        edge_map = np.array(found, dtype=np.int64).reshape(len(relations), manifest.hosts, 2)
    spans = edge_map.transpose(1, 0, 2).reshape(-1, 2)
    bounds = np.concatenate([[0], spans[:, 1]])
    follow = np.array_equal(spans[:, 0], bounds[:-1]) and bool((np.diff(bounds) >= 0).all())
    expect(follow, path, "the ranges of edge_map do not follow one another by host and relation")
    for relation, count in zip(relations, np.diff(edge_map).sum(axis=(1, 2)).tolist(), strict=True):
        expect(count == relation.count, path, f"{count} edges of {relation.name}, expected {relation.count}")
    node_map = {}
    for name, starts in manifest.homogeneous_starts().items():
        sizes = [last - first for first, last in (manifest.host_range(name, host) for host in hosts)]
        node_map[name] = [[start, start + size] for start, size in zip(starts, sizes, strict=True)]
    expected: dict[str, Any] = {
        "num_parts": manifest.hosts,
        "num_nodes": sum(t.count for t in manifest.node_types),
        "num_edges": int(bounds[-1]),
        "node_map": node_map,
        "ntypes": {t.name: index for index, t in enumerate(manifest.node_types)},
        "etypes": {relation_key(r): index for index, r in enumerate(relations)},
    }
    for key, value in expected.items():
        expect(raw.get(key) == value, path, f"{key} is {raw.get(key)}, expected {value}")
    return edge_map


def _check_graph(path: Path, manifest: PartitionManifest, edge_map: np.ndarray, host: int) -> np.ndarray:
    """uint64 2 x R: what `_pair_sums` gives for its edges and for them turned round."""
    with reading(path):
        graph = dgl.load_graphs(str(path))[0][0]
        nodes, types, inner = (graph.ndata[name].numpy() for name in (dgl.NID, dgl.NTYPE, "inner_node"))
        edges, relations, own = (graph.edata[name].numpy() for name in (dgl.EID, dgl.ETYPE, "inner_edge"))
        sources, destinations = (ends.numpy() for ends in graph.edges(order="eid"))
    _check_nodes(path, manifest, host, nodes, types, inner)
    count = int(inner.sum())
    expect(bool((destinations < count).all()), path, "an edge goes to a node of another host")
    is_source = np.zeros(len(nodes), dtype=bool)
    is_source[sources] = True
    halo = bool(is_source[count:].all()) and bool((np.diff(nodes[count:]) > 0).all())
    expect(halo, path, "halo nodes are not the sources that live elsewhere")
    spans = edge_map[:, host]
    by_id = _places(path, edges, *((int(spans[0, 0]), int(spans[-1, 1])) if len(spans) else (0, 0)))
    ends_of_relations = np.cumsum(np.diff(spans)[:, 0])
    numbers = {t.name: index for index, t in enumerate(manifest.node_types)}
    for mine in pieces(0, len(edges)):
        wanted = np.searchsorted(ends_of_relations, np.arange(mine.start, mine.stop), side="right")
        same = np.array_equal(relations[by_id[mine]], wanted)
        expect(same, path, "an edge has another relation's number")
        for ends, local in (("source", sources), ("destination", destinations)):
            kinds = np.array([numbers[getattr(r, ends)] for r in manifest.relations], dtype=np.int64)
            same = np.array_equal(types[local[mine]], kinds[relations[mine]])
            expect(same, path, f"the {ends} of an edge is of another type")
    expect(bool((own == 1).all()), path, "inner_edge is not 1 everywhere")
    _check_order(path, nodes, (sources, destinations, relations, edges), by_id)
    return _pair_sums(nodes, sources, destinations, relations, len(manifest.relations))


def _places(path: Path, edges: np.ndarray, first: int, last: int) -> np.ndarray:
    """int64 E, place of each edge by its number, which must be each from `first` to before `last` once."""
    by_id = np.full(last - first, -1, dtype=np.int64)
    in_range = bool(((edges >= first) & (edges < last)).all())
    if in_range:
        by_id[edges - first] = np.arange(len(edges))
    same = in_range and len(edges) == len(by_id) and bool((by_id >= 0).all())
    expect(same, path, f"its edges are not each of {first} to {last - 1} once")
    return by_id


def _check_nodes(
    path: Path,
    manifest: PartitionManifest,
    host: int,
    nodes: np.ndarray,
    types: np.ndarray,
    inner: np.ndarray,
) -> None:
    """Own nodes first, in order; then others, with types as the ranges say."""
    starts = manifest.homogeneous_starts()
    ranges = [
        (starts[t.name][of], *manifest.host_range(t.name, of), index)
        for of in range(manifest.hosts)
        for index, t in enumerate(manifest.node_types)
    ]
    per_host = len(manifest.node_types)
    count = sum(last - first for _, first, last, _ in ranges[host * per_host : (host + 1) * per_host])
    first = ranges[host * per_host][0]
    own = np.arange(first, first + count)
    expect(
        np.array_equal(nodes[:count], own), path, f"its first nodes are not {first} to {first + count - 1}"
    )
    expect(np.array_equal(inner, np.arange(len(nodes)) < count), path, "inner_node is wrong")
    outside = (nodes[count:] < first) | (nodes[count:] >= first + count)
    expect(bool(outside.all()), path, "a halo node is one of its own")
    known = np.concatenate([np.full(last - begin, index) for _, begin, last, index in ranges])
    expect(bool(((nodes >= 0) & (nodes < len(known))).all()), path, "it has nodes that are not in the graph")
    expect(np.array_equal(types, known[nodes]), path, "a node has another type's number")


def _check_order(
    path: Path,
    nodes: np.ndarray,
    columns: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    by_id: np.ndarray,
) -> None:
    """`columns` are sources, destinations, relations, numbers of the edges."""
    sources, destinations, relations, edges = columns
    for mine in pieces(0, len(edges) - 1):
        both = slice(mine.start, mine.stop + 1)
        rising = _is_rising(destinations[both], relations[both], edges[both])
        expect(rising, path, "edges are not sorted by destination, relation, number")
        some = by_id[both]
        rising = _is_rising(relations[some], destinations[some], nodes[sources[some]])
        expect(rising, path, "edges are not numbered by relation, destination, source")


def _is_rising(*columns: np.ndarray) -> bool:
    """Whether no row of them, compared column by column, is less than the one before."""
    rising = np.ones(len(columns[0]) - 1, dtype=bool)
    for values in reversed(columns):
        before, after = values[:-1], values[1:]
        rising = (before < after) | ((before == after) & rising)
    return bool(rising.all())


def _pair_sums(
    nodes: np.ndarray, sources: np.ndarray, destinations: np.ndarray, relations: np.ndarray, count: int
) -> np.ndarray:
    """uint64 2 x R: of each relation's pairs, and of those turned round, a sum of hashes in any order."""
    sums = np.zeros((2, count), dtype=np.uint64)
    for mine in pieces(0, len(relations)):
        one, two = nodes[sources[mine]].astype(np.uint64), nodes[destinations[mine]].astype(np.uint64)
        np.add.at(sums[0], relations[mine], _mixed(one, two))
        np.add.at(sums[1], relations[mine], _mixed(two, one))
    return sums


def _mixed(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """uint64 hashes of pairs, all uint64."""
    mixed = one * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    mixed = (mixed + two) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(32)
    return np.asarray(mixed * np.uint64(0x94D049BB133111EB))


def _check_reverses(path: Path, manifest: PartitionManifest, pairs: np.ndarray) -> None:
    numbers = {r.name: index for index, r in enumerate(manifest.relations)}
    for name, index in numbers.items():
        back = manifest.relations[index].reverse
        if not back:
            continue
        expect(back in numbers, path, f"{name} has a reverse {back}, which is no relation")
        same = pairs[0, index] == pairs[1, numbers[back]]
        expect(bool(same), path, f"the edges of {back} are not those of {name} turned round")


def _check_totals(path: Path, manifest: PartitionManifest, totals: Counter[str]) -> None:
    expected = {f"tokens of {t.name}": t.tokens for t in manifest.node_types}
    for what, infos in (("nodes", manifest.node_types), ("edges", manifest.relations)):
        for info in infos:
            for split, count in info.targets.items():
                expected[f"{split} targets of {what} {info.name}"] = count
    for name, count in expected.items():
        expect(totals[name] == count, path, f"{totals[name]} {name} in the files, {count} here")


def relation_key(relation: RelationInfo) -> str:
    """What DGL's files call it."""
    return f"{relation.source}:{relation.name}:{relation.destination}"
