"""What a column of a table could be: an id, a text, a label, a split, a feature.

A guess starts from the first rows and from names; what is switched on has been read whole by the very
functions that a build uses. Never opens a file by itself, never compares two tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from partition.columns import read_ids, read_labels, read_splits, read_texts
from partition.errors import DataError
from partition.features import read_features
from partition.guess_files import FoundTable
from partition.guess_look import Column
from partition.manifest import SPLITS
from partition.rows import Rows

COMMON_IDS = ("id", "key", "code", "name", "uuid", "guid", "uri", "url", "doi", "slug", "index")
"""Names of id columns that do not tell whose ids they are."""
_TEXT_NAMES = ("text", "title", "abstract", "description", "body", "content", "summary", "sentence", "gloss")
LABEL_NAMES = ("label", "labels", "class", "category", "target", "y")
_MAYBE_LABELS = ("topic", "subject", "genre", "field", "type", "kind", "group", "status")
_SPLIT_WORDS = {*SPLITS, "val", "validation"}
_SPLIT_LIKE = {*_SPLIT_WORDS, "training", "trn", "dev", "development", "testing", "eval"}
_NO_SPLIT = {"message", "none", ""}
_MOST_CLASSES = 1000
_LARGEST_FEATURE = 100.0
"""Features reach the model's first linear map as they are: larger numbers would drown the others."""


@dataclass(frozen=True)
class Line:
    """One key of a table in graph.toml."""

    key: str
    value: str | tuple[str, ...]
    why: str
    sure: bool = True
    """False: written as a comment."""


@dataclass(frozen=True)
class IdColumn:
    """A column without gaps and repeats."""

    column: str
    ids: pa.Array
    """int64 or large_string N."""
    score: int
    """5: called id or after its table; 4: something_id; 3: another usual name; less: by its values alone."""


