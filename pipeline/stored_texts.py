"""The embedding of every text under the language model as it is: stored for the trainers, told, and kept for
later stages and runs. Owns when that is due and what is said. Every function is called by all trainers
together.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch

from pipeline.aging import model_number
from pipeline.events import PROGRESS_MARK
from pipeline.kept_texts import runs_to_search
from pipeline.records import Stamp
from pipeline.trainer import Trainer


def store_texts(trainer: Trainer, *, budget: int, frozen: bool) -> None:
    """Store the embedding of every text, `budget` tokens at a time, unless that has been done. Those of a
    `frozen` language model are kept in the run's folder."""
    started = time.monotonic()
    stamp = trainer.cache.stamp if trainer.cache else Stamp(model_number(trainer.lm_version), 0)
    counts = trainer.inference.encode_texts(version=trainer.lm_version, stamp=stamp, budget=budget)
    if counts:
        if trainer.cache is not None:
            trainer.cache.read_stamps()
        totals = torch.tensor(list(counts.values()))
        torch.distributed.all_reduce(totals)
        texts = dict(zip(counts, totals.tolist(), strict=True))
        trainer.record.event("texts", texts=texts, seconds=time.monotonic() - started)
        _tell(trainer, texts, hoped=frozen and len(runs_to_search(trainer.plan, trainer.run)) > 1)
    if frozen:
        keep_stored_texts(trainer)


def keep_stored_texts(trainer: Trainer) -> None:
    """Keep what is stored for all texts in the run's folder, if it is of the language model as it is. Types
    that are too large for a checkpoint are left out, and named."""
    left_out = trainer.left_out_of_checkpoints
    kept = [name for name in trainer.texts if name not in left_out]
    done = trainer.inference.keep_texts(trainer.lm_version, kept)
    for name in left_out if done else ():
        size = f"{trainer.texts[name].bytes / 2**30:.2f} GiB"
        limit = f"cache.checkpoint_gib = {trainer.plan.cache.checkpoint_gib:g}"
        _say(trainer, f"text embeddings of {name} ({size}) are not kept for later runs: {limit}")


def _tell(trainer: Trainer, texts: Mapping[str, Sequence[int]], *, hoped: bool) -> None:
    """`hoped`: whether the run starts from another, and could have taken some over."""
    for node_type, (taken, encoded) in texts.items():
        if taken or hoped:
            _say(trainer, f"text embeddings of {node_type}: {taken:,} taken over, {encoded:,} encoded")


def _say(trainer: Trainer, text: str) -> None:
    if trainer.rank == 0:
        print(PROGRESS_MARK + text, flush=True)
