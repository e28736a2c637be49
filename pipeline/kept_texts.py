"""Text embeddings kept in a run folder, for stages and runs that meet the same texts under the same language
model.

Owns the files, and how a text is found in them: by hashes of its tokens, so that it does not matter which id
a node has, nor which host and part it is on. Never encodes, and never decides what is kept.
Shape letters: N texts of a part, U distinct ones, D width, W = words(D).

  RUN/texts/LM/TYPE/part-P.records.npy   int64 N x W, by id: records (records.py) under a text's second hash
  RUN/texts/LM/TYPE/part-P.index.npy     int64 2 x U: first hashes, ascending, and a row of each; written last
A text is the one of a record if both hashes say so, 128 bits. A damaged record is that of no text.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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

INDEX_BYTES = 16
"""Of a text, beside its record."""
_ANY = Stamp(0, 0)
"""The folder says which language model computed them."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Part:
    """The files of a part, mapped."""

    path: Path
    index: np.ndarray
    records: np.ndarray


def runs_to_search(plan: TrainPlan, run: Path) -> list[Path]:
    """A run's own folder, and those of the runs that its stages start from."""
    return [run, *(Path(stage.start.rpartition(":")[0]) for stage in plan.stages if ":" in stage.start)]


def text_hashes(tokens: Ragged) -> Tensor:
    """int64 N x 2, by which texts are known again."""
    return torch.stack([token_hashes(tokens, turn) for turn in (0, 1)], dim=1)


class KeptTexts:
    """What some runs have kept of a node type's texts under one language model."""

    def __init__(self, runs: Sequence[Path], lm: str, node_type: str, width: int) -> None:
        """`runs`: the run's own folder, then others; `lm`: the version of the language model; `width`: of its
        embeddings. A file that cannot be read is passed over with a warning."""
        self._width = width
        folders = [run / "texts" / lm / node_type for run in dict.fromkeys(runs)]
        parts = [_opened(path, width) for f in folders for path in sorted(f.glob("part-*.index.npy"))]
        self._parts = [part for part in parts if part is not None]
        self._own = {part.path: part for part in self._parts if part.path.parent == folders[0]}
        self._others = [part for part in self._parts if part.path not in self._own]
        self._own_folder = folders[0]

    @property
    def empty(self) -> bool:
        return not self._parts

    def find(self, tokens: Ragged, *, part: int, first: int) -> tuple[Tensor, Tensor]:
        """(bool, which of some texts are there; float16 x D, the embeddings of those, in their order).

        The texts are rows `first`, `first` + 1, … of a part. Where the run itself has kept them they are
        looked for in their own places first, since equal texts that ran apart differ in rounding: so a run
        that goes on repeats an unbroken one."""
        hashes = text_hashes(tokens)
        found = torch.zeros(len(hashes), dtype=torch.bool)
        rows = torch.zeros(len(hashes), self._width, dtype=torch.float16)

        def take(kept: _Part, here: Tensor, places: np.ndarray) -> int:
            """Of texts (positions) the records at some places; how many were others or damaged."""
            if not len(here):
                return 0
            record = unpack(torch.from_numpy(np.array(kept.records[places])), hashes[here, 1], self._width)
            found[here[record.whole]] = True
            rows[here[record.whole]] = record.rows[record.whole]
            return int((~record.whole).sum())

        own = self._own.get(_path(self._own_folder, part))
        if own is not None:
            here = torch.arange(min(len(hashes), max(0, len(own.records) - first)))
            take(own, here, first + here.numpy())
        ascending = hashes[:, 0].argsort()  # the index is read forwards
        # Without its own file a part goes by other runs alone: how many of this run's other parts are written
        # when it is killed is chance.
        for kept in self._parts if own is not None else self._others:
            sought = ascending[~found[ascending]]
            wanted = hashes[sought, 0].numpy()
            place = np.searchsorted(kept.index[0], wanted).clip(max=kept.index.shape[1] - 1)
            same = kept.index[0][place] == wanted
            rows_there = kept.index[1][place[same]].clip(0, len(kept.records) - 1)
            if damaged := take(kept, sought[torch.from_numpy(same)], rows_there):
                _log.warning("%s: %d records are damaged", _records(kept.path), damaged)
        return found, rows[found]


def is_kept(run: Path, lm: str, node_type: str, part: int) -> bool:
    return _path(run / "texts" / lm / node_type, part).exists()


def keep_texts(
    run: Path,
    lm: str,
    node_type: str,
    part: int,
    *,
    hashes: Tensor,
    blocks: Iterable[Tensor],
    width: int,
) -> None:
    """Write the embeddings of a part's texts. `hashes`: their `text_hashes`; `blocks`: their embeddings in
    the same order, some rows x D = `width` at a time. DiskFullError where there is no space for it; files of
    the part that were there before are gone then."""
    path = _path(run / "texts" / lm / node_type, part)
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in (path, _records(path)):
        for left_over in (old, *old.parent.glob(f".{old.name}.*")):  # the latter of killed processes
            left_over.unlink(missing_ok=True)
    with whole_file(_records(path), sync=True) as draft:
        write_npy(draft, np.int64, (len(hashes), words(width)), _packed(hashes, blocks))
    ascending, row = hashes[:, 0].sort(stable=True)
    first = torch.ones(len(row), dtype=torch.bool)
    first[1:] = ascending[1:] != ascending[:-1]
    with whole_file(path, sync=True) as draft:
        index = torch.stack([ascending[first], row[first]]).numpy()
        write_npy(draft, np.int64, index.shape, [index])


def _packed(hashes: Tensor, blocks: Iterable[Tensor]) -> Iterable[np.ndarray]:
    start = 0
    for rows in blocks:
        yield pack(rows, hashes[start : start + len(rows), 1], _ANY).numpy()
        start += len(rows)


def _opened(path: Path, width: int) -> _Part | None:
    """None for an empty part, and for files that do not go together."""
    try:
        index, records = (np.load(p, mmap_mode="r", allow_pickle=False) for p in (path, _records(path)))
    except (OSError, ValueError, EOFError) as error:
        _log.warning("%s is passed over: %s", path, error)
        return None
    fits = index.ndim == records.ndim == 2 and index.dtype == records.dtype == np.int64
    if not fits or index.shape[0] != 2 or records.shape[1] != words(width):
        _log.warning("%s is passed over: it is none, or %s does not fit it", path, _records(path).name)
        return None
    return _Part(path, index, records) if index.size and len(records) else None


def _path(folder: Path, part: int) -> Path:
    return folder / f"part-{part}.index.npy"


def _records(index: Path) -> Path:
    return index.with_name(index.name.replace(".index.npy", ".records.npy"))
