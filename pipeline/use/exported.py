"""What commands on a finished run share: its export read back, users' tables in, result files out.

Owns which run counts as finished, where an id's embedding is, and that a result is written whole or not
at all. Never scores anything and needs no graph server; export.py writes what is read here.
Shape letters: N nodes of a type, B ids asked for, D width.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from partition.errors import DataError, StoreError, UsageError
from partition.importers import IMPORTERS
from partition.lines import csv_line, place
from partition.pieces import whole_column
from partition.rows import RowFile, Rows
from partition.storage import reading, writing
from pipeline.config import ModelPlan, TaskPlan, TrainPlan
from pipeline.durable import whole_file
from pipeline.naming import task_folder
from pipeline.plain import build, nearest
from pipeline.statefiles import load_tensors

_ROWS = 65_536
"""Rows read or written at a time."""


@dataclass(frozen=True)
class Ids:
    """Ids as a person gave them."""

    values: pa.Array
    """large_string B, without nulls."""
    source: str
    """File or flag that they come from."""
    column: str = ""
    """Of the file; empty where there are no rows to name."""

    def fail(self, row: int, problem: str) -> NoReturn:
        """Raise DataError for one id."""
        where = f", {place(row, _line(self.source, row))}, column {self.column!r}" if self.column else ""
        raise DataError(f"{self.source}{where}: {problem}", hint="ids are those of the run's own tables")


@dataclass(frozen=True)
class Exported:
    """RUN/export/TASK of a finished run."""

    folder: Path
    name: str
    task: TaskPlan
    model: ModelPlan
    width: int
    classes: tuple[str, ...]
    """Names of the classes, in the order of the head's outputs; none for links."""
    ends: Mapping[str, tuple[str, str]]
    """Relation of the task -> (source type, destination type)."""
    columns: Mapping[str, tuple[str, str]]
    """Relation of the task -> the columns of its table with the ids of source and destination."""
    id_columns: Mapping[str, str]
    """Node type that the task asks about -> the column of its table with the ids; types of a run that was
    exported before it was kept are missing."""

    def load(self, head: nn.Module) -> nn.Module:
        """The given head with the exported weights, ready to be asked; StoreError if they do not fit."""
        path = self.folder / "head.safetensors"
        try:
            head.load_state_dict(load_tensors(path))
        except RuntimeError as error:
            problem = " ".join(str(error).split())
            raise StoreError(f"{path} is not of this task's head: {problem}") from None
        return head.to(best_device()).eval()

    def blocks(self, folder: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Rows of embeddings/TYPE or predictions, some at a time; at least one block, maybe empty."""
        files = sorted((self.folder / folder).glob("part-*.parquet"))
        if not files:
            inner = self.folder / folder
            known = sorted(p.name for p in inner.parent.glob("*")) if inner.parent != self.folder else []
            hint = f"there are {', '.join(known)}" if known else "the task had no test edges"
            raise UsageError(f"{self.folder} holds no {folder}", hint=hint)
        for path in files:
            try:
                file = pq.ParquetFile(path, pre_buffer=False)  # else it is held whole
                yield file.schema_arrow.empty_table().select(columns or file.schema_arrow.names)
                for batch in file.iter_batches(_ROWS, columns=columns):
                    yield pa.Table.from_batches([batch])
            except (pa.ArrowException, OSError, KeyError) as error:
                problem = " ".join(str(error).split())
                raise StoreError(
                    f"{path} cannot be read: {problem}", hint="the run folder is damaged"
                ) from error

    def ids(self, node_type: str) -> pa.Array:
        """large_string N: all ids of a type, in the order of `vectors`."""
        found = [table["id"].cast(pa.large_string()) for table in self.blocks(_of(node_type), ["id"])]
        return pa.concat_arrays([chunk for column in found for chunk in column.chunks] or [_NOBODY])

    def vectors(self, node_type: str) -> Iterator[Tensor]:
        """float32 blocks x D: all embeddings of a type, in the order of `ids`."""
        for table in self.blocks(_of(node_type), ["embedding"]):
            for chunk in table["embedding"].chunks:
                yield torch.from_numpy(np.array(chunk.flatten()).reshape(-1, self.width))

    def pick(self, node_type: str, ids: Ids) -> Tensor:
        """float32 B x D: embeddings of some nodes; DataError names the first id that is nobody's."""
        found = pc.index_in(ids.values, value_set=self.ids(node_type))
        if found.null_count:
            row = int(np.argmax(pc.is_null(found).to_numpy(zero_copy_only=False)))
            ids.fail(row, f"no {node_type} node has the id {ids.values[row].as_py()!r}")
        rows, order = torch.from_numpy(found.to_numpy().astype(np.int64)).sort()
        picked, first = torch.empty(len(rows), self.width), 0
        for block in self.vectors(node_type):
            start, end = torch.searchsorted(rows, torch.tensor([first, first + len(block)])).tolist()
            picked[order[start:end]] = block[rows[start:end] - first]
            first += len(block)
        return picked


_NOBODY = pa.array([], pa.large_string())


def _of(node_type: str) -> str:
    return f"embeddings/{node_type}"


def best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def open_export(run: Path, task: str = "") -> Exported:
    """What a run exported of a task, or of its only one.

    UsageError for no run, one that has not finished, or an unknown task; StoreError where files are missing.
    """
    plan = _plan(run)
    if not task and len(plan.tasks) == 1:
        task = next(iter(plan.tasks))
    if task not in plan.tasks:
        problem = f"{run} has no task {task!r}{nearest(task, plan.tasks)}"
        raise UsageError(problem if task else f"{run}: --task is one of {', '.join(plan.tasks)}")
    try:
        tested = json.loads((run / "metrics.json").read_text())["tasks"][task]["test"]
    except (FileNotFoundError, ValueError, KeyError):
        tested = None
    if tested is None:
        raise UsageError(f"{run} has not finished", hint=f"`lmgnn status {run}` tells how it is doing")
    folder = run / "export" / task_folder(task)
    try:
        told = json.loads((folder / "task.json").read_text())
        ends, columns = (
            {name: (source, destination) for name, (source, destination) in told[key].items()}
            for key in ("ends", "columns")
        )
        described = build(TaskPlan, told["plan"], "plan.")
        ids = {name: str(column) for name, column in told.get("ids", {}).items() if column}
        classes = tuple(told["classes"])
        return Exported(folder, task, described, plan.model, told["width"], classes, ends, columns, ids)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        problem = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise StoreError(
            f"{folder / 'task.json'}: {problem}", hint="the run is of another version; train it again"
        ) from None


def _plan(run: Path) -> TrainPlan:
    try:
        return TrainPlan.from_json((run / "plan.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"{run} is no run (plan.json is missing)", hint="name a folder below runs/"
        ) from None
    except (ValueError, UsageError) as error:
        raise UsageError(f"{run / 'plan.json'}: {error}") from None


@dataclass(frozen=True)
class _Slice(Rows):
    """Some rows of a file that is read piece by piece."""

    first: int = 0
    """Rows of the file before these."""

    def place(self, position: int) -> str:
        name, row = self.files[0].name, self.first + position
        return f"{name}, {place(row, _line(name, row))}"


def _line(path: str, row: int) -> int | None:
    """The line of a row in a user's CSV table."""
    if not path.endswith(".csv"):
        return None
    with Path(path).open("rb") as stream:
        return csv_line(stream, row)


def table_columns(path: Path) -> list[str]:
    """Names of the columns of a user's table; DataError for what is none."""
    with _opening(path):
        if path.suffix == ".parquet":
            return list(pq.read_schema(path).names)
        return list(pyarrow.csv.open_csv(path).schema.names)


def read_columns(path: Path, columns: Sequence[str], *, flag: str) -> Iterator[Rows]:
    """Some columns of a user's Parquet or CSV table, piece by piece; at least one piece, maybe empty."""
    first = 0
    with _opening(path), path.open("rb") as stream:
        for batch in IMPORTERS[path.suffix](stream, list(dict.fromkeys(columns))):
            for start in range(0, batch.num_rows, _ROWS):
                table = pa.Table.from_batches([batch.slice(start, _ROWS)])
                yield _Slice(
                    f"({flag})", (RowFile(str(path), table),), loose=path.suffix == ".csv", first=first
                )
                first += table.num_rows
    if not first:
        yield _Slice(f"({flag})", (RowFile(str(path), pa.table({name: _NOBODY for name in columns})),))


def id_column(rows: Rows, column: str) -> pa.Array:
    """A column of ids as large_string; DataError names an empty cell or another type."""
    ids = whole_column(rows, column)
    if ids.null_count:
        row = int(np.argmax(pc.is_null(ids).to_numpy(zero_copy_only=False)))
        rows.fail(row, column, "the id is missing", hint="give one or leave the row out")
    if not (pa.types.is_int64(ids.type) or pa.types.is_large_string(ids.type) or not len(ids)):
        rows.fail_column(column, f"an id is an integer or a string, not {ids.type}", hint="convert it")
    return ids.cast(pa.large_string())


def read_ids(path: Path, columns: Sequence[str], *, flag: str) -> list[Ids]:
    """All ids in some columns of a user's table, a list for each."""
    found: list[list[pa.Array]] = [[] for _ in columns]
    for rows in read_columns(path, columns, flag=flag):
        for ids, column in zip(found, columns, strict=True):
            ids.append(id_column(rows, column))
    return [Ids(pa.concat_arrays(i), str(path), c) for i, c in zip(found, columns, strict=True)]


@contextlib.contextmanager
def _opening(path: Path) -> Iterator[None]:
    """Errors of a user's table as DataError, on one line that names the file."""
    if path.suffix not in IMPORTERS:
        raise DataError(f"{path}: tables end in {' or '.join(IMPORTERS)}", hint="convert it first")
    try:
        with reading(str(path), hint="check the path"):
            yield
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as a table: {' '.join(str(error).split())}") from None
    except DataError as error:
        told = error if str(path) in str(error) else DataError(f"{path}: {error.args[0]}", hint=error.hint)
        raise told from None


def check_output(path: Path, *suffixes: str) -> None:
    """UsageError where a result could not be written, before hours are spent on it."""
    if path.suffix not in suffixes:
        raise UsageError(f"--output {path}: expected a name that ends in {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise UsageError(f"--output {path}: there is no folder {path.parent}", hint="make it first")


def rounded(table: pa.Table) -> pa.Table:
    """Numbers as people read them: float columns as float64 of six significant digits."""
    for number, column in enumerate(table.columns):
        if pa.types.is_floating(column.type):
            values = [None if v is None else float(f"{v:.6g}") for v in column.to_pylist()]
            table = table.set_column(number, table.column_names[number], pa.array(values, pa.float64()))
    return table


def write_blocks(path: Path, blocks: Iterator[pa.Table]) -> int:
    """Write tables of one schema, a block or more, to a .parquet or .csv (`rounded`) file; returns the rows.

    The file is there whole or not at all: a failure leaves what was there before.
    """
    blocks = map(rounded, blocks) if path.suffix == ".csv" else blocks
    first, rows = next(blocks), 0
    open_writer: Callable[..., Any] = pq.ParquetWriter if path.suffix == ".parquet" else pa.csv.CSVWriter
    with writing(path), whole_file(path, sync=True) as draft, open_writer(draft, first.schema) as writer:
        for block in itertools.chain([first], blocks):
            rows += block.num_rows
            if block.num_rows:
                writer.write_table(block)
    return rows