def normal(name: str) -> str:
    """`PaperID`, `paper id` and `paper-id` as `paper_id`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")


def thing(name: str) -> str:
    """What a table is about: its normal name with every word in the singular."""
    words = [re.sub(r"ies$", "y", word) if len(word) > 4 else word for word in normal(name).split("_")]
    return "_".join(word[:-1] if re.search(r"[^s]s$", word) else word for word in words)


def id_column(table: FoundTable) -> tuple[IdColumn | None, str]:
    """The column that names the rows, or None and why there is none."""
    best = [(_id_score(table, column), column.name) for column in table.columns]
    complaint = "no column holds a value of its own for every row"
    for score, name in sorted(((s, n) for s, n in best if s), key=lambda pair: -pair[0]):
        column = table.column(name)
        if score < 4 and (column.distinct < len(column.values) or column.values.null_count):
            continue
        try:
            return IdColumn(name, read_ids(table.read(name), name), score), ""
        except DataError as error:
            complaint = error.args[0] if score >= 4 else complaint
    return None, complaint


def column_lines(table: FoundTable, taken: Sequence[str], *, edges: bool) -> list[Line]:
    """Guesses for all columns but those that are taken already (ids, ends)."""
    free = [column for column in table.columns if column.name not in taken]
    lines: list[Line] = []

    def rest() -> list[Column]:
        used = {name for line in lines for name in _names(line.value)}
        return [column for column in free if column.name not in used]

    split = _split_line(table, rest(), edges=edges)
    lines += split
    texts = [] if edges else _text_lines(table, rest())
    lines += texts
    labels = _label_lines(table, rest(), with_split=any(line.sure for line in split))
    lines += labels
    features = _feature_lines(table, rest(), edges=edges)
    lines += features
    order = ("text", "label", "split", "features")
    return sorted(lines, key=lambda line: (order.index(line.key), not line.sure))


def unused_note(table: FoundTable, used: Sequence[str]) -> str:
    """`not used: "when" (timestamp[ms]), "notes" (empty)`, or nothing."""
    told = []
    for column in table.columns:
        if column.name not in used:
            what = column.type if column.kind in ("other", "list") else column.kind
            told.append(f'"{column.name}" ({what})')
    return f"not used: {', '.join(told)}" if told else ""


def _names(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def _id_score(table: FoundTable, column: Column) -> int:
    """0: cannot be an id."""
    if column.kind not in ("integer", "string"):
        return 0
    name = normal(column.name)
    if name == "id" or thing(re.sub(r"_?(id|key)$", "", name)) == thing(table.name) != name:
        return 5
    if name.endswith("_id") or name.startswith("id_"):
        return 4
    if column.mean_words > 3 or column.distinct < len(column.values):
        return 0
    if name in COMMON_IDS:
        return 3
    return 2 if column is table.columns[0] else 1


def _checked(line: Line, table: FoundTable, read: Callable[[Rows], object]) -> Line:
    """The line, as an idea only if a build could not read its columns."""
    try:
        read(table.read(*_names(line.value)))
    except DataError as error:
        advice = f" ({error.hint})" if error.hint else ""
        return replace(line, sure=False, why=f"{line.why}; but {error.args[0]}{advice}")
    return line


def _split_line(table: FoundTable, columns: Sequence[Column], *, edges: bool) -> list[Line]:
    for column in sorted(columns, key=lambda column: normal(column.name) != "split"):
        if column.kind != "string" or column.distinct > 10:
            continue
        words = set(pc.unique(column.values.drop_null()).to_pylist())
        plain = {word.strip().lower() for word in words} - _NO_SPLIT
        if not plain or not plain <= _SPLIT_LIKE:
            continue
        told = ", ".join(sorted(word for word in words if word))
        if not words - _NO_SPLIT <= _SPLIT_WORDS:
            why = f"its words are {told}; a split has {', '.join(SPLITS)} or nothing: rename them"
            return [Line("split", column.name, why, sure=False)]
        line = Line("split", column.name, f"only the words {told} in the rows looked at")
        return [_checked(line, table, lambda rows, n=column.name: read_splits(rows, n, message=edges))]  # type: ignore[misc]
    return []


def _text_lines(table: FoundTable, columns: Sequence[Column]) -> list[Line]:
    """The longest text that is sure, or the ideas."""
    sure: list[Column] = []
    maybe: list[Column] = []
    for column in columns:
        if column.kind != "string" or column.distinct <= column.filled / 2 or column.mean_words < 1.2:
            continue
        named = any(word in _TEXT_NAMES for word in normal(column.name).split("_"))
        (sure if column.mean_words >= (1.5 if named else 4) else maybe).append(column)

    def line(column: Column, *, sure: bool) -> Line:
        share = column.distinct / max(column.filled, 1)
        why = f"{column.mean_words:.0f} words on average, {share:.0%} of its values distinct"
        return Line("text", column.name, why, sure=sure)

    sure.sort(key=lambda column: -column.mean_chars)
    lines = [line(column, sure=True) for column in sure[:1]]
    lines = [_checked(found, table, lambda rows, n=found.value: read_texts(rows, n)) for found in lines]  # type: ignore[misc]
    for column in sure[1:]:
        idea = line(column, sure=False)
        lines.append(replace(idea, why=f"{idea.why}; a type has one text: join them in your table"))
    return lines + [line(column, sure=False) for column in maybe]


def _label_lines(table: FoundTable, columns: Sequence[Column], *, with_split: bool) -> list[Line]:
    """A label that is called so is sure; so is the only likely one beside a split."""
    named, maybe = [], []
    for column in columns:
        if column.kind not in ("integer", "string") or column.mean_words > 5 or column.distinct < 2:
            continue
        name = normal(column.name)
        few = column.distinct <= min(_MOST_CLASSES, column.filled / 2)
        if few and (name in LABEL_NAMES or name.endswith(("_label", "_class", "_category"))):
            named.append(column)
        elif column.distinct <= column.filled / 10 and (column.kind == "string" or name in _MAYBE_LABELS):
            maybe.append(column)
    chosen = named[:1] or (maybe if with_split and len(maybe) == 1 else [])
    lines = []
    for column in [*chosen, *(c for c in [*named, *maybe] if c not in chosen)]:
        why = f"{'called so, ' if column in named else ''}{column.distinct} different values"
        line = Line("label", column.name, why, sure=column in chosen)
        lines.append(
            _checked(line, table, lambda rows, n=column.name: read_labels(rows, n, ()))  # type: ignore[misc]
            if line.sure
            else line
        )
    return lines


def _feature_lines(table: FoundTable, columns: Sequence[Column], *, edges: bool) -> list[Line]:
    sure: list[str] = []
    lines: list[Line] = []
    for column in columns:
        flag = column.kind == "boolean" and not table.loose
        if not (flag or column.kind in ("integer", "number", "list")) or _is_key(column):
            continue
        if column.kind != "list" and column.distinct < 2:
            continue
        if reason := _feature_trouble(table, column):
            lines.append(Line("features", (column.name,), reason, sure=False))
        else:
            sure.append(column.name)
    if sure and edges:
        why = "numbers; stored, but no encoder uses features of edges yet"
        return [Line("features", tuple(sure), why, sure=False), *lines]
    return [Line("features", tuple(sure), "numbers without gaps"), *lines] if sure else lines


def _is_key(column: Column) -> bool:
    return re.fullmatch(r"(.*_)?(id|ids|key|index|unnamed_0)|", normal(column.name)) is not None


def _feature_trouble(table: FoundTable, column: Column) -> str:
    """Why a column of numbers is not switched on; empty if it may be."""
    try:
        values = read_features(table.read(column.name), (column.name,))
    except DataError as error:
        advice = f" ({error.hint})" if error.hint else ""
        return f"numbers; but {error.args[0]}{advice}"
    largest = float(np.abs(values).max(initial=0.0))
    if largest > _LARGEST_FEATURE:
        return f"numbers up to {largest:,.0f}; nothing scales them: bring them near -1 to 1 first"
    return ""
