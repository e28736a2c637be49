"""Texts of symbols and modules, with the names that would give an answer away masked.

A text holds the node's own name as plain words, its arguments and the start of its docstring.
Three kinds of words become [SYM]: identifiers (snake_case, CamelCase, name(), name.other, `name`) of any
symbol of the corpus, whether linked or not; where the node has a target edge, the other end's name
as words in any case or joining; and the names of the packages, in every text. Never touches edges.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from corpus import Corpus, Module, Symbol

MASK = "[SYM]"
DOCSTRING_LETTERS = 400
"""About 100 tokens: more than any sensible max_length keeps."""

_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
_IDENTIFIER = re.compile(r"(?P<before>[.`]?)(?P<name>[^\W\d]\w*)(?P<after>\(|\.(?=\w)|)")
_SEPARATOR = r"[\W_]?"
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


@dataclass(frozen=True)
class Texts:
    """Id -> text, in the order of the ids."""

    symbols: Mapping[str, str]
    modules: Mapping[str, str]


class Masker:
    """Masks names of the corpus; `names` are the last parts of all symbol ids, `packages` what the
    packages are called."""

    def __init__(self, names: Iterable[str], packages: Iterable[str]) -> None:
        self._names = frozenset(names)
        # letter by letter: NetworkXError falls into the words "network", "x" and "error"
        self._packages = _any_of(_SEPARATOR.join(re.escape(c) for c in name) for name in packages)

    def __call__(self, text: str, linked: Iterable[str]) -> str:
        """Mask identifiers of the corpus, and the `linked` names however they are written."""
        text = _IDENTIFIER.sub(self._identifier, text)
        return _mask(_mask(text, _any_of(r"[\W_]*".join(name_words(n)) for n in linked)), self._packages)

    def words(self, words: Sequence[str]) -> str:
        """A node's own name as plain words, without the names of packages."""
        return _mask(" ".join(words), self._packages)

    def _identifier(self, match: re.Match[str]) -> str:
        before, name, after = match.groups()
        written_as_code = before or after or "_" in name or not name[1:].islower()
        return f"{before}{MASK}{after}" if name in self._names and written_as_code else match[0]


def _mask(text: str, pattern: str) -> str:
    if pattern:
        text = MASK.join(re.sub(pattern, MASK, piece, flags=re.I) for piece in text.split(MASK))
    return _MASK_RUN.sub(MASK, text)


def _any_of(patterns: Iterable[str]) -> str:
    """Pattern of whole words, longest first: "open file" must not be left as "[SYM] file" by the
    name "open". "" for no name."""
    found = sorted(set(patterns) - {""}, key=lambda p: (-len(p), p))
    return rf"(?<![^\W_])(?:{'|'.join(found)})(?![^\W_])" if found else ""


def masked_texts(corpus: Corpus, targets: Iterable[tuple[str, str]]) -> Texts:
    """Texts of all nodes; the ends of a target edge do not name each other."""
    linked: dict[str, set[str]] = defaultdict(set)
    linked_modules: dict[str, set[str]] = defaultdict(set)
    for source, target in targets:
        a, b = corpus.symbols[source], corpus.symbols[target]
        linked[source].add(b.name)
        linked[target].add(a.name)
        if a.module != b.module:  # the text of the module that both share prefers no candidate in it
            linked_modules[a.module].add(b.name)
            linked_modules[b.module].add(a.name)
    masker = Masker((s.name for s in corpus.symbols.values()), package_names(corpus))
    symbols = sorted(corpus.symbols.values(), key=lambda s: s.id)
    modules = sorted(corpus.modules.values(), key=lambda m: m.name)
    return Texts(
        {s.id: symbol_text(s, masker, linked[s.id]) for s in symbols},
        {m.name: module_text(m, masker, linked_modules[m.name]) for m in modules},
    )


def package_names(corpus: Corpus) -> set[str]:
    """What the packages are called: their names, those without a number (jinja for jinja2) and what
    the corpus itself shortens them to (nx for networkx)."""
    packages = {module.package for module in corpus.modules.values()}
    aliases = {
        alias
        for module in corpus.modules.values()
        for alias, name in module.aliases.items()
        if name in packages
    }
    return packages | {name.rstrip("0123456789") for name in packages} | aliases


def symbol_text(symbol: Symbol, masker: Masker, linked: Iterable[str]) -> str:
    """Kind and own name, then parameters and docstring with names masked. Annotations are left out:
    they name the classes that the symbol uses."""
    parameters = ", ".join(symbol.parameters())
    described = f"({parameters}) " if parameters else ""
    described += _start(symbol.docstring())
    masked = masker(described, linked).replace("_", " ")
    return f"{symbol.kind} {masker.words(own_words(symbol))} {' '.join(masked.split())}"


def module_text(module: Module, masker: Masker, linked: Iterable[str]) -> str:
    """Path words and docstring, both masked."""
    docstring = _start(ast.get_docstring(module.tree) or "")
    masked = masker(f"{' '.join(path_words(module.name))}: {docstring}", linked)
    return f"module {' '.join(masked.replace('_', ' ').split())}"


def _start(docstring: str) -> str:
    """Its first whole words: half an identifier would escape the masks."""
    if len(docstring) <= DOCSTRING_LETTERS:
        return docstring
    return re.sub(r"\S*\Z", "", docstring[:DOCSTRING_LETTERS])
