"""Makes the graph of Python packages: `python build.py OUT_FOLDER`.

Reads the installed packages below with `ast` and writes Parquet tables and graph.toml. Owns the
choice of packages, the splits and the tables. A folder appears whole or not at all, and a folder
made of the same sources by the same builder is left as it is. Never imports what it reads.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # also under `python -P`

from corpus import Corpus, corpus_files, find_packages, hash_files, read_corpus  # noqa: E402
from resolve import Pair, Relations, find_relations  # noqa: E402
from wording import Masker, contains, module_text, name_words, own_words, symbol_text  # noqa: E402

PACKAGES = (
    "click",
    "dateutil",
    "fsspec",
    "jinja2",
    "joblib",
    "markdown",
    "networkx",
    "packaging",
    "pyparsing",
    "requests",
    "rich",
    "s3fs",
    "tqdm",
    "urllib3",
    "werkzeug",
)
"""Pure Python, in the lock because the project or one of its dependencies needs them, with
docstrings on most public names."""

POPULAR = 100
"""Targets used by more symbols than this (error classes, decorators) are no question worth asking."""
MARKER = "corpus.json"

GRAPH_TOML = """\
name = "python_packages"

[nodes.symbol]
path = "nodes/symbol.parquet"
id = "id"
text = "text"

[nodes.module]
path = "nodes/module.parquet"
id = "id"
text = "text"

[nodes.package]
path = "nodes/package.parquet"
id = "id"
"""

ENDS = {
    "uses": ("symbol", "symbol"),
    "inherits": ("symbol", "symbol"),
    "defined_in": ("symbol", "module"),
    "part_of": ("module", "package"),
    "imports": ("module", "module"),
}


@dataclass(frozen=True)
class Graph:
    nodes: Mapping[str, Mapping[str, str]]
    """Node type -> id -> text; packages have none."""
    edges: Mapping[str, Sequence[Pair]]
    splits: Mapping[Pair, str]
    """Edge of "uses" -> train, valid, test or message."""
    reasons: Mapping[str, int]
    """Why edges are no targets -> how many."""


def make_graph(corpus: Corpus) -> Graph:
    """Relations, splits and masked texts of a corpus."""
    relations = find_relations(corpus)
    uses = sorted(p for p in relations.uses if not _inherited(p, relations))
    popularity = Counter(target for _, target in uses)
    splits: dict[Pair, str] = {}
    reasons: Counter[str] = Counter()
    for pair in uses:
        reason = _no_question(pair, corpus, popularity[pair[1]])
        reasons[reason or "target"] += 1
        splits[pair] = "message" if reason else hashed_split(pair)
    nodes = _texts(corpus, [pair for pair in uses if splits[pair] != "message"])
    edges = {
        "uses": uses,
        "inherits": sorted(relations.inherits),
        "defined_in": sorted((s.id, s.module) for s in corpus.symbols.values()),
        "part_of": sorted((m.name, m.package) for m in corpus.modules.values()),
        "imports": sorted(relations.imports),
    }
    return Graph(nodes, edges, splits, reasons)


def _inherited(pair: Pair, relations: Relations) -> bool:
    """A subclass that names its base: "inherits" would reveal the edge, so it is that alone."""
    return pair in relations.inherits or pair[::-1] in relations.inherits


def _no_question(pair: Pair, corpus: Corpus, popularity: int) -> str:
    """Why a pair carries messages only; "" if it may be asked for."""
    source, target = (corpus.symbols[end] for end in pair)
    if popularity > POPULAR:
        return "popular target"
    if _top_class(source.id) and _top_class(source.id) == _top_class(target.id):
        return "same class"
    words = name_words(target.name)
    if not words or contains(own_words(source), words):
        return "name within the source's name"
    return ""


def _top_class(symbol: str) -> str:
    """Id up to the outermost name: shared by a class, its methods and its nested classes."""
    module, _, path = symbol.partition(":")
    return f"{module}:{path.partition('.')[0]}"


def hashed_split(pair: Pair) -> str:
    """80 % train, 10 % valid, 10 % test. Both directions of a pair fall into the same split, so
    that a -> b in training does not tell b -> a in the test."""
    digest = hashlib.sha256("\0".join(sorted(pair)).encode()).digest()
    draw = int.from_bytes(digest[:8], "big") / 2**64
    return "train" if draw < 0.8 else "valid" if draw < 0.9 else "test"


def _texts(corpus: Corpus, targets: Iterable[Pair]) -> dict[str, dict[str, str]]:
    linked: dict[str, set[str]] = defaultdict(set)
    linked_modules: dict[str, set[str]] = defaultdict(set)
    for source, target in targets:
        a, b = corpus.symbols[source], corpus.symbols[target]
        linked[source].add(b.name)
        linked[target].add(a.name)
        if a.module != b.module:  # the text of the module that both share prefers no candidate in it
            linked_modules[a.module].add(b.name)
            linked_modules[b.module].add(a.name)
    masker = Masker(s.name for s in corpus.symbols.values())
    symbols = sorted(corpus.symbols.values(), key=lambda s: s.id)
    modules = sorted(corpus.modules.values(), key=lambda m: m.name)
    return {
        "symbol": {s.id: symbol_text(s, masker, linked[s.id]) for s in symbols},
        "module": {m.name: module_text(m, masker, linked_modules[m.name]) for m in modules},
        "package": {name: "" for name in sorted({m.package for m in modules})},
    }


def write_graph(graph: Graph, folder: Path) -> None:
    """Tables and graph.toml into an existing folder."""
    (folder / "nodes").mkdir()
    (folder / "edges").mkdir()
    toml = GRAPH_TOML
    for name, texts in graph.nodes.items():
        columns = {"id": pa.array(texts.keys(), pa.string())}
        if name != "package":
            columns["text"] = pa.array(texts.values(), pa.string())
        pq.write_table(pa.table(columns), folder / "nodes" / f"{name}.parquet")
    for name, pairs in graph.edges.items():
        columns = {
            "src_id": pa.array([a for a, _ in pairs], pa.string()),
            "dst_id": pa.array([b for _, b in pairs], pa.string()),
        }
        if name == "uses":
            columns["split"] = pa.array([graph.splits[pair] for pair in pairs], pa.string())
        pq.write_table(pa.table(columns), folder / "edges" / f"{name}.parquet")
        toml += _edge_toml(name)
    (folder / "graph.toml").write_text(toml)


def _edge_toml(name: str) -> str:
    source, destination = ENDS[name]
    lines = [
        f"\n[edges.{name}]",
        f'path = "edges/{name}.parquet"',
        f'source = "{source}"',
        f'destination = "{destination}"',
        'source_id = "src_id"',
        'destination_id = "dst_id"',
    ]
    return "\n".join([*lines, *(['split = "split"'] if name == "uses" else [])]) + "\n"


def builder_hash() -> str:
    """Hash of this folder's own code: another builder makes another graph."""
    return hash_files({p.name: p.read_bytes() for p in sorted(HERE.glob("*.py"))})


