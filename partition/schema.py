"""What graph.toml says: node types, relations and the columns that matter, as frozen dataclasses.

Owns the keys of graph.toml, their defaults and the rules for names. Never opens a table.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from partition.errors import UsageError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
"""File names, DGL's `source:relation:destination` and `type/feature` keys are made of names."""


@dataclass(frozen=True)
class NodeSchema:
    """One node type's tables and columns; an empty string or tuple = the type has no such thing."""

    name: str
    path: tuple[str, ...]
    """Files, globs or URLs; relative ones count from the folder of graph.toml."""
    id: str
    text: str = ""
    label: str = ""
    split: str = ""
    features: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        return _columns(self.id, self.text, self.label, self.split, *self.features)


@dataclass(frozen=True)
class EdgeSchema:
    """One relation's tables and columns."""

    name: str
    path: tuple[str, ...]
    source: str
    destination: str
    source_id: str = "src_id"
    destination_id: str = "dst_id"
    label: str = ""
    split: str = ""
    features: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    reverse: bool | str | None = None
    """Whether to store the edges turned round, or the name for them; None = as the build says."""

    @property
    def id_columns(self) -> tuple[str, str]:
        return self.source_id, self.destination_id

    @property
    def columns(self) -> tuple[str, ...]:
        return _columns(self.source_id, self.destination_id, self.label, self.split, *self.features)

    def reverse_name(self, *, default: bool) -> str:
        """Name of the relation that holds the reversed edges; empty if there is none."""
        if isinstance(self.reverse, str):
            return self.reverse
        wanted = default if self.reverse is None else self.reverse
        return f"rev_{self.name}" if wanted else ""


@dataclass(frozen=True)
class GraphSchema:
    """A whole graph.toml."""

    name: str
    nodes: tuple[NodeSchema, ...]
    edges: tuple[EdgeSchema, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def select(self, relations: Sequence[str]) -> GraphSchema:
        """The schema with these relations only, in the file's order; none named = all of them.

        Node types stay, whether a relation touches them or not. UsageError for a name that is unknown or
        given twice.
        """
        known = [edge.name for edge in self.edges]
        for name in relations:
            if list(relations).count(name) > 1:
                raise UsageError(f"relations names {name!r} twice", hint="name it once")
            if name not in known:
                raise UsageError(
                    f"the graph {self.name!r} has no relation {name!r}{nearest(name, known)}",
                    hint=f"it has {', '.join(known)}",
                )
        if not relations:
            return self
        return replace(self, edges=tuple(edge for edge in self.edges if edge.name in relations))

    def check_names(self, *, reverse: bool) -> None:
        """UsageError if a reverse relation's name is already taken."""
        taken = {edge.name: f"[edges.{edge.name}]" for edge in self.edges}
        for edge in self.edges:
            name = edge.reverse_name(default=reverse)
            if name in taken:
                raise UsageError(
                    f"[edges.{edge.name}]: its reverse {name!r} has the name of {taken[name]}",
                    hint='give it another one: reverse = "NAME"',
                )
            if name:
                taken[name] = f"the reverse of [edges.{edge.name}]"


def nearest(name: str, known: Collection[str]) -> str:
    """`; did you mean 'x'?`, or nothing if no known name is like it."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def parse_schema(text: str, *, where: str) -> GraphSchema:
    """Read graph.toml; UsageError names the file, the table and the key."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where}: not TOML: {error}") from None
    _known_keys(raw, ("name", "nodes", "edges"), where)
    nodes = tuple(
        _node(name, table, f"{where}: [nodes.{name}]") for name, table in _tables(raw, "nodes", where)
    )
    edges = tuple(
        _edge(name, table, f"{where}: [edges.{name}]", [node.name for node in nodes])
        for name, table in _tables(raw, "edges", where)
    )
    schema = GraphSchema(_string(raw, "name", where, default="graph"), nodes, edges)
    schema.check_names(reverse=False)
    return schema


