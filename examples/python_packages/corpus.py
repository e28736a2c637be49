"""What the corpus is: the modules and symbols of some installed packages, read with `ast`.

Owns finding the files, their hash and the table of names. Never imports a package that it reads,
and resolves no reference between symbols (resolve.py does).
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

SKIPPED_FOLDERS = {"tests", "test", "testing", "_testing", "_vendor", "vendored", "__pycache__"}
"""Tests repeat the public names; vendored copies repeat other packages."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Binding:
    """What a name in a module stands for: a symbol, a module, or `name` inside `module`."""

    module: str
    name: str = ""


@dataclass
class Symbol:
    """A function, class or method. Definitions of one id (overloads, property setters, branches
    of an `if`) are one symbol; dunder methods are code of their class."""

    id: str
    kind: str
    """function, class or method."""
    name: str
    module: str
    owner: str
    """Id of the class that a method or nested class is in; "" at the top of a module."""
    definitions: list[Definition] = field(default_factory=list)

    def docstring(self) -> str:
        """That of the first definition that has one."""
        return next((d for d in (ast.get_docstring(node) for node in self.definitions) if d), "")

    def parameters(self) -> tuple[str, ...]:
        """Names of the first definition's parameters, for a class those of __init__; without self,
        cls, *args and **kwargs."""
        functions: list[ast.FunctionDef | ast.AsyncFunctionDef]
        for node in self.definitions:
            if isinstance(node, ast.ClassDef):
                functions = [s for s in node.body if isinstance(s, ast.FunctionDef) and s.name == "__init__"]
            else:
                functions = [node]
            for function in functions:
                given = function.args
                names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
                return tuple(name for name in names if name not in ("self", "cls"))
        return ()


@dataclass
class Module:
    name: str
    package: str
    is_package: bool
    tree: ast.Module
    names: dict[str, Binding] = field(default_factory=dict)
    """Names bound at the top by def, class and import; the first binding counts."""
    stars: list[str] = field(default_factory=list)
    """Modules whose names are taken in by `from … import *`."""
    imports: set[str] = field(default_factory=set)
    """Dotted names that the top level imports; the last part may be a name inside a module."""
    aliases: dict[str, str] = field(default_factory=dict)
    """Short name -> the module that `import … as …` at the top gives it to."""


@dataclass
class Corpus:
    hash: str
    """sha256 over the sorted relative paths and the bytes of the files."""
    files: int
    modules: dict[str, Module]
    symbols: dict[str, Symbol]


def find_packages(names: Iterable[str]) -> dict[str, Path]:
    """Folder of each installed package, found without importing it; LookupError if one is missing."""
    folders = {}
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise LookupError(f"package {name} is not installed in this environment")
        folders[name] = Path(next(iter(spec.submodule_search_locations)))
    return folders


def corpus_files(roots: Mapping[str, Path]) -> dict[str, bytes]:
    """Path relative to the folder above the package, with slashes -> content, in sorted order."""
    found = {}
    for name, root in roots.items():
        for path in root.rglob("*.py"):
            inside = path.relative_to(root)
            if not SKIPPED_FOLDERS.intersection(inside.parts[:-1]):
                found[f"{name}/{inside.as_posix()}"] = path.read_bytes()
    return dict(sorted(found.items()))


def hash_files(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for path, content in files.items():
        digest.update(f"{path}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def read_corpus(files: Mapping[str, bytes]) -> Corpus:
    """Parse the files; those that are no valid Python of this version are left out."""
    corpus = Corpus(hash_files(files), len(files), {}, {})
    for path, content in files.items():
        try:
            tree = ast.parse(content)
        except (SyntaxError, ValueError):
            continue  # templates and code for other Python versions
        parts = path.removesuffix(".py").split("/")
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        corpus.modules[name] = Module(name, parts[0], is_package, tree)
    for module in corpus.modules.values():
        _bind_top(corpus, module)
    return corpus


def statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a scope, those under `if`, `try` and `with` included."""
    for statement in body:
        yield statement
        for name in ("body", "orelse", "finalbody", "handlers"):
            if not isinstance(statement, Definition):
                for inner in getattr(statement, name, []):
                    yield from statements(inner.body if isinstance(inner, ast.ExceptHandler) else [inner])


def import_bindings(statement: ast.Import | ast.ImportFrom, module: Module) -> dict[str, Binding]:
    """Local name -> what an import statement binds it to; "*" for a star import."""
    if isinstance(statement, ast.Import):
        return {
            alias.asname or alias.name.split(".")[0]: Binding(
                alias.name if alias.asname else alias.name.split(".")[0]
            )
            for alias in statement.names
        }
    source = _source_module(statement, module)
    return {alias.asname or alias.name: Binding(source, alias.name) for alias in statement.names}


def _source_module(statement: ast.ImportFrom, module: Module) -> str:
    """Absolute name of the module that `from … import` reads."""
    if not statement.level:
        return statement.module or ""
    parts = module.name.split(".")
    kept = len(parts) - statement.level + (1 if module.is_package else 0)
    return ".".join([*parts[: max(kept, 0)], *([statement.module] if statement.module else [])])


def _bind_top(corpus: Corpus, module: Module) -> None:
    for statement in statements(module.tree.body):
        if isinstance(statement, Definition):
            symbol = _add_symbol(corpus, module, statement, owner=None)
            module.names.setdefault(statement.name, Binding(module.name, symbol.id))
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            for name, binding in import_bindings(statement, module).items():
                if name == "*":
                    module.stars.append(binding.module)
                    module.imports.add(binding.module)
                    continue
                module.names.setdefault(name, binding)
                module.imports.add(f"{binding.module}.{binding.name}".rstrip("."))
            if isinstance(statement, ast.Import):
                module.imports.update(alias.name for alias in statement.names)
                module.aliases.update({a.asname: a.name for a in statement.names if a.asname})


def is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _add_symbol(corpus: Corpus, module: Module, node: Definition, *, owner: Symbol | None) -> Symbol:
    path = f"{owner.id}.{node.name}" if owner else f"{module.name}:{node.name}"
    kind = "class" if isinstance(node, ast.ClassDef) else "method" if owner else "function"
    symbol = corpus.symbols.get(path)
    if symbol is None:
        symbol = Symbol(path, kind, node.name, module.name, owner.id if owner else "")
        corpus.symbols[path] = symbol
    symbol.definitions.append(node)
    if isinstance(node, ast.ClassDef):
        for statement in statements(node.body):
            if isinstance(statement, Definition) and not is_dunder(statement.name):
                _add_symbol(corpus, module, statement, owner=symbol)
    return symbol
