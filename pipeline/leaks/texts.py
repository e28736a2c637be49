"""Answers that lie in the texts.

Owns two checks: texts that stand in training and in evaluation, and texts that name their class.
Shape letters: B targets, C classes, N rows of a node table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from partition.tables import GraphTables
from pipeline.leaks.targets import MOST_EXAMPLES, Leak, Targets

LONG = 20
"""Characters from which on two equal texts are no coincidence."""
REPEATED = 0.05
"""Share of repeated texts that is a warning: it can move a figure by as much."""
NAMED, NAMED_SHARE, PRECISION = 0.05, 0.3, 0.9
"""Guessing by the one class that a text names is right for so many validation targets: a note, or a
warning where guesses are right so often as well."""
FEWEST_LETTERS = 4


def repeated_texts(tables: GraphTables, targets: Targets) -> Iterator[Leak]:
    """Validation and test targets whose text, or pair of texts, is that of a training target."""
    groups = [_groups(tables, node_type) for node_type in targets.types]
    texts = np.stack([g[targets.ends[:, i]] for i, g in enumerate(groups)], axis=1)
    rows = np.stack(
        [len(tables.nodes[t].ids) + targets.ends[:, i] for i, t in enumerate(targets.types)], axis=1
    )
    # a node without a long text is a group of its own, so a target of such nodes repeats only itself
    as_text, as_nodes = _numbers(texts), _numbers(rows)
    train, asked = targets.rows("train"), targets.rows("valid", "test")
    repeated = np.isin(as_text[asked], as_text[train]) & ~np.isin(as_nodes[asked], as_nodes[train])
    found = asked[repeated]
    if not len(found):
        return
    share = len(found) / len(asked)
    what = "text" if len(targets.types) == 1 else "pair of texts"
    message = (
        f"{len(found):,} ({share:.1%}) of the validation and test targets of {targets.name!r} have the "
        f"{what} of a training target: split so that equal texts stay together"
    )
    level = "warning" if share > REPEATED else "note"
    examples = _twins(tables, targets, as_text, train, found)
    yield Leak(targets.task, "repeated_texts", level, message, share, len(found), examples)


def named_classes(tables: GraphTables, targets: Targets) -> Iterator[Leak]:
    """Validation texts that hold the name of a class as words."""
    valid = targets.rows("valid")
    patterns = {c: p for c, name in enumerate(targets.classes) if (p := _pattern(name))}
    if not len(valid) or not patterns:
        return
    held = np.zeros((len(valid), len(targets.classes)), dtype=bool)
    for column, node_type in enumerate(targets.types):
        texts = tables.nodes[node_type].texts
        if texts is None:
            continue
        nodes, places = np.unique(targets.ends[valid, column], return_inverse=True)
        asked = texts.take(pa.array(nodes))
        for c, pattern in patterns.items():
            held[:, c] |= np.asarray(pc.match_substring_regex(asked, pattern, ignore_case=True))[places]
    guessed = held.sum(axis=1) == 1
    right = guessed & held[np.arange(len(valid)), targets.label[valid]]
    share = float(right.mean())
    if share < NAMED:
        return
    precision = float(right.sum() / guessed.sum())
    best = max(patterns, key=lambda c: int((right & (targets.label[valid] == c)).sum()))
    inside = targets.label[valid] == best
    message = (
        f"{share:.1%} of the validation targets name their class and no other in their text, {precision:.1%} "
        f"of those that name one; {targets.classes[best]!r} stands in {held[inside, best].mean():.1%} of its "
        f"own texts and in {_share(held[~inside, best]):.1%} of the others'"
    )
    warning = share > NAMED_SHARE and precision > PRECISION
    examples = targets.examples(tables, valid[right])
    level = "warning" if warning else "note"
    yield Leak(targets.task, "class_in_text", level, message, share, int(right.sum()), examples)


def _groups(tables: GraphTables, node_type: str) -> np.ndarray:
    """int64 N: equal for nodes of one type with the same long text, however it is spaced."""
    table = tables.nodes[node_type]
    size = len(table.ids)
    if table.texts is None:
        return size + np.arange(size)
    texts = pc.utf8_trim_whitespace(pc.replace_substring_regex(table.texts, r"\s+", " "))
    long = pc.greater_equal(pc.utf8_length(texts), LONG).to_numpy(zero_copy_only=False)
    codes = texts.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    return np.where(long, codes, size + np.arange(size)).astype(np.int64)


def _numbers(columns: np.ndarray) -> np.ndarray:
    """int64 B: equal where all columns are; both are below twice the nodes, so nothing overflows."""
    return (
        columns[:, 0]
        if columns.shape[1] == 1
        else columns[:, 0] * (columns.max(initial=0) + 1) + columns[:, 1]
    )


def _twins(
    tables: GraphTables, targets: Targets, as_text: np.ndarray, train: np.ndarray, found: np.ndarray
) -> tuple[str, ...]:
    """Targets beside the training target that they repeat."""
    shown = found[:MOST_EXAMPLES]
    twins = np.array([train[np.argmax(as_text[train] == as_text[row])] for row in shown])
    pairs = zip(targets.examples(tables, shown), targets.examples(tables, twins), strict=True)
    return tuple(f"{one} = {other}" for one, other in pairs)


def _pattern(name: str) -> str:
    """The words of a class in this order; "" where they have too few letters to mean anything."""
    words = re.findall(r"[^\W_]+", name)
    if sum(letter.isalpha() for word in words for letter in word) < FEWEST_LETTERS:
        return ""
    # RE2's own \b knows ASCII letters only
    inner = r"[^\pL\pN]+".join(re.escape(word) for word in words)
    return rf"(?:^|[^\pL\pN]){inner}(?:[^\pL\pN]|$)"


def _share(found: np.ndarray) -> float:
    return float(found.mean()) if len(found) else 0.0
