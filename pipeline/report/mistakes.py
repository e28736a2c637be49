"""What a class task's prediction files say of the test split: which class was taken for which, and the
wrong answers that the model was surest of, with their texts.

Owns the reading of export/TASK/predictions for reports. Never writes, never computes a metric.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from partition.errors import LMGNNError
from pipeline.naming import task_folder
from pipeline.report.nodetexts import node_texts, one_line

MOST_MISTAKES = 5
"""Shown of a task."""
OTHERS = "other classes"
_TEXT_LETTERS = 260
_COLUMNS = {
    "predicted": pa.string(),
    "label": pa.string(),
    "split": pa.string(),
    "probability": pa.float64(),
}


@dataclass(frozen=True)
class Node:
    """One end of a prediction; `type` and `text` are empty where they are not known."""

    type: str
    id: str
    text: str = ""


@dataclass(frozen=True)
class Mistake:
    """A wrong answer on the test split."""

    nodes: tuple[Node, ...]
    """The node, or source and destination of the edge."""
    true: str
    predicted: str
    probability: float
    """Of the predicted class."""


@dataclass(frozen=True)
class Judged:
    """A task's labelled test rows."""

    pairs: Mapping[tuple[str, str], int]
    """(true class, predicted class) -> rows."""
    mistakes: tuple[Mistake, ...]
    """The surest first."""

    @property
    def support(self) -> Mapping[str, int]:
        """Class -> test rows of it."""
        counts: Counter[str] = Counter()
        for (true, _), count in self.pairs.items():
            counts[true] += count
        return counts


def read_judged(run: Path, tasks: Iterable[str], missing: list[str]) -> dict[str, Judged]:
    """Those tasks whose prediction files name classes; what cannot be read is told in `missing`."""
    found = {}
    for task in tasks:
        # The same name as export.export_folder, which cannot be imported without torch.
        folder = run / "export" / task_folder(task)
        try:
            judged = _read(folder)
        except (pa.ArrowException, OSError, ValueError) as error:
            missing.append(f"Predictions of {task} could not be read: {error}.")
            continue
        if judged is not None:
            found[task] = judged
    return found


def with_texts(judged: Mapping[str, Judged], graph: str, missing: list[str]) -> dict[str, Judged]:
    """The same with the texts of the mistakes; without the tables ids stand alone."""
    wanted: dict[str, set[str]] = {}
    for task in judged.values():
        for node in (node for mistake in task.mistakes for node in mistake.nodes):
            if node.type:
                wanted.setdefault(node.type, set()).add(node.id)
    if not wanted:
        return dict(judged)
    try:
        texts = node_texts(graph, wanted)
    except (LMGNNError, OSError, ValueError, ImportError) as error:
        missing.append(f"Texts of wrong predictions could not be read, ids stand alone: {error}.")
        return dict(judged)

    def named(node: Node) -> Node:
        return replace(node, text=one_line(texts.get((node.type, node.id), ""), _TEXT_LETTERS))

    return {
        name: replace(
            task, mistakes=tuple(replace(m, nodes=tuple(map(named, m.nodes))) for m in task.mistakes)
        )
        for name, task in judged.items()
    }


def folded(
    pairs: Mapping[tuple[str, str], int], most: int
) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    """(classes by falling count, counts of true class by predicted class); at most `most` rows, the last
    of them all other classes where there are more."""
    size: Counter[str] = Counter()
    for (true, predicted), count in pairs.items():
        size[true] += count
        size[predicted] += 0
    order = sorted(size, key=lambda name: (-size[name], name))
    shown = order if len(order) <= most else [*order[: most - 1], OTHERS]
    row = {name: min(position, len(shown) - 1) for position, name in enumerate(order)}
    counts = [[0] * len(shown) for _ in shown]
    for (true, predicted), count in pairs.items():
        counts[row[true]][row[predicted]] += count
    return tuple(shown), tuple(map(tuple, counts))


def _read(folder: Path) -> Judged | None:
    """None where there are no files, or where they are of links."""
    files = sorted(map(str, (folder / "predictions").glob("part-*.parquet")))
    if not files:
        return None
    names = ds.dataset(files[0]).schema.names
    if not set(_COLUMNS) <= set(names):
        return None
    ends = [name for name in ("id", "source", "destination") if name in names]
    # Runs before types were stated have columns of nulls in parts without a labelled row.
    schema = pa.schema({**_COLUMNS, **{name: pa.large_string() for name in ends}})
    data = ds.dataset(files, schema=schema)
    test = (ds.field("split") == "test") & ds.field("label").is_valid()
    counts = data.to_table(["label", "predicted"], filter=test).group_by(["label", "predicted"])
    rows = counts.aggregate([([], "count_all")]).sort_by([("label", "ascending"), ("predicted", "ascending")])
    pairs = {(row["label"], row["predicted"]): row["count_all"] for row in rows.to_pylist()}
    wrong = data.to_table(filter=test & (ds.field("label") != ds.field("predicted")))
    keys = [("probability", "descending"), *((name, "ascending") for name in ends)]
    surest = wrong.take(pc.select_k_unstable(wrong, min(MOST_MISTAKES, len(wrong)), keys))
    types = _types(folder, len(ends))
    return Judged(
        pairs,
        tuple(
            Mistake(
                tuple(Node(kind, row[end]) for kind, end in zip(types, ends, strict=True)),
                row["label"],
                row["predicted"],
                row["probability"],
            )
            for row in surest.to_pylist()
        ),
    )


def _types(folder: Path, ends: int) -> Sequence[str]:
    """Node types of the ends, from the task.json beside the predictions; empty ones without it."""
    try:
        described = json.loads((folder / "task.json").read_bytes())
        types = [described["plan"]["node_type"]] if ends == 1 else next(iter(described["ends"].values()), [])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [""] * ends
    return types if len(types) == ends else [""] * ends
