"""Answers that lie in the edges that messages run over.

Owns three checks: pairs to predict that are joined already, relations that tell the class of a pair,
neighbours that tell the class of a node. Shape letters: B targets, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from sklearn.preprocessing import normalize

from partition.tables import EdgeTable, GraphTables
from pipeline.leaks.targets import Leak, Targets

SAME_SHARE = 0.01
"""So many evaluation targets joined by their own relation are a warning; fewer hardly move a figure."""
HALF, FIFTH = 0.5, 0.2
"""Another relation that joins half of the answers ranks them above random candidates, which it hardly
ever joins: a warning. So is one that joins a fifth of them if half of its own pairs are answers, for it
can be read off one by one."""
NOTED = 0.05
"""Smaller shares by another relation are not worth a line."""
ERRORS_SAVED = 0.3
"""Knowing one relation saves this share of the majority's errors: more than words usually do."""
PURE, COMMON = 0.98, 0.8
"""So many of the pairs that a relation joins are of one class, to which at most so many pairs belong
anyway (with 20 pairs that is no coincidence: .8 ** 20 = .01)."""
NODE_ACCURACY, NODE_ERRORS_SAVED = 0.98, 0.9
"""A neighbour that tells the class so well stands for the class: its package, its forum, its chapter."""
FEWEST = 20
"""Validation targets below which a share says nothing about classes."""


@dataclass(frozen=True)
class _Pairs:
    """Edges of a relation as numbers, one for each pair of rows, in the direction of the targets."""

    forward: np.ndarray
    """int64; empty where the relation does not join these types this way round."""
    backward: np.ndarray

    def join(self, keys: np.ndarray) -> np.ndarray:
        """bool B."""
        return np.isin(keys, self.forward) | np.isin(keys, self.backward)


def joined_pairs(tables: GraphTables, targets: Targets, *, keep_eval_edges: bool) -> Iterator[Leak]:
    """Validation and test edges whose ends are joined, either way round, by an edge that carries messages."""
    asked = targets.rows("valid", "test")
    if not len(asked):
        return
    keys = _keys(tables, targets, targets.ends)
    if keep_eval_edges:
        yield _kept_leak(tables, targets, asked)
    for name, table in tables.edges.items():
        # its own held-out edges have had their line
        everything = keep_eval_edges and name != targets.name
        carries = np.ones_like(table.held_out) if everything else ~table.held_out
        pairs = _pairs(tables, targets, table, carries)
        joined = asked[pairs.join(keys[asked])]
        share = len(joined) / len(asked)
        if not len(joined):
            continue
        if name == targets.name:
            yield _same_leak(tables, targets, joined, share)
        elif share > NOTED and not targets.classes:  # where classes are asked for the pair is given
            whole = tables.edges[targets.name]
            answers = _keys(tables, targets, np.stack([whole.source, whole.destination], axis=1))
            known = np.unique(np.concatenate([pairs.forward, pairs.backward]))
            yield _other_leak(tables, targets, name, joined, share, float(np.isin(known, answers).mean()))


def told_edge_classes(tables: GraphTables, targets: Targets) -> Iterator[Leak]:
    """Relations whose presence between two nodes tells the class of their pair."""
    train, valid = targets.rows("train"), targets.rows("valid")
    if len(valid) < FEWEST or not len(train):
        return
    keys = _keys(tables, targets, targets.ends)
    usual = float((targets.label[valid] == _most(targets.label[train])).mean())
    for name, table in tables.edges.items():
        joined = _pairs(tables, targets, table, ~table.held_out).join(keys)
        seen = targets.label[train[joined[train]]]
        found = valid[joined[valid]]
        if name == targets.name or len(found) < FEWEST or not len(seen):
            continue
        others = targets.label[train[~joined[train]]]
        guess = np.array([_most(others if len(others) else seen), _most(seen)])
        right = guess[joined[valid].astype(int)] == targets.label[valid]
        pure, saved = float(right[joined[valid]].mean()), float(right.mean()) - usual
        anyway = float((targets.label[valid] == guess[1]).mean())
        if (pure >= PURE and anyway <= COMMON) or saved >= ERRORS_SAVED * (1 - usual) > 0:
            message = (
                f"{pure:.1%} of the {targets.name!r} edges that {name!r} joins too are "
                f"{targets.classes[guess[1]]!r} (of all {anyway:.1%}); whether it joins two nodes tells the "
                f"class with accuracy {right.mean():.3f}, the majority {usual:.3f}; leave it out of "
                "graph.relations"
            )
            examples = targets.examples(tables, found)
            share = len(found) / len(valid)
            yield Leak(targets.task, "class_by_relation", "warning", message, share, len(found), examples)


