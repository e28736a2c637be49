"""Whether features, tokens, ids and targets of a partition fit its nodes and edges.

Owns what is expected of each file of values. Never looks at a graph.
Shape letters: N nodes of a type on a host, E edges of a relation there.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dgl
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from dgl.data.utils import load_tensors

from partition.errors import StoreError
from partition.manifest import SPLITS, NodeTypeInfo, PartitionManifest, RelationInfo
from partition.moved import read_moved
from partition.reader import open_tokens, read_edge_targets, read_ids, read_node_targets

_Arrays = Mapping[str, np.ndarray]
_Kind = tuple[Any, tuple[int, ...]]
"""dtype and shape."""


def expect(holds: bool, path: Path, fault: str) -> None:
    """StoreError with a fault of a file, unless all is well."""
    if not holds:
        raise StoreError(f"{path}: {fault}", hint="remove the folder and build the partition again")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """StoreError where a file does not hold what its kind must."""
    try:
        yield
    except (OSError, ValueError, KeyError, IndexError, dgl.DGLError) as error:
        expect(False, path, f"cannot be read: {str(error).splitlines()[0]}")


def check_values(folder: Path, manifest: PartitionManifest, edge_map: np.ndarray, host: int) -> Counter[str]:
    """All but graph and own ids of a host; how many tokens and targets there are."""
    totals: Counter[str] = Counter()
    part = folder / f"part{host}"
    nodes = _node_tensors(part / "node_feat.dgl", manifest, host)
    _check_edge_tensors(part / "edge_feat.dgl", manifest, edge_map[:, host])
    for info in manifest.node_types:
        if info.text:
            totals[f"tokens of {info.name}"] += _check_tokens(folder, manifest, host, info.name)
        if info.targets:
            totals += _check_node_targets(folder, manifest, host, info, nodes)
        if f"part{host}/moved/{info.name}.parquet" in manifest.files:
            _check_moved(folder, manifest, host, info.name)
    for relation in manifest.relations:
        if sum(relation.targets.values()):
            totals += _check_edge_targets(folder, manifest, host, relation)
    return totals


def check_own_ids(folder: Path, manifest: PartitionManifest) -> None:
    """As many as nodes on every host, and none twice."""
    for info in manifest.node_types:
        columns = []
        for host in range(manifest.hosts):
            path = folder / f"part{host}" / "ids" / f"{info.name}.parquet"
            with reading(path):
                columns.append(read_ids(folder, host, info.name))
            _expect_rows(path, len(columns[-1]), _nodes(manifest, info.name, host), "ids")
        with reading(path):
            distinct = pc.count_distinct(pa.chunked_array(columns), mode="all").as_py()
        expect(distinct == info.count, path, "it holds an id that the type has already")


def _nodes(manifest: PartitionManifest, name: str, host: int) -> int:
    first, last = manifest.host_range(name, host)
    return last - first


def _expect_rows(path: Path, found: int, wanted: int, what: str) -> None:
    expect(found == wanted, path, f"{found} {what}, expected {wanted}")


def _node_tensors(path: Path, manifest: PartitionManifest, host: int) -> _Arrays:
    """Features and labels; where the manifest has no width and no classes they may be missing."""
    wanted: dict[str, _Kind] = {}
    optional = set()
    for info in manifest.node_types:
        count = _nodes(manifest, info.name, host)
        wanted[f"{info.name}/feat"] = (np.dtype(np.float32), (count, info.feature_width))
        wanted[f"{info.name}/label"] = (np.dtype(np.int32), (count,))
        optional |= {f"{info.name}/feat"} if not info.feature_width else set()
        optional |= {f"{info.name}/label"} if not info.classes else set()
    tensors = _tensors(path, wanted, optional)
    for info in manifest.node_types:
        labels = tensors.get(f"{info.name}/label", np.zeros(0, dtype=np.int32))
        _expect_within(path, labels, -1, len(info.classes), f"labels of {info.name}")
    return tensors


def _check_edge_tensors(path: Path, manifest: PartitionManifest, spans: np.ndarray) -> None:
    wanted: dict[str, _Kind] = {}
    optional = set()
    for relation, (first, last) in zip(manifest.relations, spans.tolist(), strict=True):
        name = f"{relation.source}:{relation.name}:{relation.destination}/feat"
        wanted[name] = (np.dtype(np.float32), (last - first, relation.feature_width))
        optional |= {name} if not relation.feature_width else set()
    _tensors(path, wanted, optional)


def _tensors(path: Path, wanted: Mapping[str, _Kind], optional: set[str]) -> _Arrays:
    with reading(path):
        found = {name: values.numpy() for name, values in load_tensors(str(path)).items()}
    for name in (*wanted, *found):
        expect(name in wanted, path, f"{name} is not in the manifest")
        expect(name in found or name in optional, path, f"{name} is missing")
    for name, values in found.items():
        dtype, shape = wanted[name]
        fits = (values.dtype, values.shape) == (dtype, shape)
        expect(fits, path, f"{name} is {values.dtype} {values.shape}, expected {dtype} {shape}")
    return found


def _check_tokens(folder: Path, manifest: PartitionManifest, host: int, name: str) -> int:
    stem, count = f"part{host}/tokens/{name}", _nodes(manifest, name, host)
    path = folder / f"{stem}.offsets.npy"
    with reading(path):
        values, offsets = open_tokens(folder, host, name)
    _expect_rows(path, len(offsets), count + 1, "offsets")
    rising = offsets[0] == 0 and bool((np.diff(offsets) >= 0).all())
    expect(rising, path, "offsets do not rise from 0")
    path = folder / f"{stem}.values.npy"
    _expect_rows(path, len(values), int(offsets[-1]), "tokens")
    expect(values.dtype in (np.int16, np.int32), path, f"tokens are {values.dtype}, expected int16 or int32")
    _expect_within(path, values, 0, np.iinfo(np.int32).max, "tokens")
    path = folder / f"{stem}.hashes.npy"
    if f"{stem}.hashes.npy" in manifest.files:  # none in partitions made before they were kept
        with reading(path):
            hashes = np.load(path, mmap_mode="r", allow_pickle=False)
        _expect_rows(path, len(hashes), count, "hashes")
    return len(values)


def _check_node_targets(
    folder: Path, manifest: PartitionManifest, host: int, info: NodeTypeInfo, nodes: _Arrays
) -> Counter[str]:
    path = folder / f"part{host}" / "targets" / "nodes" / f"{info.name}.parquet"
    with reading(path):
        targets = read_node_targets(folder, host, info.name)
    first, last = manifest.host_range(info.name, host)
    _expect_within(path, targets.id, first, last, "ids")
    expect(bool((np.diff(targets.id) > 0).all()), path, "ids do not rise")
    _expect_within(path, targets.label, 0, len(info.classes), "labels")
    if len(targets.id):
        stored = nodes[f"{info.name}/label"][targets.id - first]
        expect(np.array_equal(targets.label, stored), path, "labels are not those of node_feat.dgl")
    return _splits(path, targets.split, f"nodes {info.name}")


def _check_edge_targets(
    folder: Path, manifest: PartitionManifest, host: int, info: RelationInfo
) -> Counter[str]:
    path = folder / f"part{host}" / "targets" / "edges" / f"{info.name}.parquet"
    with reading(path):
        targets = read_edge_targets(folder, host, info.name)
    _expect_within(path, targets.source, 0, manifest.node_type(info.source).count, "sources")
    first, last = manifest.host_range(info.destination, host)
    _expect_within(path, targets.destination, first, last, "destinations")
    _expect_within(path, targets.label, -1, len(info.classes), "labels")
    order = np.lexsort((targets.split, targets.source, targets.destination))
    in_order = np.array_equal(order, np.arange(len(order)))
    expect(in_order, path, "targets are not sorted by destination, source, split")
    width = 0 if targets.features is None else targets.features.shape[1]
    expect(width == info.feature_width, path, f"{width} features, expected {info.feature_width}")
    return _splits(path, targets.split, f"edges {info.name}")


def _splits(path: Path, splits: np.ndarray, what: str) -> Counter[str]:
    _expect_within(path, splits, 0, len(SPLITS), "splits")
    counts = np.bincount(splits, minlength=len(SPLITS)).tolist()
    return Counter({f"{name} targets of {what}": counts[code] for code, name in enumerate(SPLITS)})


def _check_moved(folder: Path, manifest: PartitionManifest, host: int, name: str) -> None:
    path = folder / f"part{host}" / "moved" / f"{name}.parquet"
    with reading(path):
        old, new = read_moved(folder, host, name)
    first, last = manifest.host_range(name, host)
    _expect_within(path, new, first, last, "new ids")
    expect(bool((np.diff(new) > 0).all()), path, "new ids do not rise")
    distinct = len(np.unique(old)) == len(old)
    expect(distinct and bool((old >= 0).all()), path, "old ids are not each from 0 on and there once")


def _expect_within(path: Path, values: np.ndarray, first: int, last: int, what: str) -> None:
    """All values in [first, last)."""
    if len(values) and not (first <= values.min() and values.max() < last):
        found = f"{values.min()} to {values.max()}"
        expect(False, path, f"{what} are {found}, expected {first} to {last - 1}")
