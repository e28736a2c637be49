"""A graph in memory -> a plan that two CPU cores can run, as commented TOML.

Owns the stages of somebody's first run; what it may predict: tasks.py. Never trains and never reads a file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from partition.tables import GraphTables
from pipeline.config import DEFAULT_LM, TaskPlan
from pipeline.start.sizes import BATCH, TRAINERS, Sizes, most_negatives, sizes_of, two_digits
from pipeline.start.tasks import Task, find_tasks

_WARM_BATCH = 256
_WARM_STEPS = 600
"""0.2 to 0.5 s each on a CPU."""
_UNEVEN = 10
"""Training targets of the largest class over those of the smallest, from which on balancing is mentioned."""


@dataclass(frozen=True)
class Starter:
    """A plan's text, or what is missing for one."""

    text: str
    """Empty if nothing can be predicted."""
    tasks: tuple[str, ...]
    """A sentence for each task."""
    missing: tuple[str, ...]
    """A sentence for each label or split that makes no task."""


def starter_plan(tables: GraphTables, *, name: str, path: str) -> Starter:
    """The plan for a graph; `path` is what its graph.path shall say."""
    everything, missing = find_tasks(tables)
    tasks, ideas = ([task for task in everything if task.sure is sure] for sure in (True, False))
    if not tasks:
        return Starter("", (), tuple(missing))
    sizes = sizes_of(tables, {task.name: task.size for task in tasks})
    shared = _last_shared(sizes, _texts_between(tables))
    blocks = [
        _head(tables, sizes),
        f"name = {json.dumps(name, ensure_ascii=False)}",
        f"[graph]\npath = {json.dumps(path, ensure_ascii=False)}  # holds graph.toml; relative to this file",
        _model(sizes),
        *(_task_block(task, sizes) for task in everything),
        *_text_stages(sizes, _texts_between(tables)),
        *_task_stages(sizes, tasks, shared=shared),
        *(_commented(_warm_stage(task, f"_{task.name}", shared)) for task in ideas),
    ]
    told = [f"{t.name}: {t.kind} of {_told(t.of)}, {t.training:,} training targets" for t in tasks]
    told += [f"{t.name}: {t.kind} of {_told(t.of)}, written as a comment" for t in ideas]
    return Starter("\n\n".join(blocks) + "\n", tuple(told), tuple(missing))


def _told(of: tuple[str, ...]) -> str:
    return of[0] if len(of) == 1 else f"{len(of)} relations"


def _texts_between(tables: GraphTables) -> int:
    """Edges between texts that a graph_lm stage may learn from."""
    texts = {name for name, table in tables.nodes.items() if table.texts is not None}
    found = [e for e in tables.edges.values() if {e.schema.source, e.schema.destination} <= texts]
    return sum(len(e.source) if e.splits is None else int((e.splits == 0).sum()) for e in found)


def _head(tables: GraphTables, sizes: Sizes) -> str:
    nodes, edges = sum(sizes.count.values()), sum(len(t.source) for t in tables.edges.values())
    texts = sum(sizes.count[name] for name in sizes.tokens)
    return (
        f"# Made by `lmgnn init` from counts: {nodes:,} nodes ({texts:,} with text), {edges:,} edges.\n"
        "# Its epochs are short, so that two CPU cores get through; `lmgnn plan --config THIS_FILE` tells\n"
        "# how long each stage takes. With accelerators raise, in this order: epochs of graph_lm (to 2) and\n"
        "# of the joint stages (to 3 or more), lm_layers to 0 (all), fanout, train_nodes and batch_size.\n"
        "# Every key, its default and when to change it: docs/plan.md; the reasons: docs/training.md."
    )


def _model(sizes: Sizes) -> str:
    lines = ["[model]"]
    if sizes.tokens:
        told = ", ".join(f"{name} {tokens:.0f}" for name, tokens in sizes.tokens.items())
        layers = "half of MiniLM, since there are many texts; 0 = all" if sizes.lm_layers else "0 = all"
        lines += [
            f"lm = {json.dumps(DEFAULT_LM)}  # MiniLM; another one: a Hugging Face name or a folder",
            f"lm_layers = {sizes.lm_layers}  # {layers}",
            f"max_length = {sizes.max_length}  # tokens kept of a text; expected on average: {told}",
        ]
    fanout = f"fanout = {list(sizes.fanout)}  # neighbours per relation, from the targets outwards"
    return "\n".join([*lines, "hidden = 128", "gnn_layers = 2", fanout])


