"""What a build would most likely go on with, by the manifests of earlier partitions alone.

Owns the guess. Whether it holds is decided by reuse.py, once the tables are read. Never opens a data file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from partition.candidates import CUTS_CHEAPLY, NEW_LIMIT
from partition.earlier import Earlier
from partition.keys import CUT_OPTIONS, levels, tokenizer_key
from partition.regroup import CLUSTERS_OF_A_PART
from partition.request import Request

_SAME_EDGES = ("keep_eval_edges", "relations", "bad_rows", "bad_rows_cap")
"""Options that decide which rows of the tables are edges, besides the tables."""


@dataclass(frozen=True)
class Likely:
    """What would be reused."""

    how: str = ""
    """kept, regrouped or extended; empty: the graph is cut afresh."""
    parent: str = ""
    certain: bool = True
    """False: it depends on what is in the tables."""
    why: str = "nothing of the store fits"
    tokens: frozenset[str] = frozenset()
    """Node types of whose texts some tokens are there."""


def likely(request: Request, counts: Mapping[str, int], earlier: Sequence[Earlier]) -> Likely:
    """The best of `earlier` partitions, newest first; `counts`: rows of `nodes.TYPE` and `edges.RELATION`."""
    tokens = frozenset(
        node.name
        for node in request.schema.nodes
        if node.text and request.tokenizer_key and any(_has_tokens(e, request, node.name) for e in earlier)
    )
    guesses = [guess for e in earlier if (guess := _guess(e, request, counts)) is not None]
    order = ["kept", "regrouped", "extended"]
    guesses.sort(key=lambda guess: (not guess.certain, order.index(guess.how)))  # newest first stays
    best = guesses[0] if guesses else Likely()
    return Likely(best.how, best.parent, best.certain, best.why, tokens)


def _has_tokens(earlier: Earlier, request: Request, node_type: str) -> bool:
    key = tokenizer_key(request.tokenizer_key, request.options["max_length"])
    return earlier.manifest.keys.get(f"nodes/{node_type}/tokenizer") == key


def _guess(earlier: Earlier, request: Request, counts: Mapping[str, int]) -> Likely | None:
    options, before = request.options, earlier.manifest.options
    if not _same_schema(earlier, request) or any(before.get(k) != options[k] for k in CUT_OPTIONS):
        return None
    same_levels = levels(before) == levels(options)
    if not same_levels and options["method"] in CUTS_CHEAPLY:
        return None
    enough = sum(earlier.manifest.clusters) >= CLUSTERS_OF_A_PART * options["hosts"] * options["trainers"]
    if earlier.manifest.inputs == request.inputs and _same_ends(before, options):
        if same_levels:
            return Likely("kept", earlier.id, True, "the tables and the settings of the cut are the same")
        return Likely("regrouped", earlier.id, True, "the tables are the same") if enough else None
    if _counts(earlier) == {name: counts[name] for name in _counts(earlier)}:
        why = "there are as many nodes and edges; if they are the same ones"
        if same_levels:
            return Likely("kept", earlier.id, False, why)
        return Likely("regrouped", earlier.id, False, why) if enough else None
    if same_levels and options["method"] not in CUTS_CHEAPLY and _close(earlier, counts):
        why = f"if no more than {NEW_LIMIT:.0%} of the nodes are new, or gone, since the last cut"
        return Likely("extended", earlier.id, False, why)
    return None


def _same_ends(before: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
    return all(before.get(name) == options.get(name) for name in _SAME_EDGES)


def _same_schema(earlier: Earlier, request: Request) -> bool:
    """Whether types, relations and the columns of their ids are the same, by name."""
    manifest, schema = earlier.manifest, request.schema
    return (
        manifest.schema_name == schema.name
        and {t.name: t.id_column for t in manifest.node_types} == {n.name: n.id for n in schema.nodes}
        and {r.name: r.id_columns for r in manifest.relations if not r.is_reverse}
        == {e.name: e.id_columns for e in schema.edges}
    )


def _counts(earlier: Earlier) -> dict[str, int]:
    """Nodes of each type, and rows of the relations whose rows the manifest counts all."""
    manifest = earlier.manifest
    found = {f"nodes.{t.name}": t.count for t in manifest.node_types}
    return found | {
        f"edges.{r.name}": r.count for r in manifest.relations if not r.is_reverse and not r.targets
    }


def _close(earlier: Earlier, counts: Mapping[str, int]) -> bool:
    types = earlier.manifest.node_types
    total = sum(counts[f"nodes.{t.name}"] for t in types)
    before = earlier.manifest.reuse
    change = sum(abs(counts[f"nodes.{t.name}"] - t.count) for t in types)
    return change + max(before.new, before.gone) <= NEW_LIMIT * total
