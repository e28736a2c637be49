"""Which symbol uses, inherits or imports which: static resolution, confident cases only.

Resolved: names defined or imported in the module (through re-exports and star imports), names
imported inside the function, `module.name`, `Class.method`, `self.method`, `cls.method` and
`super().method` along the bases within the corpus. Left out: whatever a local variable may hide,
attributes of other objects, and strings that are evaluated later. A reference to a class by a
call is a use of the class. Owns no text and no split; kinds.py says what a reference is for.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from corpus import Binding, Corpus, Definition, Module, Symbol, import_bindings, is_dunder, statements
from kinds import KINDS, children

Pair = tuple[str, str]
PROPERTY_PARTS = {"setter", "getter", "deleter"}
"""@name.setter refers to the property of the class, not to a `name` of the module."""


@dataclass
class Relations:
    """Pairs of ids, (source, destination), without repeats and without a pair of the same."""

    uses: dict[Pair, str] = field(default_factory=dict)
    """Pair -> the first of KINDS that the source refers to the destination by."""
    inherits: set[Pair] = field(default_factory=set)
    imports: set[Pair] = field(default_factory=set)


def find_relations(corpus: Corpus) -> Relations:
    """All resolved relations between different symbols or modules."""
    resolver = Resolver(corpus)
    found = Relations()
    for symbol in corpus.symbols.values():
        found.inherits.update((symbol.id, base) for base in resolver.bases(symbol.id) if base != symbol.id)
        for node in symbol.definitions:
            for target, kind in resolver.references(symbol, node):
                if target != symbol.id:
                    known = found.uses.get((symbol.id, target), kind)
                    found.uses[symbol.id, target] = min(known, kind, key=KINDS.index)
    for module in corpus.modules.values():
        found.imports.update((module.name, t) for t in resolver.imported(module) if t != module.name)
    return found


@dataclass
class Scope:
    """Names inside one definition."""

    module: Module
    hidden: set[str] = field(default_factory=set)
    """Bound by something else than an import: not resolved."""
    imports: dict[str, Binding] = field(default_factory=dict)
    instance: str = ""
    """Name of the first argument of a method ("self", "cls")."""
    owner: str = ""
    """Id of the class around."""


class Resolver:
    """Answers "what does this name mean here" over a corpus; remembers the bases of classes."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._bases: dict[str, tuple[str, ...]] = {}

    def imported(self, module: Module) -> Iterator[str]:
        """Modules of the corpus that the top level of a module imports."""
        for name in module.imports:
            parent = name.rpartition(".")[0]
            target = name if name in self._corpus.modules else parent
            if target in self._corpus.modules:
                yield target

    def bases(self, class_id: str) -> tuple[str, ...]:
        """Direct bases of a class that are classes of the corpus."""
        if class_id not in self._bases:
            self._bases[class_id] = ()  # ends a circle of names
            symbol = self._corpus.symbols[class_id]
            scope = Scope(self._corpus.modules[symbol.module])
            found: dict[str, None] = {}
            for node in symbol.definitions:
                for base in node.bases if isinstance(node, ast.ClassDef) else []:
                    # Generic[T] and Base[int] inherit from what stands before the bracket
                    base = base.value if isinstance(base, ast.Subscript) else base
                    target = self._chain(base, scope)
                    if isinstance(target, Symbol) and target.kind == "class":
                        found[target.id] = None
            self._bases[class_id] = tuple(found)
        return self._bases[class_id]

    def references(self, symbol: Symbol, node: Definition) -> Iterator[tuple[str, str]]:
        """Ids of the symbols that one definition refers to, each with the kind of the reference."""
        module = self._corpus.modules[symbol.module]
        if not isinstance(node, ast.ClassDef):
            yield from self._walk(node, _function_scope(node, module, symbol.owner), "value")
            return
        inner = list(statements(node.body))
        plain = [s for s in inner if not hasattr(s, "body")]
        methods = {s.name for s in inner if isinstance(s, Definition)}
        scope = Scope(module, hidden=methods | _stored(n for s in plain for n in ast.walk(s)))
        for statement in plain:
            yield from self._walk(statement, scope, "value")
        for statement in inner:
            if not isinstance(statement, Definition):
                continue
            if is_dunder(statement.name) and not isinstance(statement, ast.ClassDef):
                yield from self._walk(statement, _function_scope(statement, module, symbol.id), "value")
        for decorator in node.decorator_list:
            yield from self._walk(decorator, Scope(module), "decorator")
        for keyword in node.keywords:
            yield from self._walk(keyword, Scope(module), "value")

    def _walk(self, node: ast.AST, scope: Scope, kind: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.Attribute) and node.attr in PROPERTY_PARTS:
            return
        if isinstance(node, ast.Name | ast.Attribute):
            target = self._chain(node, scope)
            if isinstance(target, Symbol):
                # of Class.unknown() only the class is known, and it is not what gets called
                whole = isinstance(node, ast.Name) or node.attr == target.name
                yield target.id, kind if whole else "value"
            root: ast.AST = node
            while isinstance(root, ast.Attribute):
                root = root.value
            if not isinstance(root, ast.Name):
                yield from self._walk(root, scope, "value")
            return
        for child, what_for in children(node, kind):
            yield from self._walk(child, scope, what_for)

    def _chain(self, node: ast.AST, scope: Scope) -> Symbol | Module | None:
        """The last symbol or module along root.a.b.c that is known; None if the root is not."""
        attributes: list[str] = []
        while isinstance(node, ast.Attribute):
            attributes.append(node.attr)
            node = node.value
        attributes.reverse()
        if scope.owner and attributes and self._is_instance(node, scope):
            is_super = isinstance(node, ast.Call)
            found = self._member(scope.owner, attributes[0], skip_own=is_super)
            return self._follow(found, attributes[1:]) if found else None
        if not isinstance(node, ast.Name) or node.id in scope.hidden or not isinstance(node.ctx, ast.Load):
            return None
        if node.id in scope.imports:
            start = self._meaning(scope.imports[node.id], set())
        else:
            start = self._lookup(scope.module.name, node.id, set())
        return self._follow(start, attributes) if start else None

    @staticmethod
    def _is_instance(node: ast.AST, scope: Scope) -> bool:
        if isinstance(node, ast.Call):
            return isinstance(node.func, ast.Name) and node.func.id == "super"
        return isinstance(node, ast.Name) and bool(scope.instance) and node.id == scope.instance

    def _follow(self, start: Symbol | Module, attributes: list[str]) -> Symbol | Module | None:
        here = start
        for name in attributes:
            if isinstance(here, Module):
                step = self._lookup(here.name, name, set())
            else:
                step = self._member(here.id, name, skip_own=False) if here.kind == "class" else None
            if step is None:
                return here if isinstance(here, Symbol) else None
            here = step
        return here

    def _lookup(self, module: str, name: str, seen: set[Pair]) -> Symbol | Module | None:
        """A name of a module of the corpus; `seen` ends circles of re-exports."""
        if module not in self._corpus.modules or (module, name) in seen:
            return None
        seen.add((module, name))
        bound = self._corpus.modules[module].names.get(name)
        if bound:
            return self._meaning(bound, seen)
        for star in self._corpus.modules[module].stars:
            found = None if name.startswith("_") else self._lookup(star, name, seen)
            if found:
                return found
        return self._corpus.modules.get(f"{module}.{name}")

    def _meaning(self, binding: Binding, seen: set[Pair]) -> Symbol | Module | None:
        if not binding.name:
            return self._corpus.modules.get(binding.module)
        if binding.name in self._corpus.symbols:
            return self._corpus.symbols[binding.name]
        found = self._lookup(binding.module, binding.name, seen)
        return found or self._corpus.modules.get(f"{binding.module}.{binding.name}")

    def _member(self, class_id: str, name: str, *, skip_own: bool) -> Symbol | None:
        """A method or nested class, looked for depth first along the bases."""
        waiting, seen = [class_id], set()
        while waiting:
            here = waiting.pop()
            if here in seen:
                continue
            seen.add(here)
            found = self._corpus.symbols.get(f"{here}.{name}")
            if found and not (skip_own and here == class_id):
                return found
            waiting.extend(reversed(self.bases(here)))
        return None


def _function_scope(node: ast.FunctionDef | ast.AsyncFunctionDef, module: Module, owner: str) -> Scope:
    inside = list(ast.walk(node))
    scope = Scope(module, hidden=_stored(inside) - {node.name}, owner=owner)
    for inner in inside:
        if isinstance(inner, ast.Import | ast.ImportFrom):
            scope.imports.update(import_bindings(inner, module))
    static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
    positional = [*node.args.posonlyargs, *node.args.args]
    if owner and positional and not static:
        # a class or function inside the method may have a `self` of its own
        name = positional[0].arg
        if sum(isinstance(inner, ast.arg) and inner.arg == name for inner in inside) == 1:
            scope.instance = name
    return scope


def _stored(nodes: Iterable[ast.AST]) -> set[str]:
    """Names that these nodes bind other than by an import, arguments included."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Load):
                names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, Definition | ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            names.add(node.name)
    return names
