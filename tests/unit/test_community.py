"""benchmarks/community.py: what the graph that it makes is like."""

from __future__ import annotations

import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import networkx as nx
import numpy as np
import pyarrow as pa
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import community

PAGES, LINKS, WORDS = 4000, 30_000, 9


@pytest.fixture(scope="module")
def corpus() -> community.Corpus:
    return community.Corpus(pa.array([f"word{n}" for n in range(20_000)]), np.arange(1, 40))


@pytest.fixture(scope="module")
def tables(corpus: community.Corpus) -> tuple[pa.Table, pa.Table]:
    return community.make_tables(corpus, pages=PAGES, links=LINKS, words=WORDS, seed=3)


def test_links_are_as_many_as_asked_for_distinct_and_between_different_pages(tables):
    source, destination = (tables[1][name].to_pylist() for name in ("src_id", "dst_id"))
    assert len(set(zip(source, destination, strict=True))) == LINKS
    assert not any(a == b for a, b in zip(source, destination, strict=True))
    assert set(source) | set(destination) <= set(tables[0]["id"].to_pylist())
    counts = Counter(tables[1]["split"].to_pylist())
    assert counts["train"] / LINKS == pytest.approx(0.9, abs=0.01)
    assert set(counts) == {"train", "valid", "test"}


def test_links_stay_in_their_communities_and_crowd_at_few_pages(corpus):
    rng = np.random.default_rng(1)
    first = community.community_starts(PAGES, rng)
    source, destination = community.draw_links(first, PAGES, LINKS, rng)
    home = [np.searchsorted(first, ends, side="right") for ends in (source, destination)]
    assert (home[0] == home[1]).mean() == pytest.approx(community.INSIDE, abs=0.05)
    graph = nx.DiGraph(zip(source.tolist(), destination.tolist(), strict=True))
    groups = [set(range(*ends)) for ends in zip(first, [*first[1:], PAGES], strict=True)]
    graph.add_nodes_from(range(PAGES))
    assert nx.community.modularity(graph, groups) > 0.6
    degrees = np.sort(np.bincount(destination, minlength=PAGES))
    assert degrees[-PAGES // 100 :].sum() > 0.06 * LINKS  # six times their share


def test_few_communities_are_large_and_none_is_more_than_a_twentieth():
    sizes = np.diff(community.community_starts(100_000, np.random.default_rng(0)))
    assert sizes.min() >= community.SMALLEST_COMMUNITY
    assert 20 * np.median(sizes) < sizes.max() <= 5000


def test_a_tenth_of_the_pages_repeat_a_text(tables):
    texts = tables[0]["text"].to_pylist()
    long = [text for text in texts if len(text.split()) >= 5]  # short ones may meet by chance
    assert 1 - len(set(long)) / len(long) == pytest.approx(community.REPEATED, abs=0.02)
    assert {len(text.split()) for text in texts} == set(range(1, WORDS + 1))


def test_pages_of_a_community_share_words(tables, corpus):
    rng = np.random.default_rng(3)  # as make_tables draws first
    first = community.community_starts(PAGES, rng)
    texts = community._texts(corpus, first, PAGES, WORDS, rng).to_pylist()
    seen = [Counter(w for text in texts[a:b] for w in text.split()) for a, b in pairwise(first)]
    stretches = [np.array([int(word[4:]) for word in words.elements()]) for words in seen]
    for numbers in stretches:
        begins = np.arange(0, 20_000, community.STRETCH // 2)
        most = max(((numbers >= b) & (numbers < b + 1.5 * community.STRETCH)).mean() for b in begins)
        assert most > 0.5  # 3/20 of the words if they came from anywhere


def test_the_same_seed_gives_the_same_tables_and_another_one_others(tables, corpus):
    again = community.make_tables(corpus, pages=PAGES, links=LINKS, words=WORDS, seed=3)
    other = community.make_tables(corpus, pages=PAGES, links=LINKS, words=WORDS, seed=4)
    assert all(mine.equals(same) for mine, same in zip(tables, again, strict=True))
    assert not any(mine.equals(new) for mine, new in zip(tables, other, strict=True))


def test_more_links_than_can_be_distinct_are_refused(corpus):
    with pytest.raises(ValueError, match="at most 13 a page"):
        community.make_tables(corpus, pages=100, links=5000, words=WORDS, seed=0)


def test_words_come_from_docstrings_of_installed_packages():
    corpus = community.read_corpus(["fsspec"])
    assert "filesystem" in set(corpus.words.to_pylist())
    assert corpus.lengths.sum() == len(corpus.words)
