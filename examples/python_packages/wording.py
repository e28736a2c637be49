"""Texts of symbols and modules, with the names that would give an answer away masked.

A text holds the node's own name as plain words, its arguments and the start of its docstring.
Two kinds of words become [SYM]: identifiers (snake_case, CamelCase, name(), name.other, `name`) of any
symbol of the corpus, whether linked or not; and, where the node has a target edge, the other
end's name as words in any case or joining. Never touches edges.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

from corpus import Module, Symbol

MASK = "[SYM]"
DOCSTRING_LETTERS = 400
"""About 100 tokens: more than any sensible max_length keeps."""

_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
_IDENTIFIER = re.compile(r"(?P<before>[.`]?)(?P<name>[^\W\d]\w*)(?P<after>\(|\.(?=\w)|)")
_MASK_RUN = re.compile(r"\[SYM\](?:[\s._`]*\[SYM\])+")


def name_words(name: str) -> tuple[str, ...]:
    """open_file, _openFile, OpenFile -> ("open", "file"); empty for a name without letters."""
    return tuple(word.lower() for word in _WORD.findall(name))


def own_words(symbol: Symbol) -> tuple[str, ...]:
    """Words of the symbol's name and, for a method or nested class, of the classes around it."""
    return name_words(symbol.id.partition(":")[2])


def path_words(name: str) -> tuple[str, ...]:
    """Words of a module's dotted name."""
    return tuple(word for part in name.split(".") for word in name_words(part))


def contains(words: tuple[str, ...], part: tuple[str, ...]) -> bool:
    """Whether `part` stands in `words`, however either is cut: progressbar in (a, progress, bar)."""
    wanted, size = "".join(part), len(words)
    return any("".join(words[i:j]) == wanted for i in range(size) for j in range(i + 1, size + 1))


class Masker:
    """Masks names of the corpus; `names` are the last parts of all symbol ids."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)

    def __call__(self, text: str, linked: Iterable[str]) -> str:
        """Mask identifiers of the corpus, and the `linked` names however they are written."""
        text = _IDENTIFIER.sub(self._identifier, text)
        # longest first: "open file" must not be left as "[SYM] file" by the name "open"
        patterns = sorted({r"[\W_]*".join(name_words(n)) for n in linked} - {""}, key=lambda p: (-len(p), p))
        if patterns:
            found = rf"(?<![^\W_])(?:{'|'.join(patterns)})(?![^\W_])"
            text = MASK.join(re.sub(found, MASK, piece, flags=re.I) for piece in text.split(MASK))
        return _MASK_RUN.sub(MASK, text)

    def _identifier(self, match: re.Match[str]) -> str:
        before, name, after = match.groups()
        written_as_code = before or after or "_" in name or not name[1:].islower()
        return f"{before}{MASK}{after}" if name in self._names and written_as_code else match[0]


def symbol_text(symbol: Symbol, masker: Masker, linked: Iterable[str]) -> str:
    """Kind and own name, then arguments and docstring with names masked."""
    arguments = _arguments(symbol)
    described = f"({arguments}) " if arguments else ""
    described += symbol.docstring()[:DOCSTRING_LETTERS]
    masked = masker(described, linked).replace("_", " ")
    return f"{symbol.kind} {' '.join(own_words(symbol))} {' '.join(masked.split())}"


def module_text(module: Module, masker: Masker, linked: Iterable[str]) -> str:
    """Path words and docstring, both masked."""
    docstring = (ast.get_docstring(module.tree) or "")[:DOCSTRING_LETTERS]
    masked = masker(f"{' '.join(path_words(module.name))}: {docstring}", linked)
    return f"module {' '.join(masked.replace('_', ' ').split())}"


def _arguments(symbol: Symbol) -> str:
    """Names of the arguments; those of __init__ for a class. Annotations are left out: they name
    the classes that the symbol uses."""
    functions: list[ast.FunctionDef | ast.AsyncFunctionDef]
    for node in symbol.definitions:
        if isinstance(node, ast.ClassDef):
            functions = [s for s in node.body if isinstance(s, ast.FunctionDef) and s.name == "__init__"]
        else:
            functions = [node]
        for function in functions:
            given = function.args
            names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            return ", ".join(n for n in names if n not in ("self", "cls"))
    return ""
