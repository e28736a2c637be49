"""Relations between packages: what the fields of the index mean, and which pairs are asked for.

Owns the choice among alternatives, the kinds of relations and the splits of edges. No text here.
"""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also under `python -P`

from aptlists import Lists, Paragraph
from graph_folder import pair_split

Pair = tuple[str, str]

FIELDS = {
    "depends": ("Depends", "Pre-Depends"),
    "recommends": ("Recommends",),
    "suggests": ("Suggests",),
    "enhances": ("Enhances",),
    "conflicts": ("Conflicts", "Breaks"),
}
KINDS = ("depends", "recommends", "suggests", "conflicts")
"""Classes of `relates_to`."""
BUILD_FIELDS = ("Build-Depends", "Build-Depends-Indep", "Build-Depends-Arch")
POPULAR = 300
"""Packages that more relations than this point to (libc6, python3) are no question worth asking."""
MESSAGE = "message"

_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9+.-]*)")


@dataclass(frozen=True)
class Relations:
    packages: Mapping[str, list[Pair]]
    """Field's relation -> (package, package), in order."""
    build_depends: list[Pair]
    """(source, package), in order."""
    asked: Mapping[str, Mapping[Pair, str]]
    """depends and recommends -> split of each pair."""
    relates_to: Mapping[Pair, tuple[str, str]]
    """Pair with one relation only -> (which of KINDS, split)."""


def source_of(package: Paragraph) -> str:
    """Name of the source that a package is built from, without the version."""
    return package.get("Source", package["Package"]).split()[0]


def find_relations(lists: Lists) -> Relations:
    """All relations; no package is related to itself."""
    providers = _providers(lists)
    found = {
        relation: _pairs(lists, fields, providers if relation != "conflicts" else {})
        for relation, fields in FIELDS.items()
    }
    built = {source_of(package) for package in lists.packages.values()}
    build_depends = sorted(
        (name, target)
        for name, source in lists.sources.items()
        if name in built
        for target in _targets(source, BUILD_FIELDS, lists, providers)
    )
    popularity = Counter(target for pairs in found.values() for _, target in pairs)
    worth = {
        (a, b)
        for pairs in found.values()
        for a, b in pairs
        if popularity[b] <= POPULAR and source_of(lists.packages[a]) != source_of(lists.packages[b])
    }
    asked = {
        relation: {
            pair: pair_split(*pair, train=0.8, valid=0.1) if pair in worth else MESSAGE
            for pair in found[relation]
        }
        for relation in ("depends", "recommends")
    }
    return Relations(found, build_depends, asked, _relates_to(found, worth))


def _relates_to(found: Mapping[str, Iterable[Pair]], worth: set[Pair]) -> dict[Pair, tuple[str, str]]:
    kinds: dict[Pair, list[str]] = defaultdict(list)
    for kind in KINDS:
        for pair in found[kind]:
            if pair in worth:
                kinds[pair].append(kind)
    return {
        pair: (kinds[pair][0], pair_split(*pair, train=0.6, valid=0.1))
        for pair in sorted(kinds)
        if len(kinds[pair]) == 1
    }


def _pairs(lists: Lists, fields: Iterable[str], providers: Mapping[str, str]) -> list[Pair]:
    return sorted(
        (name, target)
        for name, package in lists.packages.items()
        for target in _targets(package, fields, lists, providers)
        if target != name
    )


def _targets(
    paragraph: Paragraph, fields: Iterable[str], lists: Lists, providers: Mapping[str, str]
) -> set[str]:
    """Of each group of alternatives the first package that is real, else the first that is the only
    one to provide a virtual one; versions and architectures do not count."""
    chosen: set[str] = set()
    for group in ",".join(paragraph.get(field, "") for field in fields).split(","):
        matches = (_NAME.match(alternative) for alternative in group.split("|"))
        names = [match[1] for match in matches if match]
        real = [name for name in names if name in lists.packages]
        virtual = [providers[name] for name in names if name in providers]
        chosen.update((real or virtual)[:1])
    return chosen


def _providers(lists: Lists) -> dict[str, str]:
    """Virtual package -> the package that provides it, where there is just one."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, package in lists.packages.items():
        for provided in package.get("Provides", "").split(","):
            match = _NAME.match(provided)
            if match:
                found[match[1]].add(name)
    return {virtual: min(names) for virtual, names in found.items() if len(names) == 1}
