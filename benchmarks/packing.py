"""What packing texts into shared rows saves: TextEncoder with it and without, on the same texts in one run.

`python benchmarks/packing.py` writes benchmarks/results/packing.json and prints it as one line of JSON, the
last. Texts are drawn token by token, their lengths as those of two graphs: `short` of 3 to 60 tokens, evenly,
like WN18RR's glosses; `cut`: seven of ten cut at 64, the others of 30 to 64, like Debian's descriptions. A
case is a number of texts through the first layers of the default language model without dropout: CPU seconds
of one thread for forward and backward (`trained`) and for encoding without gradients (`forward`), summed over
the seeds of the draw. The two ways take turns. `ratio`: packed over padded. Before a case each way runs once
unseen.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.batch import Ragged
from pipeline.config import DEFAULT_LM, ModelPlan, StagePlan
from pipeline.lm import TextEncoder
from pipeline.packing import Packing

HERE = Path(__file__).resolve().parent
WAYS = ("padded", "packed")
LONGEST = 64


class Never(Packing):
    """Of a model that does not pack."""

    def suits(self, longest: int) -> bool:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--seeds", type=int, default=6, help="draws of texts in a case")
    add("--layers", type=int, nargs="*", default=[2, 6], help="first layers of the language model")
    add("--texts", type=int, nargs="*", default=[8, 32], help="texts that run together")
    add("--output", type=Path, default=HERE / "results" / "packing.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    cases = []
    for layers in options.layers:
        plan = ModelPlan(lm=DEFAULT_LM, lm_layers=layers, lm_dropout=0.0, max_length=LONGEST)
        packed = TextEncoder.from_plan(plan).train()
        padded = TextEncoder(
            packed.base, packed.tokenizer, pooling="mean", source=packed.source, packing=Never(packed.base)
        )
        for kind in LENGTHS:
            for count in options.texts:
                found = measure({"padded": padded, "packed": packed}, kind, count, options.seeds)
                cases.append({"layers": layers, "lengths": kind, "texts": count, **found})
                print(json.dumps(cases[-1]), file=sys.stderr, flush=True)
    result = {
        "lm": DEFAULT_LM,
        "forward_tokens": StagePlan.forward_tokens,
        "seeds": options.seeds,
        "cases": cases,
        "load_average_before": round(load, 2),
        "cores": os.cpu_count(),
    }
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return 0


def short(count: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(3, 61, (count,), generator=generator)


def cut(count: int, generator: torch.Generator) -> torch.Tensor:
    whole = torch.rand(count, generator=generator) < 0.7
    return torch.where(whole, LONGEST, torch.randint(30, LONGEST + 1, (count,), generator=generator))


LENGTHS: dict[str, Callable[[int, torch.Generator], torch.Tensor]] = {"short": short, "cut": cut}


def draw(kind: str, count: int, seed: int, vocabulary: int) -> Ragged:
    generator = torch.Generator().manual_seed(seed)
    lengths = LENGTHS[kind](count, generator)
    values = torch.randint(1, vocabulary, (int(lengths.sum()),), generator=generator)
    return Ragged(values, torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]))


def measure(encoders: dict[str, TextEncoder], kind: str, count: int, seeds: int) -> dict[str, Any]:
    seconds = {use: dict.fromkeys(WAYS, 0.0) for use in ("trained", "forward")}
    before = {}
    for seed in range(-1, seeds):
        tokens = draw(kind, count, seed % seeds, encoders["packed"].vocabulary)
        for way in WAYS if seed % 2 else reversed(WAYS):
            encoder = encoders[way]
            if seed == 0:
                before[way] = encoder.work
            for use, run in (("trained", train), ("forward", encode)):
                started = time.process_time()
                run(encoder, tokens)
                seconds[use][way] += time.process_time() - started if seed >= 0 else 0.0
    work = {way: encoders[way].work - before[way] for way in WAYS}
    return {
        "padding_share": {
            way: round(one.padding_trained / one.tokens_trained, 4) for way, one in work.items()
        },
        **{
            f"{use}_ms": {way: round(1000 * value / seeds, 1) for way, value in one.items()}
            for use, one in seconds.items()
        },
        "ratio": {use: round(one["packed"] / one["padded"], 3) for use, one in seconds.items()},
    }


def train(encoder: TextEncoder, tokens: Ragged) -> None:
    """As in a step: gradients are there already and are added to."""
    encoder(tokens, StagePlan.forward_tokens).square().sum().backward()


def encode(encoder: TextEncoder, tokens: Ragged) -> None:
    encoder.encode(tokens, StagePlan.forward_tokens)


if __name__ == "__main__":
    sys.exit(main())
