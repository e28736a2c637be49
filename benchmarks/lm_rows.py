"""How fast texts become vectors: TextEncoder.encode against plain transformers on the same texts.

`python benchmarks/lm_rows.py --file data/debian/nodes/package.parquet --column text` writes
benchmarks/results/lm_rows.json and prints it as one line of JSON, the last. `ratio` is our rows per CPU
second over those of plain transformers in file order, padded to each batch's longest text;
`ratio_same_batches` over those of plain transformers on the very sub-batches we run, which must be within
5 %: all that we add. One thread, CPU seconds; the ways take turns every hundred texts or so, so that
other work on the machine slows all alike. No text leaves the file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers
from torch import Tensor

from partition.tokens import resolve_model, tokenize
from pipeline.batch import Ragged
from pipeline.config import DEFAULT_LM, ModelPlan, StagePlan
from pipeline.grouping import distinct
from pipeline.lm import TextEncoder
from pipeline.text_layout import SubBatch, one_a_row

HERE = Path(__file__).resolve().parent
FILE_ORDER_ROWS = 32
"""Texts of a batch in file order; about 1,900 tokens where a text has 58."""
LARGEST_LOSS = 0.05


BLOCKS = 24
"""Turns that each way gets."""


@dataclass(frozen=True)
class Way:
    """One way to encode all texts."""

    name: str
    batches: Sequence[SubBatch]
    encode: Callable[[Sequence[SubBatch]], Tensor]
    """Some of the batches -> a vector for each of their texts, in that order."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--file", type=Path, required=True, help="Parquet file with texts")
    add("--column", required=True, help="column of the texts")
    add("--rows", type=int, default=3000, help="first rows of the file that are encoded")
    add("--max-length", type=int, default=64, help="tokens kept of a text")
    add("--budget", type=int, default=StagePlan.forward_tokens, help="forward_tokens")
    add("--output", type=Path, default=HERE / "results" / "lm_rows.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    encoder = TextEncoder.from_plan(ModelPlan(lm=DEFAULT_LM, max_length=options.max_length)).eval()
    tokens = read_tokens(options.file, options.column, options.rows, options.max_length, encoder.tokenizer)
    ways = ways_of(encoder, tokens, options.budget)
    load = os.getloadavg()[0]
    seconds, farthest = measure(ways)
    rates = {name: len(tokens) / value for name, value in seconds.items()}
    real = tokens.values.numel()
    result = {
        "lm": DEFAULT_LM,
        "rows": len(tokens),
        "distinct_rows": len(distinct(tokens).first),
        "tokens_per_row": round(real / len(tokens), 1),
        "max_length": options.max_length,
        "forward_tokens": options.budget,
        "rows_per_cpu_second": {name: round(rate, 1) for name, rate in rates.items()},
        "padding_share": {way.name: round(padding_share(way), 4) for way in ways},
        "least_cosine_to_plain": round(farthest, 6),
        "load_average_before": round(load, 2),
        "cores": os.cpu_count(),
        "machine_was_busy": load > 0.5,
        "ratio": round(rates["ours"] / rates["plain_file_order"], 3),
        "ratio_same_batches": round(rates["ours"] / rates["plain_same_batches"], 3),
    }
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return int(result["ratio_same_batches"] < 1 - LARGEST_LOSS)


def read_tokens(file: Path, column: str, rows: int, max_length: int, tokenizer: Any) -> Ragged:
    texts = pq.read_table(file, columns=[column])[column].slice(0, rows).combine_chunks()
    lists = tokenize(
        texts.cast(pa.large_string()), tokenizer, max_length=max_length, what="texts", say=lambda _: None
    )
    return Ragged(torch.from_numpy(lists.values), torch.from_numpy(lists.offsets))


def ways_of(encoder: TextEncoder, tokens: Ragged, budget: int) -> Sequence[Way]:
    plain = transformers.AutoModel.from_pretrained(resolve_model(DEFAULT_LM)).eval()
    first = distinct(tokens).first
    ours = [
        SubBatch(first[one.texts], one.layout) for one in encoder.sub_batches(tokens.select(first), budget)
    ]
    same, in_order = (
        [SubBatch(texts, one_a_row(tokens.lengths()[texts].tolist())) for texts in some]
        for some in ([one.texts for one in ours], torch.arange(len(tokens)).split(FILE_ORDER_ROWS))
    )

    def run(batches: Sequence[SubBatch]) -> Tensor:
        return torch.cat([pooled(plain, tokens.select(one.texts)) for one in batches])

    def encode(batches: Sequence[SubBatch]) -> Tensor:
        # Sorted already: the encoder cuts them into the same sub-batches again.
        return encoder.encode(tokens.select(torch.cat([one.texts for one in batches])), budget)

    return (
        Way("ours", ours, encode),
        Way("plain_same_batches", same, run),
        Way("plain_file_order", in_order, run),
    )


def pooled(plain: Any, tokens: Ragged) -> Tensor:
    """The mean over a text's tokens, N x D, as the model's own card computes it."""
    ids, mask = tokens.padded(0)
    with torch.no_grad():
        states = plain(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        weights = mask[:, :, None].float()
        return (states * weights).sum(1) / weights.sum(1)


def measure(ways: Sequence[Way]) -> tuple[dict[str, float], float]:
    """(name -> CPU seconds for all texts, lowest cosine of our vectors to those of the same batches)."""
    seconds = {way.name: 0.0 for way in ways}
    vectors: dict[str, list[Tensor]] = {way.name: [] for way in ways}
    for way in ways:
        way.encode(way.batches[:1])
    for block in range(BLOCKS):
        for way in ways if block % 2 else reversed(ways):
            first, last = (len(way.batches) * turn // BLOCKS for turn in (block, block + 1))
            if first < last:
                started = time.process_time()
                vectors[way.name].append(way.encode(way.batches[first:last]))
                seconds[way.name] += time.process_time() - started
    found = torch.cosine_similarity(torch.cat(vectors["ours"]), torch.cat(vectors["plain_same_batches"]))
    return seconds, float(found.min())


def padding_share(way: Way) -> float:
    layouts = [one.layout for one in way.batches]
    return 1 - sum(one.text_tokens for one in layouts) / sum(one.tokens for one in layouts)


if __name__ == "__main__":
    sys.exit(main())
