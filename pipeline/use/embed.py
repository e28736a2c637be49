"""`lmgnn embed RUN`: vectors of new texts by the language model that a run has trained, or the vectors
that it has exported for a node type, in one Parquet file.

Owns the flags and the pieces that a large table is read in; tokens and pooling are those of training.
Never runs the graph encoder: a text alone has no neighbours. Shape letters: N texts, D width.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from partition.columns import read_texts
from partition.errors import UsageError
from partition.tokens import tokenize
from pipeline.batch import Ragged
from pipeline.config import StagePlan
from pipeline.lm import TextEncoder
from pipeline.plain import nearest
from pipeline.use.exported import (
    Exported,
    best_device,
    check_output,
    id_column,
    open_export,
    read_columns,
    write_blocks,
)

_TEXTS = 8192
"""Texts in memory at a time; among so many there are always enough of one length for a pass."""


def main(argv: Sequence[str]) -> int:
    parser = _parser()
    options = parser.parse_args(argv)
    if options.texts and not options.column:
        parser.error("--texts needs --column, the name of the column with the texts")
    if options.nodes and (options.column or options.id or options.type):
        parser.error("--column, --id and --type go with --texts")
    check_output(options.output, ".parquet")
    exported = open_export(options.run, options.task)
    if options.nodes:
        blocks = exported.blocks(f"embeddings/{options.nodes}")
    else:
        encoder = load_encoder(exported, options.type)
        blocks = embed_texts(exported, encoder, options.texts, options.column, id_name=options.id)
    print(f"{write_blocks(options.output, blocks):,} rows in {options.output}")
    return 0


def load_encoder(exported: Exported, node_type: str = "") -> TextEncoder:
    """The run's language model on the best device; UsageError unless it is clear which one."""
    known = sorted(path.name for path in (exported.folder / "lm").glob("[!.]*"))
    if not known:
        raise UsageError(f"{exported.folder} holds no language model", hint="no node of the graph has text")
    if node_type and node_type not in known:
        raise UsageError(f"--type {node_type}: no language model of that name{nearest(node_type, known)}")
    if not node_type and len(known) > 1:
        raise UsageError(f"each node type has its own language model: --type is one of {', '.join(known)}")
    folder = (exported.folder / "lm" / (node_type or known[0])).resolve()
    # The exported model has been cut to its first layers already.
    plan = replace(exported.model, lm=str(folder), lm_layers=0)
    return TextEncoder.from_plan(plan).to(best_device()).eval()


def embed_texts(
    exported: Exported, encoder: TextEncoder, path: Path, column: str, *, id_name: str = ""
) -> Iterator[pa.Table]:
    """id and embedding (float32 D) of each row of a table, some at a time; without a column of ids they
    are the numbers of the rows, from 0."""
    done = 0
    for rows in read_columns(path, [column, *([id_name] if id_name else [])], flag="--texts"):
        texts = read_texts(rows, column)
        numbers = pa.array(np.arange(done, done + len(texts))).cast(pa.large_string())
        ids = id_column(rows, id_name) if id_name else numbers
        for start in range(0, max(len(texts), 1), _TEXTS):
            vectors = _encoded(encoder, texts.slice(start, _TEXTS), exported.model.max_length)
            values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.flatten()), encoder.width)
            yield pa.table({"id": ids.slice(start, _TEXTS), "embedding": values})
        done += len(texts)


def _encoded(encoder: TextEncoder, texts: pa.Array, max_length: int) -> np.ndarray:
    """float32 N x D."""
    lists = tokenize(texts, encoder.tokenizer, max_length=max_length, what="texts", say=lambda _: None)
    device = best_device()
    tokens = Ragged(torch.from_numpy(lists.values).to(device), torch.from_numpy(lists.offsets).to(device))
    found: np.ndarray = encoder.encode(tokens, StagePlan.forward_tokens).float().cpu().numpy()
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lmgnn embed",
        description="Vectors as one Parquet file (id, embedding): of new texts by a finished run's language "
        "model, or of all nodes of a type as the run exported them. docs/predictions.md tells more.",
        epilog="example: lmgnn embed latest --task topic --texts new.csv --column title --output new.parquet",
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="folder of a finished run")
    add("--task", default="", help="task whose model is taken; may be left out where there is one")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--texts", type=Path, metavar="FILE", help="table of texts, .csv or .parquet")
    what.add_argument("--nodes", metavar="TYPE", help="collect this node type's exported embeddings")
    add("--column", default="", metavar="NAME", help="column with the texts")
    add("--id", default="", metavar="NAME", help="column with ids of yours; unset: numbers of the rows")
    add("--type", default="", help="node type whose language model is taken, where each has its own")
    add("--output", type=Path, required=True, metavar="FILE", help="a .parquet file")
    return parser
