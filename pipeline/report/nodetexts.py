"""Texts of single nodes, looked up in the graph's tables under the user's own ids. Never writes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from partition.schema import NodeSchema, parse_schema
from partition.storage import InputFolder
from partition.tables import load_tables, table_files

Texts = Mapping[tuple[str, str], str]
"""(node type, the user's id) -> text."""


def node_texts(graph: str, wanted: Mapping[str, Collection[str]]) -> Texts:
    """Texts of the wanted ids by node type; only the tables of these types are read.

    `graph` is the folder or URL of graph.toml. Unknown ids and types without text are left out;
    LMGNNError, OSError or ValueError where graph.toml or a table cannot be read.
    """
    folder = InputFolder(graph)
    with folder.file("graph.toml").open() as stream:
        schema = parse_schema(stream.read().decode(), where=f"{graph}/graph.toml")
    nodes = tuple(
        NodeSchema(node.name, node.path, node.id, text=node.text)
        for node in schema.nodes
        if wanted.get(node.name) and node.text
    )
    schema = replace(schema, nodes=nodes, edges=())
    found: dict[tuple[str, str], str] = {}
    # The build has judged the rows; here one that is wrong takes no other's text away.
    tables = load_tables(schema, table_files(schema, folder), cap=1.0)
    for name, table in tables.nodes.items():
        ids = pc.cast(table.ids, pa.large_string())
        chosen = pc.is_in(ids, value_set=pa.array(sorted(wanted[name]), pa.large_string()))
        if table.texts is not None:
            texts = table.texts.filter(chosen).to_pylist()
            found |= {(name, i): text for i, text in zip(ids.filter(chosen).to_pylist(), texts, strict=True)}
    return found


def one_line(text: str, letters: int) -> str:
    """One line of at most so many letters."""
    line = " ".join((text or "").split())
    return line if len(line) <= letters else line[: letters - 1].rstrip() + "…"
