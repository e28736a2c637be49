"""A guessed graph -> the text of graph.toml, each guess with its reason behind it.

Owns layout and quoting. Never guesses.
"""

from __future__ import annotations

import json
import re

from partition.guess import GraphGuess, TableGuess
from partition.guess_columns import Line

_HEAD = """\
# Guessed from the tables by `lmgnn init`. What holds for all rows is switched on; ideas are comments.
# Correct what is wrong, then `lmgnn check` tells what it means. All keys: README, "graph.toml".
"""
_WIDEST = 40
"""Values wider than this do not push all other comments to the right."""


def graph_toml(guess: GraphGuess) -> str:
    """The file's text; it parses with partition.schema if a relation is sure."""
    blocks = [_HEAD + f"name = {quoted(guess.name)}"]
    blocks += [_table(table) for table in guess.tables]
    if guess.left_out:
        blocks.append("\n".join(["# Not in the graph:", *(f"# - {plain(text)}" for text in guess.left_out)]))
    return "\n\n".join(blocks) + "\n"


def _table(table: TableGuess) -> str:
    notes = [f"# {plain(note)}" for note in table.notes]
    entries = [(entry(line), line) for line in table.lines]
    width = max(len(text) for text, _ in entries if len(text) <= _WIDEST)
    rows = [f"[{table.kind}.{table.name}]"]
    for text, line in entries:
        rows.append(f"{text:<{width}}  # {plain(line.why)}" if line.why else text)
    if not table.sure:
        rows = [f"# {row}" for row in rows]
    return "\n".join([*notes, *rows])


def entry(line: Line) -> str:
    """`key = value`, as a comment if it is an idea only."""
    several = line.key == "features" or not isinstance(line.value, str)
    values = [line.value] if isinstance(line.value, str) else line.value
    value = ", ".join(quoted(item) for item in values)
    return f"{'' if line.sure else '# '}{line.key} = {f'[{value}]' if several else value}"


def quoted(text: str) -> str:
    """A basic string of TOML."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def plain(text: str) -> str:
    """A comment's text: one line without control characters."""
    return re.sub(r"[\x00-\x1f\x7f]+", " ", text).strip()
