"""Classical baselines beside every task of a run, and their place in metrics.json.

`python -m pipeline baselines RUN`: reads the run's plan and partition, hands each task to the module
of its kind, writes what the test split says. Never loads a model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from partition.errors import UsageError
from pipeline.baselines.classes import class_baselines
from pipeline.baselines.features import Features
from pipeline.baselines.links import Baseline, link_baselines
from pipeline.baselines.stored_graph import StoredGraph
from pipeline.config import TaskPlan, TrainPlan
from pipeline.durable import write_whole

Found = Mapping[str, Mapping[str, Baseline]]
"""Task -> baseline -> its figures."""


def run(run_folder: str | Path) -> Found:
    """Compute the baselines of every task and write their test values into RUN/metrics.json.

    UsageError if the folder is no run, StoreError if the partition does not fit the graph.
    """
    folder = Path(run_folder)
    plan = TrainPlan.from_json(_read(folder, "plan.json"))
    graph = StoredGraph(plan, Path(json.loads(_read(folder, "launch.json"))["partition"]))
    features = Features(graph.texts(), graph.message_edges())
    found = {name: _of_task(graph, features, task, plan.seed) for name, task in plan.tasks.items()}
    _add_to_metrics(folder / "metrics.json", found, plan.tasks)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="lmgnn baselines",
        description="Answer a run's tasks by popularity or majority, by words, and by the graph alone.",
        epilog="example: lmgnn baselines runs/latest",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run that has been started")
    folder = parser.parse_args(argv).run
    found = run(folder)
    tasks = TrainPlan.from_json(_read(folder, "plan.json")).tasks
    for name, baselines in found.items():
        metric = tasks[name].chosen_metric
        for baseline, figures in baselines.items():
            chosen = ", ".join(f"{key} = {value}" for key, value in figures.choice.items())
            told = f"test {metric} {figures.test[metric]:.4f} (validation {figures.valid[metric]:.4f})"
            print(f"{name}: {baseline} {told}" + (f"; {chosen}" if chosen else ""))
    print("All choices were made on validation; the test split was scored once, with them.")
    return 0


def _of_task(graph: StoredGraph, features: Features, task: TaskPlan, seed: int) -> dict[str, Baseline]:
    if task.kind != "link_prediction":
        return class_baselines(features, graph.labelled(task), task.chosen_metric)
    valid, test = (graph.questions(task, split, seed) for split in ("valid", "test"))
    return link_baselines(features, valid, test)


def _read(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_text()
    except FileNotFoundError:
        raise UsageError(
            f"{folder} is no run ({name} is missing)", hint="name a folder below runs/"
        ) from None


def _add_to_metrics(path: Path, found: Found, tasks: Mapping[str, TaskPlan]) -> None:
    metrics: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for name, baselines in found.items():
        entry = metrics.setdefault("tasks", {}).setdefault(name, {})
        metric = tasks[name].chosen_metric
        entry["baselines"] = {baseline: figures.test[metric] for baseline, figures in baselines.items()}
        entry["baseline_metrics"] = {baseline: dict(figures.test) for baseline, figures in baselines.items()}
        entry["baseline_choices"] = {
            baseline: dict(figures.choice) for baseline, figures in baselines.items()
        }
    write_whole(path, json.dumps(metrics, indent=1) + "\n", sync=True)
