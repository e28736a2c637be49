"""Id arithmetic against a table written out node by node."""

from __future__ import annotations

import torch

from partition.manifest import NodeTypeInfo, PartitionManifest
from pipeline.ids import IdSpace

# Two hosts x two trainers; type "a" has clusters of 2, 1 | 0, 3 nodes, "b" of 1, 0 | 2, 1, "c" of none.
MANIFEST = PartitionManifest(
    id="x",
    graph_name="x",
    hosts=2,
    trainers=2,
    node_types=(NodeTypeInfo("a", 6), NodeTypeInfo("b", 4), NodeTypeInfo("c", 0)),
    relations=(),
    clusters=(1, 1, 1, 1),
    offsets={"a": (0, 2, 3, 3, 6), "b": (0, 1, 1, 3, 4), "c": (0, 0, 0, 0, 0)},
    options={},
    inputs={},
    stats={},
    files={},
)
# Homogeneous order: host 0: a0 a1 a2 b0; host 1: a3 a4 a5 b1 b2 b3.
HOMOGENEOUS = {"a": [0, 1, 2, 4, 5, 6], "b": [3, 7, 8, 9]}


def test_homogeneous_ids_are_ordered_by_host_then_type() -> None:
    ids = IdSpace(MANIFEST)
    for name, expected in HOMOGENEOUS.items():
        assert ids.homogeneous(name, torch.arange(len(expected))).tolist() == expected


def test_typed_inverts_homogeneous() -> None:
    ids = IdSpace(MANIFEST)
    kind, typed = ids.typed(torch.arange(10))
    pairs = [(ids.types[k], t) for k, t in zip(kind.tolist(), typed.tolist(), strict=True)]
    table = {h: (name, t) for name, row in HOMOGENEOUS.items() for t, h in enumerate(row)}
    assert pairs == [table[h] for h in range(10)]


def test_owners_and_local_rows_follow_the_ranges() -> None:
    ids = IdSpace(MANIFEST)
    assert ids.host_of("a", torch.arange(6)).tolist() == [0, 0, 0, 1, 1, 1]
    assert ids.part_of("a", torch.arange(6)).tolist() == [0, 0, 1, 3, 3, 3]
    assert ids.part_of("b", torch.arange(4)).tolist() == [0, 2, 2, 3]
    assert ids.local("a", torch.arange(6)).tolist() == [0, 1, 2, 0, 1, 2]
    assert ids.host_first == [0, 4]


def test_clusters_are_ranges_of_ids() -> None:
    ids = IdSpace(MANIFEST)
    for name, offsets in MANIFEST.offsets.items():
        clusters = torch.arange(len(offsets) - 1)
        first, size = ids.cluster_ranges(name, clusters)
        assert first.tolist() == list(offsets[:-1])
        nodes = torch.arange(offsets[-1])
        assert ids.cluster_of(name, nodes).tolist() == clusters.repeat_interleave(size).tolist()
