"""A name -> factory table with helpful errors. Nothing else."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Generic, TypeVar

from partition.errors import UsageError

T = TypeVar("T")


class Registry(Generic[T]):
    """`@TABLE.add("name")` registers; `TABLE["name"]` finds, or names the known ones."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._items: dict[str, T] = {}

    def add(self, name: str) -> Callable[[T], T]:
        if name in self._items:
            raise ValueError(f"{self._what} {name!r} is registered twice")

        def register(item: T) -> T:
            self._items[name] = item
            return item

        return register

    def __getitem__(self, name: str) -> T:
        if name not in self._items:
            known = sorted(self._items, key=lambda n: -difflib.SequenceMatcher(a=n, b=name).ratio())
            raise UsageError(f"unknown {self._what} {name!r}; known: {', '.join(known)}")
        return self._items[name]

    def __contains__(self, name: str) -> bool:
        return name in self._items
