"""Changes a few keys of one table in the text of graph.toml; every other line stays as its author wrote it.

Owns how a table and a key are found in the text. Never decides on a value; each change is read back.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from partition.errors import UsageError
from partition.guess_columns import Line
from partition.guess_toml import entry, plain
from partition.schema import GraphSchema, parse_schema


def ideas(text: str, kind: str, name: str, key: str) -> list[str]:
    """Values that `lmgnn init` proposes for a key of a table as comments: `# label = "topic"  # 5 values`."""
    lines = text.splitlines()
    first, last = _section(lines, kind, name)
    found = []
    for line in lines[first:last]:
        if _idea(key).match(line):
            try:
                value = tomllib.loads(line.lstrip().removeprefix("#"))[key]
            except tomllib.TOMLDecodeError:
                continue
            found += [value] if isinstance(value, str) else []
    return found


def set_keys(text: str, kind: str, name: str, keys: Sequence[Line], *, where: str) -> str:
    """The text with some string keys of [kind.name] set, whether they were there or not.

    UsageError where the table is written in a way that cannot be changed line by line.
    """
    lines = text.splitlines()
    first, last = _section(lines, kind, name)
    head, body, tail = lines[:first], lines[first:last], lines[last:]
    for key in keys:
        body = _with_key(body, key)
    edited = "\n".join([*_without_split_notes(head), *body, *tail]) + "\n"
    wanted = {key.key: key.value for key in keys}
    try:
        same = first > 0 and parse_schema(edited, where=where) == _changed(text, kind, name, wanted, where)
    except UsageError:
        same = False
    if not same:
        told = ", ".join(entry(key) for key in keys)
        raise UsageError(
            f"{where}: [{kind}.{name}] is written in a way that cannot be changed from here",
            hint=f"write it as a table with a line for each key, or set {told} yourself",
        )
    return edited


def _changed(text: str, kind: str, name: str, wanted: Mapping[str, object], where: str) -> GraphSchema:
    schema = parse_schema(text, where=where)
    values = {key: (value,) if key == "path" else value for key, value in wanted.items()}
    if kind == "nodes":
        nodes = tuple(replace(t, **values) if t.name == name else t for t in schema.nodes)  # type: ignore[arg-type]
        return replace(schema, nodes=nodes)
    edges = tuple(replace(t, **values) if t.name == name else t for t in schema.edges)  # type: ignore[arg-type]
    return replace(schema, edges=edges)


def _section(lines: Sequence[str], kind: str, name: str) -> tuple[int, int]:
    """(first line below the table's header, first line behind the table); (0, 0) if it is not there."""
    headers = {number: _header(line) for number, line in enumerate(lines)}
    starts = [number for number, header in headers.items() if header is not None]
    starts += [number for number, line in enumerate(lines) if re.match(r"\s*#\s*\[", line)]
    first = next((n + 1 for n, header in headers.items() if header == {kind: {name: {}}}), 0)
    if not first:
        return 0, 0
    last = min((number for number in starts if number >= first), default=len(lines))
    while (
        last > first and re.match(r"\s*(#|$)", lines[last - 1]) and not _idea(r"\w+").match(lines[last - 1])
    ):
        last -= 1  # ideas belong to this table, other comments to the next one
    return first, last


def _header(line: str) -> dict[str, object] | None:
    if not line.lstrip().startswith("["):
        return None
    try:
        return tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return None


def _idea(key: str) -> re.Pattern[str]:
    return re.compile(rf"\s*#\s*{key}\s*=")


def _with_key(body: Sequence[str], key: Line) -> list[str]:
    """The lines of a table with a key set in its place, or behind its last key; ideas for it are gone."""
    row = f"{entry(key)}  # {plain(key.why)}" if key.why else entry(key)
    kept = [line for line in body if not _idea(key.key).match(line)]
    for number, line in enumerate(kept):
        if re.match(rf"\s*{key.key}\s*=", line):
            return [*kept[:number], row, *kept[number + _rows(kept[number:]) :]]
    ends = [n + _rows(kept[n:]) for n, line in enumerate(kept) if re.match(r"\s*[A-Za-z_]+\s*=", line)]
    behind = max(ends, default=0)
    return [*kept[:behind], row, *kept[behind:]]


def _rows(lines: Sequence[str]) -> int:
    """How many lines the value at the first of them takes."""
    for count in range(1, len(lines) + 1):
        try:
            tomllib.loads("\n".join(lines[:count]))
        except tomllib.TOMLDecodeError:
            continue
        return count
    return 1


def _without_split_notes(head: Sequence[str]) -> list[str]:
    """The lines above a table's header, without the note of `lmgnn init` that a split is missing."""
    above = len(head) - 1
    while above > 0 and head[above - 1].startswith("#"):
        above -= 1
    return [*head[:above], *(line for line in head[above:] if "without a split cannot be" not in line)]
