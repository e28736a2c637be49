"""Makes the graph of WordNet's synsets: `python build.py OUT_FOLDER --dict FOLDER`.

Reads the data.* files of WordNet 3.0 (format: wndb(5WN)) and writes Parquet tables and graph.toml.
Downloads nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also under `python -P`

from graph_folder import check_free, pair_split, split_of, write_graph

PARTS = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
"""Part of speech -> ending of its data file. Satellites ("s") are in the adjectives' file."""

LEXNAMES = (
    *("adj.all", "adj.pert", "adv.all", "noun.Tops", "noun.act", "noun.animal", "noun.artifact"),
    *("noun.attribute", "noun.body", "noun.cognition", "noun.communication", "noun.event", "noun.feeling"),
    *("noun.food", "noun.group", "noun.location", "noun.motive", "noun.object", "noun.person"),
    *("noun.phenomenon", "noun.plant", "noun.possession", "noun.process", "noun.quantity", "noun.relation"),
    *("noun.shape", "noun.state", "noun.substance", "noun.time", "verb.body", "verb.change"),
    *("verb.cognition", "verb.communication", "verb.competition", "verb.consumption", "verb.contact"),
    *("verb.creation", "verb.emotion", "verb.motion", "verb.perception", "verb.possession"),
    *("verb.social", "verb.stative", "verb.weather", "adj.ppl"),
)
"""Lexicographer files by number: lexnames(5WN)."""

POINTERS = {
    "@": "hypernym",
    "@i": "instance_hypernym",
    "#m": "member_holonym",
    "#p": "part_holonym",
    "#s": "substance_holonym",
    ";c": "domain_topic",
    ";r": "domain_region",
    ";u": "domain_usage",
    "*": "entailment",
    ">": "cause",
    "<": "participle",
    "\\": "pertainym",
    "^": "also_see",
    "!": "antonym",
    "+": "derivation",
    "=": "attribute",
    "&": "similar_to",
    "$": "verb_group",
}
"""Symbol -> relation; of two inverse ones (hyponyms, meronyms, members of a domain) only this one."""
SYMMETRIC = {"antonym", "derivation", "attribute", "similar_to", "verb_group"}
"""Stored once, from the smaller id to the larger."""


@dataclass(frozen=True)
class Synset:
    id: str
    """Part of speech and offset: n00001740."""
    lemmas: tuple[str, ...]
    lexname: str
    gloss: str
    pointers: tuple[tuple[str, str], ...]
    """(symbol, id of the other synset)."""

    @property
    def text(self) -> str:
        return f"{', '.join(self.lemmas)}: {self.gloss}"


def read_synsets(folder: Path) -> Iterator[Synset]:
    """All synsets of the four data files, in their order; ValueError names file and line."""
    for part, ending in PARTS.items():
        path = folder / f"data.{ending}"
        if not path.is_file():
            raise FileNotFoundError(
                f"no {path}: unpack Debian's package wordnet-base (README.md beside this program) and name "
                "its usr/share/wordnet with --dict"
            )
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.startswith(" "):
                    continue  # the licence
                try:
                    yield parse_synset(line, part)
                except (IndexError, ValueError) as error:
                    raise ValueError(f"{path}, line {number}: no synset ({error}): {line[:60]!r}") from None


def parse_synset(line: str, part: str) -> Synset:
    """One line: offset file type words* pointers* frames* | gloss; ValueError or IndexError if not."""
    head, bar, gloss = line.partition("|")
    if not bar:
        raise ValueError("no | before a gloss")
    fields = head.split()
    words = int(fields[3], 16)
    lemmas = tuple(_lemma(word) for word in fields[4 : 4 + 2 * words : 2])
    start = 5 + 2 * words
    pointers = tuple(
        (fields[at], fields[at + 2] + fields[at + 1])
        for at in range(start, start + 4 * int(fields[start - 1]), 4)
    )
    return Synset(part + fields[0], lemmas, LEXNAMES[int(fields[1])], gloss.strip(), pointers)


def _lemma(word: str) -> str:
    """take_a_breath -> take a breath; galore(ip) -> galore, without the adjective's place."""
    return word.partition("(")[0].replace("_", " ")


def node_table(synsets: Sequence[Synset]) -> pa.Table:
    return pa.table(
        {
            "id": [s.id for s in synsets],
            "text": [s.text for s in synsets],
            "label": [s.lexname for s in synsets],
            "split": [split_of(s.id, train=0.54, valid=0.18) for s in synsets],
        }
    )


def edge_tables(synsets: Sequence[Synset]) -> dict[str, pa.Table]:
    """Relation -> table; pointers between words count as pointers between their synsets."""
    pairs: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for synset in synsets:
        for symbol, other in synset.pointers:
            relation = POINTERS.get(symbol)
            if relation in SYMMETRIC:
                pairs[relation].add((min(synset.id, other), max(synset.id, other)))
            elif relation:
                pairs[relation].add((synset.id, other))
    tables = {}
    for relation in POINTERS.values():
        ends = sorted((a, b) for a, b in pairs[relation] if a != b)
        columns = {"src_id": [a for a, _ in ends], "dst_id": [b for _, b in ends]}
        if relation == "hypernym":
            columns["split"] = [pair_split(*pair, train=0.8, valid=0.1) for pair in ends]
        tables[relation] = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    return tables


def graph_toml(edges: Mapping[str, pa.Table]) -> str:
    text = (
        'name = "wordnet"\n\n[nodes.synset]\npath = "nodes/synset.parquet"\ntext = "text"\n'
        f'label = "label"\nclasses = {json.dumps(LEXNAMES)}\nsplit = "split"\n'
    )
    for name, table in edges.items():
        text += f'\n[edges.{name}]\npath = "edges/{name}.parquet"\n'
        text += 'source = "synset"\ndestination = "synset"\n'
        text += 'split = "split"\n' if "split" in table.column_names else ""
    return text


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Make the graph of WordNet's synsets.",
        epilog="example: python build.py data/wordnet --dict wn/usr/share/wordnet",
    )
    parser.add_argument("out", type=Path, metavar="OUT_FOLDER", help="folder to make")
    parser.add_argument(
        "--dict", type=Path, default=Path("/usr/share/wordnet"), help="folder with data.noun and the others"
    )
    args = parser.parse_args(argv)
    start = time.perf_counter()
    try:
        check_free(args.out)
        synsets = list(read_synsets(args.dict))
        edges = edge_tables(synsets)
        write_graph(args.out, nodes={"synset": node_table(synsets)}, edges=edges, toml=graph_toml(edges))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    print(f"made {args.out} in {time.perf_counter() - start:.1f} s")
    print(f"nodes: {len(synsets)} synset")
    print("edges: " + ", ".join(f"{len(table)} {name}" for name, table in edges.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
