"""How much room hosts give to stored text embeddings, and which stages cannot do with less than all.

Arithmetic on sizes and the plan; opens nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from partition.errors import UsageError
from partition.manifest import PartitionManifest
from pipeline.config import TrainPlan
from pipeline.records import words

_GIB = 1 << 30


def host_bytes(manifest: PartitionManifest, widths: Mapping[str, int]) -> int:
    """Of all texts' embeddings, those of the host that has most of them. `widths`: text type -> D."""

    def of(host: int) -> int:
        ranges = {name: manifest.host_range(name, host) for name in widths}
        return sum(8 * words(widths[name]) * (last - first) for name, (first, last) in ranges.items())

    return max(of(host) for host in range(manifest.hosts))


def disk_bytes(plan: TrainPlan, manifest: PartitionManifest, widths: Mapping[str, int]) -> dict[str, int]:
    """Of all texts' embeddings, by type; without the types that `cache.checkpoint_gib` keeps off the disk."""
    sizes = {name: 8 * words(width) * manifest.node_type(name).count for name, width in widths.items()}
    return {name: size for name, size in sizes.items() if size <= plan.cache.checkpoint_gib * _GIB}


def text_share(plan: TrainPlan, manifest: PartitionManifest, widths: Mapping[str, int]) -> float:
    """The share of each type's texts that `cache.host_gib` has room for, 1 for all of them.

    UsageError if that is less than all and a stage of the plan rests on all of them."""
    limit, needed = plan.cache.host_gib * _GIB, host_bytes(manifest, widths)
    if not limit or needed <= limit:
        return 1.0
    warm = next((stage.name for stage in plan.stages if stage.kind == "gnn_warm"), "")
    if warm:
        raise UsageError(
            f"stage {warm!r}: gnn_warm keeps the embedding of every text, {needed / _GIB:.2f} GiB on a host, "
            f"and cache.host_gib = {plan.cache.host_gib:g}",
            hint='raise cache.host_gib, or take kind = "joint" with train_nodes = 0 and lm_rate = 0 for it',
        )
    return limit / needed
