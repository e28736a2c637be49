"""Tables of a folder -> a guessed graph: which are nodes, which are edges, and what their columns are.

Owns the order of the decisions. Only what was found true for all rows is sure; all else is kept as an idea
with its reason. Never writes a file. Names of columns and files break ties between values that fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from partition.guess_columns import (
    LABEL_NAMES,
    IdColumn,
    Line,
    column_lines,
    id_column,
    normal,
    thing,
    unused_note,
)
from partition.guess_ends import (
    End,
    ends_by_values,
    find_end,
    foreign_keys,
    hint_of_column,
    hint_of_name,
    hints_of_file,
    named_ends,
)
from partition.guess_files import FoundTable, Survey


@dataclass(frozen=True)
class TableGuess:
    """One [nodes.x] or [edges.x] of graph.toml."""

    kind: str
    """nodes or edges."""
    name: str
    table: FoundTable
    lines: tuple[Line, ...]
    sure: bool = True
    """False: the whole table is written as a comment."""
    notes: tuple[str, ...] = ()
    """Written above it."""

    def value(self, key: str) -> str:
        """A key's sure value, or an empty string."""
        return next((str(line.value) for line in self.lines if line.key == key and line.sure), "")


@dataclass(frozen=True)
class GraphGuess:
    """A whole graph.toml."""

    name: str
    tables: tuple[TableGuess, ...]
    left_out: tuple[str, ...]
    """A sentence on each file that is in no table."""

    def of(self, kind: str) -> tuple[TableGuess, ...]:
        """The sure tables of a kind."""
        return tuple(table for table in self.tables if table.kind == kind and table.sure)


