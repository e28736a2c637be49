"""docs/plan.md against the dataclasses that it is made of."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pipeline.config import EnginePlan, GraphPlan, ModelPlan, PartitionPlan, StagePlan, TaskPlan
from pipeline.plan_reference import page

DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_the_page_is_up_to_date() -> None:
    wanted = "python -m pipeline.plan_reference > docs/plan.md"
    assert (DOCS / "plan.md").read_text() == page(), f"renew it: {wanted}"


def test_every_key_has_a_row_with_its_default_and_a_sentence() -> None:
    text = page()
    for table in (GraphPlan, PartitionPlan, ModelPlan, TaskPlan, StagePlan, EnginePlan):
        for field in dataclasses.fields(table):
            rows = [line.split(" | ") for line in text.splitlines() if line.startswith(f"| `{field.name}` |")]
            assert rows, f"{table.__name__}.{field.name} has no sentence below it"
            assert all(len(row) == 5 and len(row[4]) > 10 for row in rows)
    assert "| `gnn_layers` | `integer` | `2` | 1, 2 or 3 |" in text
