"""Makes the graph of Python packages: `python build.py OUT_FOLDER`.

Reads the installed packages below with `ast` and writes Parquet tables and graph.toml. Owns the
choice of packages and the tables. A folder appears whole or not at all, and a folder
made of the same sources by the same builder is left as it is. Never imports what it reads.
"""

from __future__ import annotations

import argparse
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
from kinds import KINDS  # noqa: E402
from lexical import word_features  # noqa: E402
from questions import ask_areas, ask_uses  # noqa: E402
from resolve import Pair, find_relations  # noqa: E402
from wording import masked_texts  # noqa: E402

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

FEATURES = pa.list_(pa.float32())
MARKER = "corpus.json"

COMMON = (3, 2)
"""A parameter is a node if at least 3 symbols of at least 2 packages take one of this name: others
tell the package and nothing else."""

GRAPH_TOML = """\
name = "python_packages"

[nodes.symbol]
path = "nodes/symbol.parquet"
id = "id"
text = "text"
features = ["words"]
label = "label"
classes = {areas}
split = "split"

[nodes.module]
path = "nodes/module.parquet"
id = "id"
text = "text"
features = ["words"]

[nodes.parameter]
path = "nodes/parameter.parquet"
id = "id"

[edges.uses]
path = "edges/uses.parquet"
source = "symbol"
destination = "symbol"
label = "label"
classes = {uses_classes}
split = "split"

[edges.inherits]
path = "edges/inherits.parquet"
source = "symbol"
destination = "symbol"

[edges.takes]
path = "edges/takes.parquet"
source = "symbol"
destination = "parameter"

[edges.defined_in]
path = "edges/defined_in.parquet"
source = "symbol"
destination = "module"

[edges.imports]
path = "edges/imports.parquet"
source = "module"
destination = "module"
"""


@dataclass(frozen=True)
class Graph:
    nodes: Mapping[str, pa.Table]
    edges: Mapping[str, pa.Table]
    toml: str
    reasons: Mapping[str, int]
    """Why `uses` edges are no targets -> how many."""


def make_graph(corpus: Corpus) -> Graph:
    """Relations, labels, splits and masked texts of a corpus."""
    relations = find_relations(corpus)
    uses = ask_uses(corpus, relations)
    areas = ask_areas(corpus)
    targets = [pair for pair, split in uses.splits.items() if split != "message"]
    texts = masked_texts(corpus, targets)
    words = word_features([*texts.symbols.values(), *texts.modules.values()])
    takes = common_parameters(corpus)
    nodes = {
        "symbol": _table(
            id=texts.symbols.keys(),
            text=texts.symbols.values(),
            label=[areas.labels.get(name) for name in texts.symbols],
            split=[areas.splits.get(name) for name in texts.symbols],
        ).append_column("words", pa.array(words[: len(texts.symbols)], FEATURES)),
        "module": _table(
            id=texts.modules.keys(),
            text=texts.modules.values(),
        ).append_column("words", pa.array(words[len(texts.symbols) :], FEATURES)),
        "parameter": _table(id=sorted({name for _, name in takes})),
    }
    edges = {
        "uses": _edges(
            uses.splits,
            label=[relations.uses[pair] for pair in uses.splits],
            split=uses.splits.values(),
        ),
        "inherits": _edges(sorted(relations.inherits)),
        "takes": _edges(takes),
        "defined_in": _edges(sorted((s.id, s.module) for s in corpus.symbols.values())),
        "imports": _edges(sorted(relations.imports)),
    }
    toml = GRAPH_TOML.format(
        areas=json.dumps(sorted(set(areas.labels.values()))), uses_classes=json.dumps(KINDS)
    )
    return Graph(nodes, edges, toml, uses.reasons)


def common_parameters(corpus: Corpus) -> list[Pair]:
    """(symbol, parameter) in order, for the parameters that are nodes."""
    takers: dict[str, set[str]] = defaultdict(set)
    for symbol in corpus.symbols.values():
        for name in symbol.parameters():
            takers[name].add(symbol.id)
    symbols, packages = COMMON
    return sorted(
        (symbol, name)
        for name, taken_by in takers.items()
        if len(taken_by) >= symbols
        and len({corpus.modules[corpus.symbols[s].module].package for s in taken_by}) >= packages
        for symbol in taken_by
    )


def _edges(pairs: Iterable[Pair], **columns: Iterable[str]) -> pa.Table:
    pairs = list(pairs)
    return _table(src_id=[a for a, _ in pairs], dst_id=[b for _, b in pairs], **columns)


def _table(**columns: Iterable[str | None]) -> pa.Table:
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def write_graph(graph: Graph, folder: Path) -> None:
    """Tables and graph.toml into an existing folder."""
    for kind, tables in (("nodes", graph.nodes), ("edges", graph.edges)):
        (folder / kind).mkdir()
        for name, table in tables.items():
            pq.write_table(table, folder / kind / f"{name}.parquet")
    (folder / "graph.toml").write_text(graph.toml)


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
        "nodes": {name: len(table) for name, table in graph.nodes.items()},
        "edges": {name: len(table) for name, table in graph.edges.items()},
        "uses": _counts(graph.edges["uses"]["split"]),
        "kinds": _counts(graph.edges["uses"]["label"]),
        "why": dict(sorted(graph.reasons.items())),
        "asked": _counts(graph.nodes["symbol"]["split"]),
        "areas": _counts(graph.nodes["symbol"]["label"]),
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


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    return dict(sorted(Counter(value or "none" for value in column.to_pylist()).items()))


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
    for name in ("nodes", "edges", "uses", "kinds", "why", "asked", "areas"):
        print(f"{name}: " + ", ".join(f"{count} {what}" for what, count in facts[name].items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
