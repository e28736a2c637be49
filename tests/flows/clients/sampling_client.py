"""Runs in place of a trainer: samples over real servers and writes down what it got."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import torch

from pipeline.batch import Layer
from pipeline.config import TrainPlan
from pipeline.csc import NO_EDGES
from pipeline.dgl_processes import start_client
from pipeline.graph import Graph
from pipeline.sampling import LinkBatches, Sampler, excluded_edges, expand, sampler_of
from pipeline.targets import read_links

Triples = dict[str, torch.Tensor]


def typed_edges(graph: Graph, nodes: dict[str, torch.Tensor], layer: Layer) -> Triples:
    """Relation -> E x 2 typed (source, destination) ids of a layer."""
    found = {}
    for name, edges in layer.edges.items():
        info = graph.manifest.relation(name)
        ends = nodes[info.source][edges.source], nodes[info.destination][edges.destination]
        found[name] = torch.stack(ends, dim=1)
    return found


def main() -> None:
    env = os.environ
    run, rank, world = Path(env["LMGNN_RUN"]), int(env["RANK"]), int(env["WORLD_SIZE"])
    with contextlib.redirect_stdout(None):
        start_client(Path(env["LMGNN_PARTITION"]), int(env["LMGNN_HOST"]), env["LMGNN_GRAPH_NAME"])
        graph = Graph(env["LMGNN_GRAPH_NAME"])
    plan = TrainPlan.from_json((run / "plan.json").read_text())
    everyone = Sampler((torch.full((len(graph.relations),), -1),) * 2)
    seeds = {t: torch.arange(rank, graph.ids.count[t], world * 5) for t in graph.ids.types}
    nodes, layers = expand(graph, seeds, everyone, key=1)
    out = {
        "seeds": seeds,
        "nodes": nodes,
        "full": [typed_edges(graph, nodes, layer) for layer in layers],
        "sizes": [(dict(layer.sources), dict(layer.destinations)) for layer in layers],
    }
    papers = torch.arange(graph.ids.count["paper"])
    tokens = graph.tokens("paper", papers.flip(0))
    out["tokens"] = [
        tokens.values[a:b].tolist() for a, b in zip(tokens.offsets, tokens.offsets[1:], strict=False)
    ]
    out["features"] = graph.features("venue", torch.arange(graph.ids.count["venue"]))
    out["costs"] = graph.take_costs()
    few = torch.full((len(graph.relations),), 3)
    for name, labor in (("drawn", False), ("labor", True)):
        drawn = graph.sample({"paper": papers}, few, key=7, excluded=NO_EDGES, labor=labor)
        out[name] = {name: (n.destination, n.source, n.scale) for name, n in drawn.items()}

    part = graph.host * graph.manifest.trainers + int(env["LOCAL_RANK"])
    links = read_links(graph.folder, graph.manifest, part=part, relations=["cites"], split="train")
    batches = LinkBatches(graph, plan.tasks["cites"], ["cites"], sampler=sampler_of(graph, plan.model))
    batch = batches.make(links, part=part, key=11)
    out["links"] = torch.stack([links.source, links.destination], dim=1)
    out["excluded"] = excluded_edges(graph, ["cites"], links).names
    out["batch_edges"] = [typed_edges(graph, dict(batch.nodes), layer) for layer in batch.layers]
    batch.save(run / f"batch-{rank}.safetensors")
    torch.save(out, run / f"out-{rank}.pt")
    graph.close()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)
