"""Ranking examples for the report: what the pretrained LM ranked first, and what the trained model does.

Owns the joining of report/before.json and report/after.json and the look-up of their texts in the
graph's tables. Never ranks anything, never writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from partition.errors import LMGNNError
from pipeline.report.nodetexts import Texts, node_texts, one_line

_QUERY_LETTERS = 260
_CANDIDATE_LETTERS = 110


@dataclass(frozen=True)
class Candidate:
    """One ranked node; `text` is empty where the node has none or the tables could not be read."""

    id: str
    text: str
    score: float
    true: bool


@dataclass(frozen=True)
class Ranking:
    rank: int
    """Of the true answer, from 1."""
    best: tuple[Candidate, ...]


@dataclass(frozen=True)
class Example:
    """One question of the test split and its answers before and after training."""

    relation: str
    query: str
    query_text: str
    true: str
    true_text: str
    candidates: int
    """How many were ranked; 0 where not recorded."""
    before: Ranking
    after: Ranking

    @property
    def true_is_listed(self) -> bool:
        return any(candidate.true for side in (self.before, self.after) for candidate in side.best)


def read_examples(before: Any, after: Any, graph: str, missing: list[str]) -> tuple[Example, ...]:
    """Join two parsed files; `graph` is the folder or URL of graph.toml.

    What cannot be shown is told in `missing`: incomplete entries are left out, and without the tables
    ids stand alone.
    """
    if not (before and after):
        return ()
    earlier = {_key(entry): entry for entry in _entries(before)}
    pairs = [(earlier[_key(e)], e) for e in _entries(after) if _key(e) in earlier]
    left_out = max(len(before), len(after)) - len(pairs)
    if left_out:
        missing.append(f"{left_out} ranking examples are incomplete and left out.")
    texts: Texts = {}
    if pairs:
        try:
            texts = node_texts(graph, _wanted([entry for pair in pairs for entry in pair]))
        except (LMGNNError, OSError, ValueError, ImportError) as error:
            missing.append(f"Texts of the ranking examples could not be read, ids stand alone: {error}.")
    return tuple(_example(first, last, texts) for first, last in pairs)


def _key(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(entry["relation"]), str(entry["query"]), str(entry["true"])


def _entries(raw: Any) -> list[Mapping[str, Any]]:
    """Those that hold all a reader needs."""
    good = []
    for entry in raw if isinstance(raw, list) else ():
        try:
            _key(entry), entry["source_type"], entry["destination_type"]
            if _ranking(entry, {}).best:
                good.append(entry)
        except (KeyError, TypeError, ValueError):
            continue
    return good


def _ranking(entry: Mapping[str, Any], texts: Texts) -> Ranking:
    ends = entry["destination_type"]
    best = [
        Candidate(
            id=str(item["id"]),
            text=one_line(texts.get((ends, str(item["id"])), ""), _CANDIDATE_LETTERS),
            score=float(item["score"]),
            true=bool(item["true"]),
        )
        for item in entry["best"]
    ]
    return Ranking(int(entry["rank"]), tuple(best))


def _example(first: Mapping[str, Any], last: Mapping[str, Any], texts: Texts) -> Example:
    relation, query, true = _key(last)
    return Example(
        relation=relation,
        query=query,
        query_text=one_line(texts.get((last["source_type"], query), ""), _QUERY_LETTERS),
        true=true,
        true_text=one_line(texts.get((last["destination_type"], true), ""), _CANDIDATE_LETTERS),
        candidates=int(last.get("candidates") or 0),
        before=_ranking(first, texts),
        after=_ranking(last, texts),
    )


def _wanted(entries: Sequence[Mapping[str, Any]]) -> dict[str, set[str]]:
    """Every node that the entries name, by type."""
    wanted: dict[str, set[str]] = {}
    for entry in entries:
        wanted.setdefault(entry["source_type"], set()).add(str(entry["query"]))
        ends = wanted.setdefault(entry["destination_type"], set())
        ends |= {str(entry["true"]), *(str(item["id"]) for item in entry["best"])}
    return wanted
