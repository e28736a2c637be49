"""What a reference is for: the syntax around a name decides it.

Owns the classes of `uses` and which of them wins when a symbol refers to another in several ways.
Resolves no name (resolve.py does).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

KINDS = ("decorator", "exception", "check", "annotation", "call", "value")
"""Of several kinds the first here stands for the pair: the ones before are rarer and say more."""

CHECKS = {"isinstance", "issubclass"}
_KEEPS = (ast.Tuple, ast.List, ast.BinOp, ast.Subscript, ast.Starred)
"""`except (A, B)`, `A | B`, `list[A]`: the parts are what the whole is."""


def children(node: ast.AST, kind: str) -> Iterator[tuple[ast.AST, str]]:
    """The parts of a node and the kind of what they refer to; `kind` is that of the node itself."""
    for name, field in ast.iter_fields(node):
        for position, child in enumerate(field if isinstance(field, list) else [field]):
            if isinstance(child, ast.AST):
                yield child, _kind(node, kind, name, position)


def _kind(node: ast.AST, kind: str, name: str, position: int) -> str:
    """Kind of the part at `position` of the field `name` of a node of that kind."""
    if name == "decorator_list":
        return "decorator"
    if name in ("annotation", "returns"):
        return "annotation"
    if isinstance(node, ast.Call):
        if name == "func":  # `raise Error(1)` and `@wrap(1)` are no plain calls
            return kind if kind in ("decorator", "exception") else "call"
        is_check = isinstance(node.func, ast.Name) and node.func.id in CHECKS
        return "check" if is_check and name == "args" and position == 1 else "value"
    if isinstance(node, ast.Raise | ast.ExceptHandler) and name in ("exc", "type"):
        return "exception"
    if isinstance(node, ast.MatchClass) and name == "cls":
        return "check"
    return kind if isinstance(node, _KEEPS) else "value"
