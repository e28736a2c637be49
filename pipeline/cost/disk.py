"""How much a run writes into its folder, from the sizes of model and graph. Never opens a file.

Compared with a finished default job of 0.57 GB; see tests/flows/test_estimate_run.py for all tasks.
"""

from __future__ import annotations

from collections.abc import Mapping

from partition.manifest import PartitionManifest
from pipeline.config import TaskPlan, TrainPlan
from pipeline.cost.figures import DiskUse
from pipeline.model import LMGNN, TEXT_ONLY, learnable_types, text_types
from pipeline.room import disk_bytes

_PARQUET = 1.3
"""Bytes of an embedding file over those of its float32 numbers: 5.87 MB for 4.50 MB of the default job."""
_TOKENIZER = 24
"""Bytes of tokenizer.json per token of the vocabulary (default LM: 712 kB, 30,522 tokens)."""
_PREDICTION = 24
"""Bytes of a row of predictions besides its ids: class or score, probability or rank, split."""
_EVENT, _SCALARS = 500, 750
"""Bytes per step of events.jsonl, a trainer, and of TensorBoard (default job: 482 and 753)."""
_REPORT = 4 * 2**20
"""Report and its material (default job: 3.5 MB)."""


def disk_use(
    plan: TrainPlan,
    manifest: PartitionManifest,
    model: LMGNN,
    *,
    steps: int,
    most_trained: int,
    kept_bytes: int,
) -> DiskUse:
    """`steps` of all stages together; `most_trained`: parameters that the largest stage trains; `kept_bytes`:
    text embeddings for later runs.

    A new checkpoint is whole before an old one is deleted, hence one more of each kind.
    """
    hidden, engine = plan.model.hidden, plan.engine
    learnable = learnable_types(plan.model, manifest)
    rows = sum(manifest.node_type(t).count for t in learnable)
    ids = sum(_id_bytes(manifest).get(t, 0) for t in learnable)
    weights = sum(w.numel() * w.element_size() for _, w in model.weights()) + 4 * hidden * rows
    # Adam: two numbers a parameter; a shard of ZeRO has its float32 copy as well.
    state = (12 if engine.zero else 8) * most_trained + (8 * hidden + 4) * rows
    return DiskUse(
        models_bytes=(len(plan.stages) + 1) * (weights + ids),
        checkpoints_bytes=(engine.checkpoints_kept + 1)
        * (weights + state + _cached_bytes(plan, manifest, model)),
        export_bytes=round(sum(_export_bytes(plan, manifest, model, name) for name in plan.tasks)),
        texts_bytes=kept_bytes,
        records_bytes=steps * (_EVENT * manifest.parts + _SCALARS) + _REPORT,
    )


def _cached_bytes(plan: TrainPlan, manifest: PartitionManifest, model: LMGNN) -> int:
    """Stored text embeddings in a checkpoint of a joint stage."""
    if plan.cache.mode == "exact" or not any(stage.kind == "joint" for stage in plan.stages):
        return 0
    widths = {name: model.text.of(name).width for name in text_types(manifest)}
    return sum(disk_bytes(plan, manifest, widths).values())


def _export_bytes(plan: TrainPlan, manifest: PartitionManifest, model: LMGNN, task: str) -> float:
    """Embeddings of every type under the user's ids, predictions, language models."""
    last = [stage.kind for stage in plan.stages if stage.task == task][-1]
    texts = text_types(manifest)
    if last in TEXT_ONLY:
        widths = {name: model.text.of(name).width for name in texts}
    else:
        widths = {t.name: plan.model.hidden for t in manifest.node_types}
    ids = _id_bytes(manifest)
    rows = sum(
        manifest.node_type(t).count * 4 * width * _PARQUET + ids.get(t, 0) for t, width in widths.items()
    )
    models = sum(
        4 * sum(p.numel() for p in e.base.parameters()) + _TOKENIZER * e.vocabulary
        for e in model.text.distinct()
    )
    return rows + _prediction_bytes(plan.tasks[task], manifest, ids) + models


def _prediction_bytes(task: TaskPlan, manifest: PartitionManifest, ids: Mapping[str, int]) -> float:
    """All nodes of a type, all target edges of a classified relation, the test edges of predicted ones."""

    def per_node(node_type: str) -> float:
        return ids.get(node_type, 0) / max(manifest.node_type(node_type).count, 1)

    if task.kind == "node_classification":
        return manifest.node_type(task.node_type).count * (_PREDICTION + per_node(task.node_type))
    size = 0.0
    for relation in map(manifest.relation, task.relations):
        links = task.kind == "link_prediction"
        rows = relation.targets.get("test", 0) if links else sum(relation.targets.values())
        size += rows * (_PREDICTION + per_node(relation.source) + per_node(relation.destination))
    return size


def _id_bytes(manifest: PartitionManifest) -> dict[str, int]:
    """Node type -> bytes of its ids as Parquet."""
    found: dict[str, int] = {}
    for path, info in manifest.files.items():
        folder, _, name = path.rpartition("/")
        if folder.endswith("/ids"):
            node_type = name.removesuffix(".parquet")
            found[node_type] = found.get(node_type, 0) + info.size
    return found
