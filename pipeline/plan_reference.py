"""Every key of a plan as a page: default, range and the sentence beside its field.

`python -m pipeline.plan_reference > docs/plan.md` writes it; a test compares the two. Ranges are what the
checks of __post_init__ expect, where they say so in plain words.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import sys
import typing
from collections.abc import Iterator

from pipeline import config, plan_stages, plan_tables

_CONSTANTS = {**vars(plan_tables), **vars(plan_stages)}
_TABLES = (
    ("", config.TrainPlan, "The top of the file."),
    ("[graph]", config.GraphPlan, ""),
    ("[partition]", config.PartitionPlan, ""),
    ("[model]", config.ModelPlan, ""),
    ("[tasks.NAME]", config.TaskPlan, "One table for each task; the name is yours."),
    ("[[stages]]", config.StagePlan, "One table for each stage, in their order."),
    ("[engine]", config.EnginePlan, ""),
    ("[cache]", config.CachePlan, ""),
)
_HEAD = """\
# The plan, key by key

<!-- generated: python -m pipeline.plan_reference > docs/plan.md -->

Only keys without a default must be given. [README](../README.md#the-plan) has an example,
[training.md](training.md) the reasons. A key that the kind of its task or stage never looks at is an
error. Any key can be changed from the command line:
`--set model.hidden=256`, `--set tasks.NAME.metric=macro_f1`, `--set stages.NAME.epochs=2`.
"""


def page() -> str:
    """The text of docs/plan.md."""
    return "\n".join([_HEAD, *(_section(*table) for table in _TABLES)])


def _section(title: str, table: type, about: str) -> str:
    definition = ast.parse(inspect.getsource(table)).body[0]
    assert isinstance(definition, ast.ClassDef)
    sentences, ranges = _sentences(definition), dict(_ranges(definition))
    rows = []
    hints = typing.get_type_hints(table)
    for field in dataclasses.fields(table):
        if field.name in sentences:  # the others are tables of their own
            kind = f"`{_kind(hints[field.name])}`"
            allowed = ranges.get(field.name, "")
            cells = f"`{field.name}`", kind, _default(field), allowed, sentences[field.name]
            rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    intro = about or (ast.get_docstring(definition) or "")
    head = "| key | type | default | range | what |\n|---|---|---|---|---|"
    return "\n".join([f"## {title or 'name and seed'}\n", f"{intro}\n", head, *rows, ""])


def _sentences(definition: ast.ClassDef) -> dict[str, str]:
    """Field -> the text below it, on one line."""
    found = {}
    for item, text in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(item, ast.AnnAssign)
            and isinstance(text, ast.Expr)
            and isinstance(item.target, ast.Name)
        ):
            assert isinstance(text.value, ast.Constant)
            found[item.target.id] = " ".join(str(text.value.value).split())
    return found


def _ranges(definition: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """(field, what is expected of it), of each check of one field that always holds."""
    checks = [item for item in definition.body if isinstance(item, ast.FunctionDef)]
    for statement in (line for function in checks for line in function.body):
        call = statement.value if isinstance(statement, ast.Expr) else None
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and len(call.args) == 4):
            continue
        value, expected = call.args[2], _words(call.args[3])
        if isinstance(value, ast.Attribute) and ast.unparse(value.value) == "self" and expected:
            yield value.attr, expected


def _words(node: ast.expr) -> str:
    """A string, or `", ".join(NAMES)` over a constant beside the dataclass; empty for anything else."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "join"):
        return ""
    between, names = node.func.value, node.args[0]
    if not (isinstance(between, ast.Constant) and isinstance(names, ast.Name) and names.id in _CONSTANTS):
        return ""
    return str(between.value).join(_CONSTANTS[names.id])


def _kind(hint: object) -> str:
    plain = {str: "string", int: "integer", float: "number", bool: "boolean"}
    if isinstance(hint, type) and hint in plain:
        return plain[hint]
    of = [_kind(argument) for argument in typing.get_args(hint) if argument is not Ellipsis]
    return f"table of {of[1]}" if len(of) == 2 else f"list of {of[0]}s"


def _default(field: dataclasses.Field[object]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return "empty"
    if field.default is dataclasses.MISSING:
        return "required"
    return f"`{json.dumps(field.default)}`"


if __name__ == "__main__":
    sys.stdout.write(page())
