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
_COPIES = 1.0
"""GiB of a host for copies of other hosts' embeddings where the plan sets no limit to all of it: those of
1.3 million texts of MiniLM's width."""


def host_bytes(manifest: PartitionManifest, widths: Mapping[str, int]) -> int:
    """Of all texts' embeddings, those of the host that has most of them. `widths`: text type -> D."""
    return max(_own_bytes(manifest, widths, host) for host in range(manifest.hosts))


def _own_bytes(manifest: PartitionManifest, widths: Mapping[str, int], host: int) -> int:
    ranges = {name: manifest.host_range(name, host) for name in widths}
    return sum(8 * words(widths[name]) * (last - first) for name, (first, last) in ranges.items())


def copied_bytes(plan: TrainPlan, manifest: PartitionManifest, widths: Mapping[str, int]) -> int:
    """That a host gives at most to copies of other hosts' embeddings: what `cache.host_gib` leaves beside its
    own, or 1 GiB, and no more than there is to copy."""
    limit = plan.cache.host_gib * _GIB
    room = max(0.0, limit - host_bytes(manifest, widths)) if limit else _COPIES * _GIB
    return int(min(room, _elsewhere(manifest, widths))) if _looks_up(plan) else 0


def copied_share(plan: TrainPlan, manifest: PartitionManifest, widths: Mapping[str, int]) -> float:
    """The share of other hosts' texts that a host has room for copies of, the same on all hosts."""
    return copied_bytes(plan, manifest, widths) / max(_elsewhere(manifest, widths), 1)


def _elsewhere(manifest: PartitionManifest, widths: Mapping[str, int]) -> int:
    """Bytes of the embeddings that a host does not own, of the host that owns fewest."""
    owned = [_own_bytes(manifest, widths, host) for host in range(manifest.hosts)]
    return sum(owned) - min(owned)


def _looks_up(plan: TrainPlan) -> bool:
    """Whether a stage reads stored embeddings again and again."""
    kinds = {stage.kind for stage in plan.stages}
    return "gnn_warm" in kinds or ("joint" in kinds and plan.cache.mode != "exact")


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
