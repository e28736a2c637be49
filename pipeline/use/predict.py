"""`lmgnn predict RUN`: what a finished run says about nodes or pairs of nodes that a person names.

Owns the flags and the three kinds of answers. All is computed from exported
embeddings and the exported head, on one process. Never reads the graph: known edges are not left out of
answers. Shape letters: B asked, C classes, N candidates, K best, D width.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from partition.errors import UsageError
from pipeline.classes import ClassHead
from pipeline.plain import nearest
from pipeline.tasks import LinkHead
from pipeline.use.asked import Asked, asked_nodes, asked_pairs
from pipeline.use.exported import (
    Exported,
    Ids,
    best_device,
    check_output,
    open_export,
    rounded,
    write_blocks,
)

_TARGETS = 256
"""Nodes or edges scored at a time: against 65,536 candidates their scores take 64 MiB."""
_BEST = 10
"""Destinations of a source without --top."""
Columns = Mapping[str, Any]
"""Name -> Arrow or numpy array."""


def main(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    if options.output:
        check_output(options.output, ".parquet", ".csv")
    exported = open_export(options.run, options.task)
    blocks = _answers(exported, options)
    if options.output:
        print(f"{write_blocks(options.output, blocks):,} rows in {options.output}")
        return 0
    try:
        _show(blocks, as_json=options.json)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough; without this Python complains at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


@torch.no_grad()
def classify(exported: Exported, asked: Asked, *, top: int = 0) -> Iterator[pa.Table]:
    """Class and probability of nodes or edges; with `top` the best classes, one row each, with a rank."""
    task = exported.task
    head = cast(ClassHead, exported.load(ClassHead(task, exported.classes, exported.width)))
    if asked.destinations is None:
        named = {"id": asked.nodes.values}
        heads = tails = exported.pick(task.node_type, asked.nodes)
    else:
        named = {"source": asked.nodes.values, "destination": asked.destinations.values}
        heads, tails = _both(exported, task.relations[0], asked)
    count = min(top or 1, len(exported.classes))
    classes, device = pa.array(exported.classes), best_device()
    for here in _some(len(heads)):
        logits = head.logits(heads[here].to(device), tails[here].to(device))
        probability = logits.softmax(1).cpu().topk(count)
        answer = {
            "predicted": classes.take(pa.array(probability.indices.flatten().numpy())),
            "probability": probability.values.flatten().numpy(),
        }
        yield _table(named, here, count, answer, ranked=top > 0)


@torch.no_grad()
def score_pairs(exported: Exported, relation: str, asked: Asked) -> Iterator[pa.Table]:
    """Score of each pair under a relation of a link task."""
    assert asked.destinations is not None
    head = _link_head(exported)
    heads, tails = _both(exported, relation, asked)
    named = {"source": asked.nodes.values, "destination": asked.destinations.values}
    device = best_device()
    for here in _some(len(heads)):
        scores = head.score(relation, heads[here].to(device), tails[here].to(device)).cpu()
        answer = {"relation": pa.repeat(relation, len(scores)), "score": scores.numpy()}
        yield _table(named, here, 1, answer)


def best_destinations(exported: Exported, relation: str, sources: Ids, *, k: int) -> Iterator[pa.Table]:
    """The k best destinations of each source, out of all but itself; exact, block by block.

    Edges that the graph has already are among them.
    """
    source_type, destination_type = exported.ends[relation]
    heads, names = exported.pick(source_type, sources), exported.ids(destination_type)
    own = torch.full((len(heads),), -1)
    if source_type == destination_type:
        own = torch.from_numpy(pc.index_in(sources.values, value_set=names).to_numpy().astype("int64"))
    best = _search(exported, relation, heads, own, k)
    for here, (scores, rows) in zip(_some(len(heads)), best, strict=True):
        answer = {
            "destination": names.take(pa.array(rows.flatten().numpy())),
            "relation": pa.repeat(relation, rows.numel()),
            "score": scores.flatten().numpy(),
        }
        found = _table({"source": sources.values}, here, scores.shape[1], answer, ranked=True)
        yield found.filter(pc.is_finite(found["score"]))


@torch.no_grad()
def _search(
    exported: Exported, relation: str, heads: Tensor, own: Tensor, k: int
) -> list[tuple[Tensor, Tensor]]:
    """For each slice of the sources: (scores, rows among the destinations), sources x k or fewer. `own`
    (int64 B) is a source's own row, whose score becomes minus infinity, or -1."""
    head, device = _link_head(exported), best_device()
    parts = [(heads[here].to(device), own[here].to(device)) for here in _some(len(heads))]
    best = [(h.new_zeros(len(h), 0), o.new_zeros(len(h), 0)) for h, o in parts]
    first = 0
    for block in exported.vectors(exported.ends[relation][1]):
        tails = block.to(device)
        for number, (some, itself) in enumerate(parts):
            scores = head.score_all(relation, some, tails)
            here = ((itself >= first) & (itself < first + len(tails))).nonzero().squeeze(1)
            scores[here, itself[here] - first] = -torch.inf
            found = scores.topk(min(k, len(tails)), dim=1)
            scores = torch.cat([best[number][0], found.values], dim=1)
            rows = torch.cat([best[number][1], found.indices + first], dim=1)
            kept = scores.topk(min(k, scores.shape[1]), dim=1)
            best[number] = (kept.values, rows.gather(1, kept.indices))
        first += len(tails)
    return [(scores.cpu(), rows.cpu()) for scores, rows in best]


