"""What is asked about the graph: which edges and modules are targets, their labels and their splits.

Owns the reasons why something is no question worth asking. Never touches a text.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from corpus import Corpus
from resolve import Pair, Relations
from wording import contains, name_words, own_words

POPULAR = 100
"""Targets used by more symbols than this (error classes, decorators) are no question worth asking."""
MODULES, SYMBOLS = 8, 60
"""A package is an area if it holds so many modules and so many symbols."""


@dataclass(frozen=True)
class UsesQuestions:
    splits: Mapping[Pair, str]
    """Edge of "uses", in order -> train, valid, test or message."""
    reasons: Mapping[str, int]
    """Why edges are no targets -> how many."""


@dataclass(frozen=True)
class AreaQuestions:
    """Symbols that are not in here have no label."""

    labels: Mapping[str, str]
    splits: Mapping[str, str]


def ask_uses(corpus: Corpus, relations: Relations) -> UsesQuestions:
    """All edges of `uses`. A subclass that names its base is none: `inherits` would reveal it."""
    uses = sorted(
        pair
        for pair in relations.uses
        if pair not in relations.inherits and pair[::-1] not in relations.inherits
    )
    popularity = Counter(target for _, target in uses)
    splits: dict[Pair, str] = {}
    reasons: Counter[str] = Counter()
    for pair in uses:
        reason = _no_question(pair, corpus, popularity[pair[1]])
        reasons[reason or "target"] += 1
        splits[pair] = "message" if reason else edge_split(pair)
    return UsesQuestions(splits, reasons)


def _no_question(pair: Pair, corpus: Corpus, popularity: int) -> str:
    """Why a pair carries messages only; "" if it may be asked for."""
    source, target = (corpus.symbols[end] for end in pair)
    if popularity > POPULAR:
        return "popular target"
    if _top_class(source.id) and _top_class(source.id) == _top_class(target.id):
        return "same class"
    words = name_words(target.name)
    if not words or contains(own_words(source), words):
        return "name within the source's name"
    return ""


def _top_class(symbol: str) -> str:
    """Id up to the outermost name: shared by a class, its methods and its nested classes."""
    module, _, path = symbol.partition(":")
    return f"{module}:{path.partition('.')[0]}"


def ask_areas(corpus: Corpus) -> AreaQuestions:
    """The area of each symbol: the smallest package around its module that is large enough."""
    area_of = _areas(corpus)
    sizes = Counter(area_of[symbol.module] for symbol in corpus.symbols.values())
    labels = {
        symbol.id: area_of[symbol.module]
        for symbol in corpus.symbols.values()
        if area_of[symbol.module] and sizes[area_of[symbol.module]] >= SYMBOLS
    }
    return AreaQuestions(labels, {name: area_split(name) for name in labels})


def _areas(corpus: Corpus) -> dict[str, str]:
    """Module -> its area; "" for none."""
    inside = Counter(symbol.module for symbol in corpus.symbols.values())
    modules: Counter[str] = Counter()
    symbols: Counter[str] = Counter()
    for name in corpus.modules:
        for package in _around(name):
            modules[package] += 1
            symbols[package] += inside[name]
    return {
        name: next((p for p in _around(name) if modules[p] >= MODULES and symbols[p] >= SYMBOLS), "")
        for name in corpus.modules
    }


def _around(module: str) -> list[str]:
    """a.b.c, a.b, a"""
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]


def edge_split(pair: Pair) -> str:
    """70 % train, 10 % valid, 20 % test. Both directions of a pair fall into the same split, so
    that a -> b in training does not tell b -> a in the test."""
    draw = _draw("\0".join(sorted(pair)))
    return "train" if draw < 0.7 else "valid" if draw < 0.8 else "test"


def area_split(symbol: str) -> str:
    """60 % train, 15 % valid, 25 % test; a class and all inside it share their split."""
    draw = _draw(_top_class(symbol))
    return "train" if draw < 0.6 else "valid" if draw < 0.75 else "test"


def _draw(key: str) -> float:
    """Number in [0, 1) that depends on the key alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