def _commented(block: str) -> str:
    return "\n".join(f"# {line}" for line in block.splitlines())


def _task_block(task: Task, sizes: Sizes) -> str:
    lines = [f"[tasks.{task.name}]", f'kind = "{task.kind}"']
    if task.kind == "node_classification":
        lines += [
            f'node_type = "{task.of[0]}"',
            'metric = "accuracy"  # or macro_f1: each class counts alike',
        ]
    elif task.kind == "edge_classification":
        lines += [f"relations = {json.dumps(task.of)}", 'metric = "macro_f1"  # or accuracy']
    else:
        negatives = min(TaskPlan.eval_negatives, most_negatives(sizes.count[task.size.ends[1]]))
        lines += [f"relations = {json.dumps(task.of)}", f"eval_negatives = {negatives}"]
        if len(task.of) > 1:
            lines.append('scorer = "distmult"  # a vector for each relation; "dot" takes them all for one')
    if task.classes and max(task.classes) > _UNEVEN * max(min(task.classes), 1):
        told = f"from {min(task.classes):,} to {max(task.classes):,} training targets a class"
        lines.append(f'# class_weights = "balanced"  # {told}: raises macro_f1, costs accuracy')
    if task.classes:
        told = "classes of other training targets are inputs; false where the split is by groups"
        lines.append(f"known_labels = true  # {told}")
    if task.sure:
        return "\n".join(lines)
    about = "# Its links can be asked for as well: uncomment this and the stage at the end."
    return _commented("\n".join([about, *lines]))


def _text_stages(sizes: Sizes, edges: int) -> list[str]:
    """What all tasks share: the language model learns the texts, then which of them are joined."""
    if not sizes.tokens:
        return []
    texts = sum(sizes.count[name] for name in sizes.tokens)
    mean = sizes.cost(sizes.count) / max(texts, 1)
    trained = 3 * BATCH * mean
    mlm = {
        "epochs": sizes.epochs("mlm", texts, tokens=trained, most=1),
        "batch_size": BATCH,
        "lm_rate": 5e-5,
    }
    blocks = [_stage("mlm", "mlm", mlm, "# Guesses hidden words of the texts.")]
    if edges:
        graph_lm = {
            "epochs": sizes.epochs("graph_lm", edges, tokens=2 * trained, most=3),
            "batch_size": BATCH,
            "lm_rate": 1e-4,
            "negatives": "batch",
        }
        about = "# Learns from the texts alone which of them are joined, over all relations between texts."
        blocks.append(_stage("graph_lm", "graph_lm", graph_lm, about))
    return blocks


def _last_shared(sizes: Sizes, edges: int) -> str:
    """The stage that every task starts from; empty without texts."""
    return "" if not sizes.tokens else "graph_lm" if edges else "mlm"


def _task_stages(sizes: Sizes, tasks: Sequence[Task], *, shared: str) -> list[str]:
    blocks = []
    for number, task in enumerate(tasks):
        end = f"_{task.name}" if len(tasks) > 1 else ""
        blocks.append(_warm_stage(task, end, shared if number else ""))
        if not shared:
            continue
        tokens = sizes.joint_tokens[task.name] + 3 * BATCH * max(sizes.tokens.values())
        joint = {
            "task": task.name,
            "epochs": sizes.epochs("joint", task.training, tokens=tokens, most=3),
            "batch_size": BATCH,
            "lm_rate": 1e-5,
            "rate": 1e-4,
            "train_nodes": BATCH,
        }
        blocks.append(_stage(f"joint{end}", "joint", joint, "# Trains language model and graph together."))
    return blocks


def _warm_stage(task: Task, end: str, start: str) -> str:
    warm = {
        "task": task.name,
        **({"start": start} if start else {}),
        "epochs": two_digits(min(40, max(2, _WARM_STEPS * _WARM_BATCH * TRAINERS / task.training))),
        "batch_size": _WARM_BATCH,
        "rate": 3e-3,
        "evals": 5,
    }
    about = "# Trains the graph encoder on text embeddings that stay as they are."
    return _stage(f"gnn_warm{end}", "gnn_warm", warm, about)


def _stage(name: str, kind: str, keys: Mapping[str, object], about: str) -> str:
    lines = [about, "[[stages]]", f'name = "{name}"', f'kind = "{kind}"']
    values = {key: f"{v:g}" if isinstance(v, float) else json.dumps(v) for key, v in keys.items()}
    return "\n".join([*lines, *(f"{key} = {value}" for key, value in values.items())])
