"""What of earlier partitions a new one goes on with: kept as it is, regrouped, or extended by what is new.

Owns the order, and whether nodes are found as manifests promise (candidates.py). Never writes, and never cuts
a graph of nodes.

    kept       the same nodes, edges and settings of the cut: labels, texts or features may differ
    regrouped  the same nodes and edges for other numbers of hosts or trainers
    extended   the same graph by name, types and relations, a tenth of its nodes new or gone at most

Shape letters: N nodes over all types, in the order of types and rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from partition import candidates
from partition.assign import LevelChoice, within_parts
from partition.candidates import NEW_LIMIT
from partition.csr import cut_share
from partition.earlier import Earlier, Places, places
from partition.errors import StoreError
from partition.extend import place_new
from partition.regroup import regroup
from partition.sought import Sought
from partition.storage import disk_is_full

Say = Callable[[str], None]

_ANOTHER_GRAPH = 0.10
"""So much more of the edges cut, and the names are the same but the graph is not."""


@dataclass(frozen=True)
class Inherited:
    """An assignment that comes from an earlier partition."""

    parent: Earlier
    how: str
    """kept, regrouped or extended."""
    part: np.ndarray
    """int32 N."""
    cluster: np.ndarray
    """int32 N, within the part."""
    old: Mapping[str, np.ndarray]
    """Type -> int32, id in the parent of each row, -1 for a node that is new."""
    new: int = 0
    """Nodes new since the parent."""
    gone: int = 0
    choices: tuple[LevelChoice, ...] = ()
    """Levels that were cut anew."""


def inherit(sought: Sought, earlier: Sequence[Earlier], say: Say) -> Inherited | None:
    """The best that the store has for a graph, None where it must be cut; `earlier` is newest first."""
    for search in (_kept, _regrouped, _extended):
        if (found := next(search(sought, earlier, say), None)) is not None:
            return found
    return None


def _kept(sought: Sought, earlier: Sequence[Earlier], say: Say) -> Iterator[Inherited]:
    for parent in candidates.kept(sought.wanted, earlier):
        if (where := _places(parent, sought, say)) is None:
            continue
        part, cluster = _joined(where)
        cluster = within_parts(part, cluster, sought.parts)
        say(f"the cut of {parent.id} is kept: nodes, edges and settings of the cut are the same")
        yield Inherited(parent, "kept", part, cluster, {name: w.old for name, w in where.items()})


def _regrouped(sought: Sought, earlier: Sequence[Earlier], say: Say) -> Iterator[Inherited]:
    options, wanted = sought.options, sought.wanted
    for parent in candidates.regrouped(wanted, earlier):
        clusters = sum(parent.manifest.clusters)
        if not candidates.enough_clusters(wanted, parent):
            say(
                f"{parent.id} has {clusters} clusters, too few to make {sought.parts} parts of: not regrouped"
            )
            continue
        if (where := _places(parent, sought, say)) is None:
            continue
        say(f"regrouping the {clusters:,} clusters of {parent.id}: nodes and edges are the same")
        made = regroup(
            sought.graph,
            sought.weights,
            _joined(where)[1],
            hosts=options["hosts"],
            trainers=options["trainers"],
            method=options["method"],
            seed=options["seed"],
            memory=sought.memory,
        )
        old = {name: w.old for name, w in where.items()}
        yield Inherited(parent, "regrouped", made.part, made.cluster, old, choices=made.choices)


def _extended(sought: Sought, earlier: Sequence[Earlier], say: Say) -> Iterator[Inherited]:
    for parent in candidates.extended(sought.wanted, earlier):
        if (where := _places(parent, sought, say)) is None:
            continue
        new = sum(int((w.old < 0).sum()) for w in where.values())
        gone = sum(w.gone for w in where.values())
        if (refusal := _too_different(parent, sought, new, gone)) is not None:
            say(f"{parent.id} is not extended: {refusal}")
            continue
        part, cluster = place_new(sought.graph, sought.weights, *_joined(where), sought.parts)
        share, before = cut_share(sought.graph, part), parent.manifest.stats["cut"]["parts"]
        if share > before + _ANOTHER_GRAPH:
            say(f"{parent.id} is not extended: it would cut {share:.1%} of the edges, not {before:.1%}")
            continue
        say(f"extending {parent.id}: {new:,} nodes new, {gone:,} gone, all others stay in their clusters")
        old = {name: w.old for name, w in where.items()}
        yield Inherited(parent, "extended", part, cluster, old, new, gone)


def _too_different(parent: Earlier, sought: Sought, new: int, gone: int) -> str | None:
    """Why an earlier state is too long ago, None if it is not; what came in between counts as well."""
    before = parent.manifest.reuse
    total = sum(sought.counts)
    for count, what in ((new + before.new, "new"), (gone + before.gone, "gone")):
        if count > NEW_LIMIT * total:
            return (
                f"{count:,} nodes are {what} since the last cut, more than {NEW_LIMIT:.0%} of {total:,}; "
                "a cut made for the others would not fit"
            )
    return None


def _places(parent: Earlier, sought: Sought, say: Say) -> dict[str, Places] | None:
    try:
        room = sought.room
        return {name: places(parent, name, table.ids, room) for name, table in sought.tables.nodes.items()}
    except (StoreError, OSError) as error:
        if disk_is_full(error):  # by ids that are being looked up: a fresh cut needs more
            raise
        say(f"{parent.id} is not reused: {str(error).splitlines()[0]}")
        return None


def _joined(where: Mapping[str, Places]) -> tuple[np.ndarray, np.ndarray]:
    """(part, cluster counted through all parts) of the nodes of all types, int32 N."""
    every = list(where.values())
    return np.concatenate([w.part for w in every]), np.concatenate([w.cluster for w in every])
