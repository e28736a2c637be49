"""Parsed TOML or JSON -> dataclasses, with errors that name the key and the nearest known one.

Standard library only. Owns type checks; ranges belong to the dataclasses themselves.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from partition.errors import UsageError

T = TypeVar("T")


class ValueProblem(UsageError):
    """A value out of range, told by a dataclass that does not know what its table is called in the plan."""


def nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known) or 'none'}"


def check(condition: bool, key: str, value: object, expected: str) -> None:
    """UsageError unless the condition holds."""
    if not condition:
        raise UsageError(f"{key} = {value!r}: expected {expected}")


def check_named(condition: bool, key: str, value: object, expected: str) -> None:
    """`check` of a key in a table that the file gives a name: `build` puts that in front."""
    if not condition:
        raise ValueProblem(f"{key} = {value!r}: expected {expected}")


def distinct(names: tuple[str, ...]) -> bool:
    return len(set(names)) == len(names)


def build(cls: type[T], raw: object, where: str) -> T:
    """Fill a dataclass from parsed TOML or JSON; unknown, missing and mistyped keys are errors."""
    if not isinstance(raw, Mapping):
        raise UsageError(f"{where or 'the plan'}: expected a table, found {raw!r}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values = {}
    for key, value in raw.items():
        if key not in fields:
            raise UsageError(f"{where}{key}: unknown key{nearest(key, fields)}")
        values[key] = _convert(hints[key], value, f"{where}{key}")
    for name, item in fields.items():
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise UsageError(f"{where}{name} is missing")
    try:
        return cls(**values)
    except ValueProblem as error:
        raise UsageError(f"{where}{error.args[0]}") from None


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, f"{where}.")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UsageError(f"{where} = {value!r}: expected a list")
        return tuple(_convert(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is not None and origin not in (types.UnionType, typing.Union):
        if not isinstance(value, Mapping):
            raise UsageError(f"{where} = {value!r}: expected a table")
        return {str(k): _convert(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UsageError(f"{where} = {value!r}: expected {hint.__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{where} = {value!r}: expected a finite number")
    return value
