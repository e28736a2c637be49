"""Makes the graph of the smoke job: `python build.py OUT_FOLDER`, a second, the same bytes every time.

Notes on a few subjects that cite notes on their own subject, and the people who wrote them: something
to learn from text and from neighbours, of no other interest. Reads nothing. `--lm FOLDER` makes
instead the language model that lies beside it: random, of a few thousand weights, so that 16 trainers
on two cores take a step in a second.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also under `python -P`

from graph_folder import check_free, pair_split, write_graph

NOTES = 400
WRITERS = 60
CITED = 5
"""Citations of a note, about one in ten of them from another subject."""
SUBJECTS = {
    "sea": "ship harbour wave sailor anchor island storm coast tide captain",
    "farm": "field cow harvest barn tractor wheat farmer soil fence orchard",
    "music": "piano song violin concert rhythm singer melody drum choir opera",
    "sky": "star planet telescope comet orbit galaxy moon eclipse cloud rocket",
    "house": "kitchen window roof garden stairs door chimney cellar wall carpet",
}
COMMON = ["old", "new", "small", "large", "near", "first", "last", "long", "good", "quiet"]
TOML = """\
name = "smoke"

[nodes.note]
path = "nodes/note.parquet"
text = "text"

[nodes.writer]
path = "nodes/writer.parquet"

[edges.cites]
path = "edges/cites.parquet"
source = "note"
destination = "note"
split = "split"

[edges.wrote]
path = "edges/wrote.parquet"
source = "writer"
destination = "note"
"""


def build(out: Path) -> None:
    """FileExistsError if something else is in the folder; a finished one is kept."""
    if (out / "graph.toml").is_file() and (out / "graph.toml").read_text() == TOML:
        return
    check_free(out)
    drawn = random.Random(0)
    names = list(SUBJECTS)
    subject = [drawn.choice(names) for _ in range(NOTES)]
    texts = [_text(drawn, name) for name in subject]
    of = {name: [note for note in range(NOTES) if subject[note] == name] for name in names}
    cites = sorted(
        {
            (note, cited)
            for note in range(NOTES)
            for cited in _cited(drawn, of[subject[note]])
            if cited != note
        }
    )
    splits = [pair_split(str(a), str(b), train=0.8, valid=0.1) for a, b in cites]
    # A writer keeps to one subject.
    wrote = [
        (drawn.randrange(names.index(subject[note]), WRITERS, len(names)), note) for note in range(NOTES)
    ]
    write_graph(
        out,
        nodes={
            "note": pa.table({"id": range(NOTES), "text": texts}),
            "writer": pa.table({"id": range(WRITERS)}),
        },
        edges={"cites": _edges(cites).append_column("split", pa.array(splits)), "wrote": _edges(wrote)},
        toml=TOML,
    )


def _text(drawn: random.Random, subject: str) -> str:
    own = drawn.sample(SUBJECTS[subject].split(), drawn.randint(2, 5))
    words = [*own, *drawn.sample(COMMON, drawn.randint(1, 4))]
    drawn.shuffle(words)
    return " ".join(words)


def _cited(drawn: random.Random, own: Sequence[int]) -> list[int]:
    return [drawn.choice(own) if drawn.random() < 0.9 else drawn.randrange(NOTES) for _ in range(CITED)]


def _edges(pairs: Sequence[tuple[int, int]]) -> pa.Table:
    return pa.table({"src_id": [a for a, _ in pairs], "dst_id": [b for _, b in pairs]})


def make_lm(out: Path) -> None:
    """A random BERT with a tokenizer that knows the words above and no others."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    special = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    words = [*special.values(), *COMMON, *(word for text in SUBJECTS.values() for word in text.split())]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(out)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertForMaskedLM(config).save_pretrained(out)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make the graph of the smoke job.")
    parser.add_argument("out", type=Path, metavar="OUT_FOLDER", help="folder to make")
    parser.add_argument("--lm", action="store_true", help="make the language model there, not the graph")
    options = parser.parse_args(argv)
    out = options.out
    if options.lm:
        make_lm(out)
        return 0
    try:
        build(out)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    print(f"{out}: {NOTES} notes, {WRITERS} writers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
