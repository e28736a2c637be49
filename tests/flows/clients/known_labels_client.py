"""Runs in place of a trainer: counts known labels over real servers and writes down what it got."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import torch

from pipeline.batch import Batch, ClassTargets
from pipeline.config import TrainPlan
from pipeline.dgl_processes import start_client
from pipeline.engine import start_collectives
from pipeline.graph import Graph
from pipeline.known_labels import KnownLabels
from pipeline.targets import read_labelled_links, read_labelled_nodes


def main() -> None:
    env = os.environ
    run, rank = Path(env["LMGNN_RUN"]), int(env["RANK"])
    with contextlib.redirect_stdout(None):
        start_client(Path(env["LMGNN_PARTITION"]), int(env["LMGNN_HOST"]), env["LMGNN_GRAPH_NAME"])
        graph = Graph(env["LMGNN_GRAPH_NAME"])
    start_collectives(torch.device("cpu"))
    plan = TrainPlan.from_json((run / "plan.json").read_text())
    parts_of = [[part] for part in range(graph.manifest.parts)]
    everyone = {t: torch.arange(graph.ids.count[t]) for t in graph.ids.types}
    out = {}
    for name, task in plan.tasks.items():
        known = KnownLabels(graph, name, task, [rank], parts_of)
        if task.node_type:
            nodes = read_labelled_nodes(
                graph.folder, graph.manifest, part=rank, node_type=task.node_type, split="train"
            )
            targets = ClassTargets(nodes.id, nodes.id[:0], nodes.label)
            key = task.node_type
        else:
            key = task.relations[0]
            links = read_labelled_links(graph.folder, graph.manifest, part=rank, relation=key, split="train")
            targets = ClassTargets(links.source, links.destination, links.label)
        out[name] = {
            "all": dict(known.fill(Batch(nodes=everyone)).known),
            "others": dict(known.fill(Batch(nodes=everyone, classes={key: targets})).known),
        }
    torch.save(out, run / f"out-{rank}.pt")
    torch.distributed.barrier()
    graph.close()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
