"""Text embeddings kept in a run folder, for stages and runs that meet the same texts under the same language
model.

Owns the files, and how a text is found in them: by hashes of its tokens, so that it does not matter which id
a node has, nor which host and part it is on. Never encodes, and never decides what is kept.
Shape letters: N texts, U distinct ones of a part, D width, W = words(D).

  RUN/texts/LM/TYPE/part-P.records.npy   int64 U x W: records (records.py) under a second hash of the tokens
  RUN/texts/LM/TYPE/part-P.hashes.npy    int64 U, ascending: the first hash; written last
A text is the one of a record if both hashes say so, 128 bits. A damaged record is that of no text.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from partition.arrays import write_npy
from pipeline.batch import Ragged
from pipeline.config import TrainPlan
from pipeline.durable import whole_file
from pipeline.grouping import token_hashes
from pipeline.records import Stamp, pack, unpack, words

_ROWS = 8192
"""Records written at a time."""
_ANY = Stamp(0, 0)
"""The folder says which language model computed them."""
_log = logging.getLogger(__name__)


def runs_to_search(plan: TrainPlan, run: Path) -> list[Path]:
    """A run's own folder, and those of the runs that its stages start from."""
    return [run, *(Path(stage.start.rpartition(":")[0]) for stage in plan.stages if ":" in stage.start)]


def text_hashes(tokens: Ragged) -> Tensor:
    """int64 N x 2, by which texts are known again."""
    return torch.stack([token_hashes(tokens, turn) for turn in (0, 1)], dim=1)


class KeptTexts:
    """What some runs have kept of a node type's texts under one language model; the files are mapped."""

    def __init__(self, runs: Sequence[Path], lm: str, node_type: str, width: int) -> None:
        """`lm`: the version of the language model; `width`: of its embeddings. A file that cannot be read is
        passed over with a warning."""
        self._width = width
        self._files: list[tuple[Path, np.ndarray, np.ndarray]] = []
        for run in dict.fromkeys(runs):
            for path in sorted((run / "texts" / lm / node_type).glob("part-*.hashes.npy")):
                self._open(path)

    def _open(self, path: Path) -> None:
        try:
            hashes = np.load(path, mmap_mode="r", allow_pickle=False)
            records = np.load(_beside(path), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            _log.warning("%s is passed over: %s", path, error)
            return
        if records.shape != (len(hashes), words(self._width)) or records.dtype != np.int64:
            _log.warning("%s is passed over: %s does not fit it", path, _beside(path).name)
        elif len(hashes):
            self._files.append((path, hashes, records))

    @property
    def empty(self) -> bool:
        return not self._files

    def find(self, tokens: Ragged) -> tuple[Tensor, Tensor]:
        """(bool N, which of the texts are there; float16 x D, the embeddings of those, in their order)."""
        hashes = text_hashes(tokens)
        found = torch.zeros(len(hashes), dtype=torch.bool)
        rows = torch.zeros(len(hashes), self._width, dtype=torch.float16)
        ascending = hashes[:, 0].argsort()  # files are read forwards
        for path, known, records in self._files:
            sought = ascending[~found[ascending]]
            wanted = hashes[sought].numpy()
            place = np.searchsorted(known, wanted[:, 0]).clip(max=len(known) - 1)
            same = known[place] == wanted[:, 0]
            if not same.any():
                continue
            here = sought[torch.from_numpy(same)]
            kept = unpack(torch.from_numpy(np.array(records[place[same]])), hashes[here, 1], self._width)
            if not bool(kept.whole.all()):
                _log.warning("%s: %d records are damaged", _beside(path), int((~kept.whole).sum()))
            found[here[kept.whole]] = True
            rows[here[kept.whole]] = kept.rows[kept.whole]
        return found, rows[found]


def is_kept(run: Path, lm: str, node_type: str, part: int) -> bool:
    return _path(run, lm, node_type, part).exists()


def keep_texts(
    run: Path,
    lm: str,
    node_type: str,
    part: int,
    *,
    hashes: Tensor,
    width: int,
    read: Callable[[Tensor], Tensor],
) -> None:
    """Write the embeddings of a part's texts. `hashes`: their `text_hashes`; `width`: D; `read`: positions
    among them (int64) -> their rows x D. DiskFullError where there is no space for it."""
    path = _path(run, lm, node_type, part)
    path.parent.mkdir(parents=True, exist_ok=True)
    ascending, order = hashes[:, 0].sort(stable=True)
    first = torch.ones(len(order), dtype=torch.bool)
    first[1:] = ascending[1:] != ascending[:-1]
    chosen = order[first]
    blocks = (pack(read(some), hashes[some, 1], _ANY).numpy() for some in chosen.split(_ROWS))
    with whole_file(_beside(path), sync=False) as draft:
        write_npy(draft, np.int64, (len(chosen), words(width)), blocks)
    with whole_file(path, sync=False) as draft:
        write_npy(draft, np.int64, (len(chosen),), [ascending[first].numpy()])


def _path(run: Path, lm: str, node_type: str, part: int) -> Path:
    return run / "texts" / lm / node_type / f"part-{part}.hashes.npy"


def _beside(hashes: Path) -> Path:
    """The file with the records."""
    return hashes.with_name(hashes.name.replace(".hashes.npy", ".records.npy"))
