"""Makes a graph of pages in communities, of any size: `python benchmarks/community.py data/community`.

150,000 pages and 1,500,000 links unless asked otherwise, for measurements that need more than the example
graphs have. Community sizes and degrees follow power laws; four links of five stay in their community. The
words of the texts are those of docstrings of installed packages, and so are the lengths: a page's words come
from its community's stretch of the corpus and from all of it, in no order, so texts are good for counting
tokens and tell a page's community, no more. A tenth of the pages repeat another page's text. The same seed
and packages give the same tables.
"""

from __future__ import annotations

import argparse
import ast
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "python_packages"))

from corpus import corpus_files, find_packages
from graph_folder import check_free, write_graph

PACKAGES = ("matplotlib", "numpy", "scipy", "sklearn", "torch")
"""Whose docstrings the words come from; `lmgnn` itself needs them."""
INSIDE = 0.8
"""Links that stay in their community."""
OWN_WORDS = 0.6
"""Words from the community's stretch of the corpus."""
STRETCH = 2000
"""Words of such a stretch."""
REPEATED = 0.1
SPLIT = {"train": 0.9, "valid": 0.05, "test": 0.05}
SMALLEST_COMMUNITY = 40

Ints = NDArray[np.int64]

TOML = """name = "community"

[nodes.page]
path = "nodes/page.parquet"
id = "id"
text = "text"

[edges.links]
path = "edges/links.parquet"
source = "page"
destination = "page"
split = "split"
"""


@dataclass(frozen=True)
class Corpus:
    words: pa.Array
    """All docstrings' words, file by file."""
    lengths: Ints
    """Words of each docstring, from 1 on."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--pages", type=int, default=150_000)
    parser.add_argument("--links", type=int, default=1_500_000, help="distinct ones, directed")
    parser.add_argument("--words", type=int, default=80, help="of a text at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.monotonic()
    check_free(options.out)
    corpus = read_corpus(PACKAGES)
    page, links = make_tables(
        corpus, pages=options.pages, links=options.links, words=options.words, seed=options.seed
    )
    write_graph(options.out, nodes={"page": page}, edges={"links": links}, toml=TOML)
    print(f"{options.out}: {len(page)} pages, {len(links)} links, {time.monotonic() - started:.0f} s")


def read_corpus(packages: Sequence[str]) -> Corpus:
    """Docstrings of installed packages, in the order of their files; LookupError if one is missing."""
    texts = [text.split() for text in _docstrings(corpus_files(find_packages(packages)).values())]
    words = pa.array([word for text in texts for word in text])
    return Corpus(words, np.array([len(text) for text in texts]))


def _docstrings(files: Iterable[bytes]) -> Iterator[str]:
    """Those with a word in them."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for content in files:
        try:
            nodes = [node for node in ast.walk(ast.parse(content)) if isinstance(node, documented)]
        except (SyntaxError, ValueError):
            continue  # templates and code for other Python versions
        yield from (text for node in nodes if (text := ast.get_docstring(node)) and text.split())


def make_tables(
    corpus: Corpus, *, pages: int, links: int, words: int, seed: int
) -> tuple[pa.Table, pa.Table]:
    """(page: id, text; links: src_id, dst_id, split). Ids, from 0 on, tell nothing of communities."""
    rng = np.random.default_rng(seed)
    first = community_starts(pages, rng)
    text = _texts(corpus, first, pages, words, rng)
    source, destination = draw_links(first, pages, links, rng)
    ids = rng.permutation(pages)
    split = pa.array(list(SPLIT)).take(pa.array(rng.choice(len(SPLIT), links, p=list(SPLIT.values()))))
    return (
        pa.table({"id": np.arange(pages), "text": text.take(pa.array(ids.argsort()))}),
        pa.table({"src_id": ids[source], "dst_id": ids[destination], "split": split}),
    )


def community_starts(pages: int, rng: np.random.Generator) -> Ints:
    """First page of each community, pages in their order; sizes with exponent 2.2, at most a twentieth
    of the pages."""
    sizes = SMALLEST_COMMUNITY * (1 - rng.random(pages // SMALLEST_COMMUNITY + 1)) ** (-1 / 1.2)
    ends = np.minimum(sizes, max(pages / 20, SMALLEST_COMMUNITY)).astype(np.int64).cumsum()
    return np.concatenate([[0], ends[ends < pages]])


def draw_links(first: Ints, pages: int, links: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Distinct pairs of different pages. Both ends are drawn by a page's weight, with exponent 2.5; the
    destination from the source's community or from anywhere. ValueError where so many hardly exist."""
    if links > pages * SMALLEST_COMMUNITY / 3:
        raise ValueError(f"{links} links between {pages} pages: ask for at most 13 a page")
    weights = np.minimum((1 - rng.random(pages)) ** (-1 / 1.5), np.sqrt(pages))
    upto = np.concatenate([[0.0], weights.cumsum()])
    last = np.append(first[1:], pages)
    found = np.zeros(0, dtype=np.int64)
    while len(found) < links:
        count = links - len(found) + 1000
        source = _weighted(upto, np.zeros(count), np.full(count, upto[-1]), rng)
        home = np.searchsorted(first, source, side="right") - 1
        inside = rng.random(count) < INSIDE
        low, high = np.where(inside, upto[first[home]], 0.0), np.where(inside, upto[last[home]], upto[-1])
        destination = _weighted(upto, low, high, rng)
        pairs = (source * pages + destination)[source != destination]
        found = np.unique(np.concatenate([found, pairs]))
    found = rng.permutation(found)[:links]
    return found // pages, found % pages


def _weighted(upto: NDArray, low: NDArray, high: NDArray, rng: np.random.Generator) -> Ints:
    """The pages whose stretch of the summed weights holds a number drawn between `low` and `high`."""
    drawn = low + (high - low) * rng.random(len(low))
    return np.searchsorted(upto, drawn, side="right").clip(1, len(upto) - 1) - 1


def _texts(corpus: Corpus, first: Ints, pages: int, words: int, rng: np.random.Generator) -> pa.Array:
    count = len(corpus.words)
    lengths = np.minimum(rng.choice(corpus.lengths, pages), words)
    offsets = np.concatenate([[0], lengths.cumsum()])
    stretch = rng.integers(0, max(count - STRETCH, 1), len(first))
    home = np.repeat(np.searchsorted(first, np.arange(pages), side="right") - 1, lengths)
    own = stretch[home] + rng.integers(0, min(STRETCH, count), len(home))
    chosen = np.where(rng.random(len(home)) < OWN_WORDS, own, rng.integers(0, count, len(home)))
    lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), corpus.words.take(pa.array(chosen)))
    order = rng.permutation(pages)
    repeated = round(REPEATED * pages)
    says = np.arange(pages)
    says[order[:repeated]] = rng.choice(order[repeated:], repeated)
    return pc.binary_join(lists, " ").take(pa.array(says))


if __name__ == "__main__":
    main()
