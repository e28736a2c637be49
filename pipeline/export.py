"""What a finished task leaves behind under RUN/export/TASK: embeddings, predictions, head and LM.

Parquet files, one per part, with the user's own ids. Called by all trainers together; each writes
the rows of its own parts, rank 0 the rest. Never computes a metric.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipeline.durable import whole_file, write_whole
from pipeline.model import text_types
from pipeline.naming import task_folder
from pipeline.objective import Found
from pipeline.sharded import RowSource
from pipeline.stages import TaskStage
from pipeline.statefiles import save_tensors
from pipeline.trainer import Trainer
from pipeline.userids import UserIds

_ROWS = 65_536
"""Rows written at a time."""


def export(trainer: Trainer, task: str, rule: TaskStage, tables: Mapping[str, RowSource]) -> None:
    """Write everything of one task; docs/formats.md describes the files."""
    folder = export_folder(trainer.run, task)
    names = UserIds(trainer.graph)
    for node_type, table in tables.items():
        _embeddings(trainer, folder / "embeddings" / node_type, node_type, table, names)
    _predictions(trainer, folder / "predictions", rule, tables, names)
    if trainer.rank == 0:
        _head(trainer, folder, task, rule)
        _language_models(trainer, folder / "lm")
    torch.distributed.barrier()


def export_folder(run: Path, task: str) -> Path:
    return run / "export" / task_folder(task)


def _embeddings(trainer: Trainer, folder: Path, node_type: str, table: RowSource, names: UserIds) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part in trainer.parts:
        first, last = trainer.graph.manifest.part_range(node_type, part)
        schema = None
        with whole_file(folder / f"part-{part}.parquet", sync=False) as path:
            writer = None
            for start in range(first, max(last, first + 1), _ROWS):
                trainer.record.heartbeat("export")
                ids = torch.arange(start, min(start + _ROWS, last))
                rows = table.read(ids).float()
                values = pa.FixedSizeListArray.from_arrays(pa.array(rows.flatten().numpy()), rows.shape[1])
                some = pa.table({"id": names(node_type, ids), "embedding": values})
                schema = schema or some.schema
                writer = writer or pq.ParquetWriter(path, schema)
                writer.write_table(some)
            if writer is not None:
                writer.close()


def _predictions(
    trainer: Trainer, folder: Path, rule: TaskStage, tables: Mapping[str, RowSource], names: UserIds
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part in trainer.parts:
        found = [
            _named(one, names) for one in rule.objective.predictions(rule.rows(tables), rule.head(), part)
        ]
        if found:
            with whole_file(folder / f"part-{part}.parquet", sync=False) as path:
                pq.write_table(pa.concat_tables(found), path)


def _named(found: Found, names: UserIds) -> pa.Table:
    """The columns of a prediction file."""
    columns: dict[str, Any] = {key: names(node_type, ids) for key, (node_type, ids) in found.nodes.items()}
    for key, values in found.columns.items():
        column = pa.array(values)
        # Arrow calls a block without any label a column of nulls, which does not go together with words.
        columns[key] = column.cast(pa.string()) if column.type == pa.null() else column
    return pa.table(columns)


def _head(trainer: Trainer, folder: Path, task: str, rule: TaskStage) -> None:
    """The head's weights and what they are of: enough to score new pairs of exported embeddings."""
    head = rule.head()
    with whole_file(folder / "head.safetensors", sync=False) as path:
        save_tensors(path, dict(head.state_dict()))
    manifest, plan, width = trainer.graph.manifest, trainer.plan.tasks[task], trainer.plan.model.hidden
    if rule.text_only:  # the task's last stage had a head over text embeddings
        plan = replace(plan, scorer=plan.text_scorer)
        width = max(encoder.width for encoder in trainer.model.text.distinct())
    of = manifest.node_type(plan.node_type) if plan.node_type else manifest.relation(plan.relations[0])
    asked = {plan.node_type} if plan.node_type else {t for r in plan.relations for t in trainer.model.ends[r]}
    described = {
        "task": task,
        "plan": asdict(plan),
        "width": width,
        "classes": list(of.classes) if plan.kind != "link_prediction" else [],
        "ends": {name: list(trainer.model.ends[name]) for name in plan.relations},
        "columns": {name: list(manifest.relation(name).id_columns) for name in plan.relations},
        "ids": {name: manifest.node_type(name).id_column for name in sorted(asked)},
    }
    write_whole(folder / "task.json", json.dumps(described, indent=1) + "\n", sync=False)


def _language_models(trainer: Trainer, folder: Path) -> None:
    """As transformers' AutoModel and AutoTokenizer read them."""
    for node_type in text_types(trainer.graph.manifest):
        name = "shared" if trainer.plan.model.lm_shared else node_type
        final, temporary = folder / name, folder / f".{name}"
        if not final.exists():
            shutil.rmtree(temporary, ignore_errors=True)
            trainer.model.text.of(node_type).save(temporary)
            temporary.rename(final)