def _link_head(exported: Exported) -> LinkHead:
    return cast(LinkHead, exported.load(LinkHead(exported.task, exported.task.relations, exported.width)))


def _both(exported: Exported, relation: str, asked: Asked) -> tuple[Tensor, Tensor]:
    """float32 B x D of sources and of destinations."""
    assert asked.destinations is not None
    source_type, destination_type = exported.ends[relation]
    return exported.pick(source_type, asked.nodes), exported.pick(destination_type, asked.destinations)


def _some(count: int) -> Iterator[slice]:
    """At least one slice, maybe of nothing."""
    for start in range(0, max(count, 1), _TARGETS):
        yield slice(start, min(start + _TARGETS, count))


def _table(named: Columns, here: slice, each: int, answer: Columns, *, ranked: bool = False) -> pa.Table:
    """Rows of a result: `each` for every id of the slice."""
    asked = torch.arange(here.start, here.stop).repeat_interleave(each)
    columns: dict[str, Any] = {name: ids.take(pa.array(asked.numpy())) for name, ids in named.items()}
    if ranked:
        columns["rank"] = torch.arange(1, each + 1).repeat(here.stop - here.start).numpy()
    return pa.table({**columns, **answer})


def _answers(exported: Exported, options: argparse.Namespace) -> Iterator[pa.Table]:
    task, kind = exported.task, exported.task.kind
    if options.relation and options.relation not in task.relations:
        problem = f"--relation {options.relation}: task {exported.name} has none of that name"
        raise UsageError(problem + nearest(options.relation, task.relations))
    if options.top < 0:
        raise UsageError(f"--top {options.top}: expected a number from 1 up")
    if not options.ids and not options.pairs:
        if options.top or options.relation:
            raise UsageError("--top and --relation need ids", hint="give --ids or --pairs")
        return exported.blocks("predictions")
    if kind == "node_classification":
        return classify(exported, asked_nodes(exported, options.ids, options.pairs), top=options.top)
    relation = options.relation or task.relations[0]
    if not options.relation and len(task.relations) > 1:
        raise UsageError(f"task {exported.name}: --relation is one of {', '.join(task.relations)}")
    asked = asked_pairs(exported, relation, options.ids, options.pairs)
    if kind == "edge_classification":
        return classify(exported, asked, top=options.top)
    if asked.destinations is None:
        return best_destinations(exported, relation, asked.nodes, k=options.top or _BEST)
    if options.top:
        raise UsageError("--top is for sources alone, not for pairs", hint="leave it out")
    return score_pairs(exported, relation, asked)


def _show(blocks: Iterator[pa.Table], *, as_json: bool) -> None:
    """Print rows as CSV, or as one JSON object a line, numbers with six digits."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    for number, block in enumerate(map(rounded, blocks)):
        if as_json:
            sys.stdout.writelines(json.dumps(row) + "\n" for row in block.to_pylist())
            continue
        if number == 0:
            writer.writerow(block.column_names)
        writer.writerows(zip(*(column.to_pylist() for column in block.columns), strict=True))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lmgnn predict",
        description="What a finished run says: classes of nodes or edges, scores of pairs, or the best "
        "destinations of sources (edges that the graph has already are not left out). Without ids: the "
        "run's own predictions. docs/predictions.md tells more.",
        epilog="example: lmgnn predict latest --task topic --ids paper-1 paper-2 --top 3",
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="folder of a finished run")
    add("--task", default="", help="task of the run's plan; may be left out where there is one")
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--ids", nargs="+", action="extend", metavar="ID",
        help="ids, or one table (.csv, .parquet), or - for one id a line on standard input")  # fmt: skip
    given.add_argument("--pairs", nargs="+", action="extend", metavar="SOURCE,DESTINATION")
    add("--relation", default="", help="of a link task with several relations")
    add("--top", type=int, default=0, metavar="K",
        help=f"the K best classes, or for sources alone the K best destinations (else {_BEST})")  # fmt: skip
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--output", type=Path, metavar="FILE", help=".parquet or .csv; else CSV is printed")
    how.add_argument("--json", action="store_true", help="print one JSON object a line")
    return parser