@dataclass
class _Roles:
    """What each table is, while it is being found out."""

    nodes: dict[str, FoundTable] = field(default_factory=dict)
    ids: dict[str, IdColumn] = field(default_factory=dict)
    edges: dict[str, tuple[FoundTable, tuple[str, str]]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def add_node(self, table: FoundTable, key: IdColumn) -> None:
        self.nodes[table.name], self.ids[table.name] = table, key


def guess_graph(found: Survey, name: str) -> GraphGuess:
    """The graph that the tables most likely are."""
    roles = _roles(found.tables)
    relations: list[TableGuess] = []
    for table, ends in roles.edges.values():
        relations.append(_edge_guess(table, ends, roles, relations))
    nodes = []
    for table in roles.nodes.values():
        guess, keys = _node_guess(table, roles)
        nodes.append(guess)
        relations += [_key_guess(guess, end, roles, relations) for end in keys]
    return GraphGuess(name, (*nodes, *relations), (*found.skipped, *roles.left_out))


def _roles(tables: Sequence[FoundTable]) -> _Roles:
    """Nodes by their ids first; then tables whose columns point to those; then the rest."""
    roles = _Roles()
    keys = {table.name: id_column(table) for table in tables}
    pairs = {table.name: named_ends(table) for table in tables}
    others = []
    for table in tables:
        key, _ = keys[table.name]
        clear = key is not None and key.score >= 3 and not pairs[table.name]
        if key is not None and clear and not _of_another(table, key, tables):
            roles.add_node(table, key)
        else:
            others.append(table)
    for table in list(others):  # a node table may have columns called source and target
        key, pair = keys[table.name][0], pairs[table.name]
        if key is None or pair is None or key.score < 4 or key.column in pair:
            continue
        if not _points(table, pair, roles) and not _of_another(table, key, tables):
            roles.add_node(table, key)
            others.remove(table)
    for table in others:
        _place(table, keys[table.name], pairs[table.name], roles, tables)
    return roles


def _place(
    table: FoundTable,
    found: tuple[IdColumn | None, str],
    pair: tuple[str, str] | None,
    roles: _Roles,
    tables: Sequence[FoundTable],
) -> None:
    """A table that its id alone does not make a node type."""
    key, complaint = found
    names = table.paths[0]
    if ends := pair or ends_by_values(table, roles.ids):
        roles.edges[table.name] = (table, ends)
    elif key is not None and (owner := _of_another(table, key, tables)):
        roles.left_out.append(
            f"{names}: looks like further columns of {owner} ({key.column!r}); join it to that table"
        )
    elif key is not None:
        roles.add_node(table, key)
    else:
        roles.left_out.append(
            f"{names}: neither nodes ({complaint}) nor edges (no two columns hold ids of other tables)"
        )


def _points(table: FoundTable, pair: tuple[str, str], roles: _Roles) -> bool:
    ends = [find_end(table, column, roles.ids, hint="") for column in pair]
    return all(end.share >= 0.5 for end in ends)


def _of_another(table: FoundTable, key: IdColumn, tables: Sequence[FoundTable]) -> str:
    """The table that an id column is called after, if that is another one; or empty."""
    names = [other.name for other in tables]
    hint = hint_of_name(key.column, names)
    return hint if hint and thing(hint) != thing(table.name) else ""


def _path(table: FoundTable) -> Line:
    many = len(table.files)
    why = f"{many} files with one header, taken for one table" if many > 1 else ""
    return Line("path", table.paths[0] if len(table.paths) == 1 else table.paths, why)


def _node_guess(table: FoundTable, roles: _Roles) -> tuple[TableGuess, list[End]]:
    """The node type, and what its columns say about relations to other types."""
    key = roles.ids[table.name]
    others = [column for column in table.columns if column.name != key.column]
    keys = foreign_keys(table, others, roles.ids)
    pointing = [end.column for end in keys if end.hinted and normal(end.column) not in LABEL_NAMES]
    lines = column_lines(table, [key.column, *pointing], edges=False)
    said = {name for line in lines if line.sure for name in _values(line)}
    keys = [end for end in keys if end.column not in said]
    called = "called so" if key.score >= 3 else "a guess by its values"
    why = f"{called}; {len(key.ids):,} values, none empty, none twice"
    used = [key.column, *(name for line in lines for name in _values(line)), *(end.column for end in keys)]
    notes = [unused_note(table, used)]
    has = {line.key for line in lines if line.sure}
    if "label" in has and "split" not in has:
        notes.append("a label without a split cannot be trained: lmgnn init FOLDER --split 80,10,10")
    if "split" in has and "label" not in has:
        notes.append("a split without a label: if a column holds the classes, name it (label = ...)")
    all_lines = (_path(table), Line("id", key.column, why), *lines)
    return TableGuess("nodes", table.name, table, all_lines, notes=tuple(filter(None, notes))), keys


def _edge_guess(
    table: FoundTable, columns: tuple[str, str], roles: _Roles, before: Sequence[TableGuess]
) -> TableGuess:
    source_hint, relation, destination_hint = hints_of_file(table, roles.ids)
    by_column = [hint_of_column(column, roles.ids) for column in columns]
    if source_hint and source_hint == by_column[1] != by_column[0]:
        columns, by_column = (columns[1], columns[0]), by_column[::-1]
    hints = (by_column[0] or source_hint, by_column[1] or destination_hint)
    ends = [find_end(table, c, roles.ids, hint=h) for c, h in zip(columns, hints, strict=True)]
    sure = all(end.sure for end in ends)
    others = column_lines(table, columns, edges=True) if sure else []
    used = [*columns, *(name for line in others for name in _values(line))]
    notes = [unused_note(table, used)] if sure else [_reason(ends)]
    if any(line.key == "label" and line.sure for line in others) and not any(
        line.key == "split" and line.sure for line in others
    ):
        notes.append("a label without a split cannot be trained: lmgnn init FOLDER --split 80,10,10")
    lines = (_path(table), *_end_lines(ends), *others)
    name = _relation_name(relation, table.name, before)
    return TableGuess("edges", name, table, lines, sure, tuple(filter(None, notes)))


def _key_guess(owner: TableGuess, end: End, roles: _Roles, before: Sequence[TableGuess]) -> TableGuess:
    """A relation that one column of a node table holds."""
    key = roles.ids[owner.name]
    here = End(key.column, owner.name, sure=True, why="each row's own id", share=1.0)
    notes = [f"from a column of {owner.table.paths[0]}: each row points to one {end.node_type}"]
    if not end.sure:
        notes.append(_reason([end]))
    lines = (_path(owner.table), *_end_lines([here, end]))
    name = _relation_name(f"{owner.name}_{thing(end.column).removesuffix('_id')}", "", before)
    return TableGuess("edges", name, owner.table, lines, end.sure, tuple(notes))


def _end_lines(ends: Sequence[End]) -> list[Line]:
    sides = ("source", "destination")
    types = [Line(side, end.node_type or "?", "") for side, end in zip(sides, ends, strict=True)]
    columns = [
        Line(f"{s}_id", end.column, end.why if end.sure else "") for s, end in zip(sides, ends, strict=True)
    ]
    return [*types, *columns]


def _reason(ends: Sequence[End]) -> str:
    told = "; ".join(f"column {end.column!r}: {end.why}" for end in ends if not end.sure)
    return f"left out, mend this first: {told}"


def _relation_name(wanted: str, otherwise: str, before: Sequence[TableGuess]) -> str:
    taken = {guess.name for guess in before}
    for name in (wanted, otherwise, *(f"{wanted}_{n}" for n in range(2, len(before) + 3))):
        if name and name not in taken:
            return name
    raise AssertionError("one number more than there are names is free")


def _values(line: Line) -> tuple[str, ...]:
    return (line.value,) if isinstance(line.value, str) else line.value