def build(roots: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Make the graph in `out` unless it is there; the facts of its marker, `found` among them.

    FileExistsError if `out` holds something that this builder did not make.
    """
    files = corpus_files(roots)
    key = {"corpus": hash_files(files), "builder": builder_hash()}
    marker = out / MARKER
    if marker.is_file():
        facts = json.loads(marker.read_text())
        if facts.items() >= key.items():
            return {**facts, "found": True}
    elif out.exists() and any(out.iterdir()):
        raise FileExistsError(
            f"{out} is not empty and was not made by this builder: name another folder (graph.path), or "
            "train on what it holds with --set graph.builder="
        )
    graph = make_graph(read_corpus(files))
    facts = {
        **key,
        "packages": sorted(roots),
        "files": len(files),
        "nodes": {name: len(texts) for name, texts in graph.nodes.items()},
        "edges": {name: len(pairs) for name, pairs in graph.edges.items()},
        "uses": dict(sorted(Counter(graph.splits.values()).items())),
        "why": dict(sorted(graph.reasons.items())),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}.{os.getpid()}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    try:
        write_graph(graph, fresh)
        (fresh / MARKER).write_text(json.dumps(facts, indent=1) + "\n")
        _replace(fresh, out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return {**facts, "found": False}


def _replace(fresh: Path, out: Path) -> None:
    """Put a finished folder in place of an older one; every file reaches the disk first."""
    for path in [*fresh.rglob("*"), fresh]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    if out.exists():
        out.rename(old)
    fresh.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Make the graph of Python packages.",
        epilog="example: python build.py data/python_packages",
    )
    parser.add_argument("out", type=Path, metavar="OUT_FOLDER", help="folder to make")
    out = parser.parse_args(argv).out
    start = time.perf_counter()
    try:
        facts = build(find_packages(PACKAGES), out)
    except (LookupError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    print(f"{'found' if facts['found'] else 'made'} {out} in {time.perf_counter() - start:.1f} s")
    print(f"corpus {facts['corpus']} ({facts['files']} files of {', '.join(facts['packages'])})")
    for name in ("nodes", "edges", "uses", "why"):
        print(f"{name}: " + ", ".join(f"{count} {what}" for what, count in facts[name].items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
