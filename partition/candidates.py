"""Earlier partitions that a new one may go on with, by their manifests alone, in the order of trying.

Owns these rules. Whether the nodes are found there is for reuse.py. Never opens a data file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from partition.earlier import Earlier
from partition.keys import CUT_OPTIONS, levels
from partition.regroup import CLUSTERS_OF_A_PART

NEW_LIMIT = 0.10
"""Share of nodes new or gone since the last cut; beyond, most of what METIS found out is out of date."""
CUTS_CHEAPLY = ("random",)
"""Methods that cost nothing and whose cuts must stay what they are called."""


@dataclass(frozen=True)
class Wanted:
    """A graph that is to be cut, as far as manifests know others."""

    name: str
    """Of the graph, in graph.toml."""
    options: Mapping[str, Any]
    keys: Mapping[str, str]
    """Content keys, see keys.py."""
    counts: Mapping[str, int]
    """Node type -> nodes."""
    relations: frozenset[str]
    """Those of graph.toml, without reverses."""

    @property
    def parts(self) -> int:
        return int(self.options["hosts"] * self.options["trainers"])


def kept(wanted: Wanted, earlier: Sequence[Earlier]) -> list[Earlier]:
    """Those with the same nodes, edges and settings of the cut; most of what else is the same comes first."""

    def worth(candidate: Earlier) -> tuple[bool, int]:
        keys = candidate.manifest.keys
        return not candidate.manifest.parent, sum(keys.get(k) == v for k, v in wanted.keys.items())

    same = [e for e in earlier if e.manifest.keys.get("structure") == wanted.keys["structure"]]
    return sorted(same, key=worth, reverse=True)


def regrouped(wanted: Wanted, earlier: Sequence[Earlier]) -> list[Earlier]:
    """Those with the same nodes and edges for other numbers of hosts or trainers, cut afresh ones first."""
    same = [
        e
        for e in earlier
        if e.manifest.keys.get("graph") == wanted.keys["graph"] and _same_options(e, wanted)
    ]
    return sorted(same, key=lambda e: bool(e.manifest.parent))


def enough_clusters(wanted: Wanted, parent: Earlier) -> bool:
    """Whether parts can be put together out of them."""
    return sum(parent.manifest.clusters) >= CLUSTERS_OF_A_PART * wanted.parts


def extended(wanted: Wanted, earlier: Sequence[Earlier]) -> list[Earlier]:
    """Those of an earlier state of the graph by names and settings, in the order given."""
    return [e for e in earlier if _same_graph(e, wanted)]


def near(wanted: Wanted, parent: Earlier) -> bool:
    """Whether nodes new and gone since the last cut may be few enough, by their numbers."""
    before = parent.manifest.reuse
    change = sum(abs(wanted.counts[t.name] - t.count) for t in parent.manifest.node_types)
    return change + max(before.new, before.gone) <= NEW_LIMIT * sum(wanted.counts.values())


def with_tokens(wanted: Wanted, earlier: Sequence[Earlier]) -> list[Earlier]:
    """Those that have all tokens of a node type, in the order given."""
    tokens = {k: v for k, v in wanted.keys.items() if k.startswith("nodes/") and k.endswith("/tokens")}
    return [e for e in earlier if any(e.manifest.keys.get(k) == v for k, v in tokens.items())]


def _same_options(candidate: Earlier, wanted: Wanted) -> bool:
    if wanted.options["method"] in CUTS_CHEAPLY:
        return False
    return all(candidate.manifest.options.get(name) == wanted.options[name] for name in CUT_OPTIONS)


def _same_graph(candidate: Earlier, wanted: Wanted) -> bool:
    manifest = candidate.manifest
    return (
        manifest.schema_name == wanted.name
        and {t.name for t in manifest.node_types} == set(wanted.counts)
        and {r.name for r in manifest.relations if not r.is_reverse} == wanted.relations
        and levels(manifest.options) == levels(wanted.options)
        and _same_options(candidate, wanted)
    )
