"""The tables that a plan's graph is made of, read again: for leaks and baselines. Needs no torch."""

from __future__ import annotations

from partition.schema import parse_schema
from partition.storage import InputFolder
from partition.tables import GraphTables, load_tables, table_files
from pipeline.config import TrainPlan


def load_graph_tables(plan: TrainPlan, *, cap: float | None = None) -> GraphTables:
    """The tables of a plan's graph with the relations that it loads; LMGNNError where one is wrong.

    `cap` is that of the rows to leave out; a partition has its own in its options.
    """
    inputs = InputFolder(plan.graph.path)
    with inputs.file("graph.toml").open() as stream:
        schema = parse_schema(stream.read().decode(), where=f"{plan.graph.path}/graph.toml")
    schema = schema.select(plan.graph.relations)
    return load_tables(schema, table_files(schema, inputs), cap=cap)