def _columns(*names: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in names if name))


def _tables(raw: Mapping[str, Any], key: str, where: str) -> list[tuple[str, Mapping[str, Any]]]:
    tables = raw.get(key, {})
    if not isinstance(tables, Mapping) or not tables:
        raise UsageError(f"{where}: no [{key}.NAME] table", hint="a graph has one or more of them")
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            raise UsageError(f"{where}: {key}.{name} = {table!r}: expected a table [{key}.{name}]")
        _name(name, f"{where}: [{key}.{name}]")
    return list(tables.items())


def _node(name: str, raw: Mapping[str, Any], where: str) -> NodeSchema:
    _known_keys(raw, ("path", "id", "text", "label", "split", "features", "classes"), where)
    return NodeSchema(
        name=name,
        path=_strings(raw, "path", where, required=True),
        id=_string(raw, "id", where, default="id"),
        text=_string(raw, "text", where),
        label=_string(raw, "label", where),
        split=_string(raw, "split", where),
        features=_strings(raw, "features", where),
        classes=_classes(raw, where),
    )


def _edge(name: str, raw: Mapping[str, Any], where: str, node_types: Sequence[str]) -> EdgeSchema:
    keys = ("path", "source", "destination", "source_id", "destination_id")
    _known_keys(raw, (*keys, "label", "split", "features", "classes", "reverse"), where)
    ends = {}
    for key in ("source", "destination"):
        ends[key] = _string(raw, key, where)
        if ends[key] not in node_types:
            raise UsageError(
                f"{where}: {key} = {ends[key]!r} is not a node type{nearest(ends[key], node_types)}",
                hint=f"the file has {', '.join(node_types)}",
            )
    return EdgeSchema(
        name=name,
        path=_strings(raw, "path", where, required=True),
        source=ends["source"],
        destination=ends["destination"],
        source_id=_string(raw, "source_id", where, default="src_id"),
        destination_id=_string(raw, "destination_id", where, default="dst_id"),
        label=_string(raw, "label", where),
        split=_string(raw, "split", where),
        features=_strings(raw, "features", where),
        classes=_classes(raw, where),
        reverse=_reverse(raw, where),
    )


def _reverse(raw: Mapping[str, Any], where: str) -> bool | str | None:
    value = raw.get("reverse")
    if value is None or isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise UsageError(f"{where}: reverse = {value!r}: expected true, false or a name")
    _name(value, f"{where}: reverse")
    return value


def _classes(raw: Mapping[str, Any], where: str) -> tuple[str, ...]:
    classes = _strings(raw, "classes", where)
    if classes and "label" not in raw:
        raise UsageError(f"{where}: classes without a label column", hint='add label = "COLUMN"')
    if len(set(classes)) < len(classes):
        raise UsageError(f"{where}: classes names a class twice")
    return classes


def _known_keys(raw: Mapping[str, Any], known: Collection[str], where: str) -> None:
    for key in raw:
        if key not in known:
            raise UsageError(
                f"{where}: unknown key {key!r}{nearest(key, known)}", hint=f"known: {', '.join(known)}"
            )


def _name(name: str, where: str) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(f"{where}: {name!r} cannot be a name", hint="use letters, digits, '_', '-' and '.'")


def _string(raw: Mapping[str, Any], key: str, where: str, *, default: str = "") -> str:
    value = raw.get(key, default)
    if not isinstance(value, str):
        raise UsageError(f"{where}: {key} = {value!r}: expected a string")
    return value


def _strings(raw: Mapping[str, Any], key: str, where: str, *, required: bool = False) -> tuple[str, ...]:
    value = raw.get(key, [])
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(item, str) and item for item in values):
        raise UsageError(f"{where}: {key} = {value!r}: expected a string or a list of strings")
    if required and not values:
        raise UsageError(f"{where}: {key} is missing")
    return tuple(values)