def told_node_classes(tables: GraphTables, targets: Targets) -> Iterator[Leak]:
    """Relations whose neighbours, by the classes of their training nodes, tell those of validation nodes."""
    train, valid = targets.rows("train"), targets.rows("valid")
    if len(valid) < FEWEST or not len(train):
        return
    majority = float((targets.label[valid] == _most(targets.label[train])).mean())
    for name, table in tables.edges.items():
        for own, other in (("source", "destination"), ("destination", "source")):
            if getattr(table.schema, own) != targets.types[0]:
                continue
            votes = _votes(tables, targets, table, own, other)[valid]
            covered = np.diff(votes.indptr) > 0
            if covered.sum() < FEWEST:
                continue
            predicted = np.asarray(votes.argmax(axis=1)).ravel()
            right = (predicted == targets.label[valid])[covered]
            accuracy = float(right.mean())
            if accuracy > NODE_ACCURACY and accuracy - majority >= NODE_ERRORS_SAVED * (1 - majority) > 0:
                message = (
                    f"the {getattr(table.schema, other)!r} at the other end of {name!r} tells the class: "
                    f"accuracy {accuracy:.3f} for {covered.mean():.0%} of the validation nodes, the majority "
                    f"{majority:.3f}; fine if it is known when you predict, else leave the relation out of "
                    "graph.relations"
                )
                examples = targets.examples(tables, valid[covered])
                found = int(covered.sum())
                share = found / len(valid)
                yield Leak(targets.task, "class_by_neighbour", "warning", message, share, found, examples)
                break


def _kept_leak(tables: GraphTables, targets: Targets, asked: np.ndarray) -> Leak:
    message = (
        f"messages run over the validation and test edges of {targets.name!r} themselves "
        "(partition.keep_eval_edges): set it to false"
    )
    examples = targets.examples(tables, asked)
    return Leak(targets.task, "held_out_edges_kept", "warning", message, 1.0, len(asked), examples)


def _same_leak(tables: GraphTables, targets: Targets, joined: np.ndarray, share: float) -> Leak:
    several = " (the pair is in several splits)" if targets.classes else ""
    message = (
        f"{len(joined):,} ({share:.1%}) of the validation and test edges of {targets.name!r} join two nodes "
        f"that another edge of it joins, which carries messages{several}: put both edges "
        "of a pair into one split"
    )
    level = "warning" if share >= SAME_SHARE else "note"
    examples = targets.examples(tables, joined)
    return Leak(targets.task, "joined_by_same_relation", level, message, share, len(joined), examples)


def _other_leak(
    tables: GraphTables, targets: Targets, name: str, joined: np.ndarray, share: float, answers: float
) -> Leak:
    warning = share >= HALF or (share >= FIFTH and answers >= HALF)
    message = (
        f"{len(joined):,} ({share:.1%}) of the validation and test edges of {targets.name!r} join two nodes "
        f"that {name!r} joins; {answers:.1%} of the pairs of {name!r} are edges of {targets.name!r}"
    ) + ("; leave it out of graph.relations" if warning else "")
    examples, level = targets.examples(tables, joined), "warning" if warning else "note"
    return Leak(targets.task, "joined_by_other_relation", level, message, share, len(joined), examples)


def _most(labels: np.ndarray) -> int:
    return int(np.bincount(labels).argmax())


def _keys(tables: GraphTables, targets: Targets, ends: np.ndarray) -> np.ndarray:
    """int64: one number for each pair of rows."""
    return ends[:, 0] * len(tables.nodes[targets.types[1]].ids) + ends[:, 1]


def _pairs(tables: GraphTables, targets: Targets, table: EdgeTable, carries: np.ndarray) -> _Pairs:
    ends = np.stack([table.source, table.destination], axis=1)[carries]
    types = (table.schema.source, table.schema.destination)
    forward = ends if types == targets.types else ends[:0]
    backward = ends[:, ::-1] if types == targets.types[::-1] else ends[:0]
    return _Pairs(_keys(tables, targets, forward), _keys(tables, targets, backward))


def _votes(tables: GraphTables, targets: Targets, table: EdgeTable, own: str, other: str) -> sp.csr_matrix:
    """B x C: classes of the training targets at each target's neighbours, a neighbour's shares sum to 1."""
    kept = ~table.held_out
    nodes, neighbours = getattr(table, own)[kept], getattr(table, other)[kept]
    shape = (len(tables.nodes[targets.types[0]].ids), len(tables.nodes[getattr(table.schema, other)].ids))
    joined = sp.csr_matrix((np.ones(len(nodes)), (nodes, neighbours)), shape=shape)[targets.ends[:, 0]]
    train = targets.rows("train")
    shape = (len(train), len(targets.classes))
    classes = sp.csr_matrix((np.ones(len(train)), (np.arange(len(train)), targets.label[train])), shape=shape)
    return (joined @ normalize(joined[train].T @ classes, norm="l1")).tocsr()
