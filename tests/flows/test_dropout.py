"""Dropout of a task: in place of the model's, in the stages of that task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from toy import build_partition, plan_of, run_processes

STAGES = [{"name": "warm", "kind": "gnn_warm", "task": "cites", "epochs": 1}]


def weights_after(toy: tuple[Path, Path, Path], run: Path, model: dict[str, Any]) -> dict[str, torch.Tensor]:
    graph, lm, store = toy
    partition = build_partition(graph, lm, store, hosts=1, trainers=1)
    run_processes(plan_of(graph, lm, model=model, stages=STAGES), partition, run, hosts=1, trainers=1)
    [best] = (run / "stages" / "warm").glob("0*")
    return load_file(best / "rank-0" / "model.safetensors")


def test_a_task_trains_with_its_own_dropout(toy: tuple[Path, Path, Path], tmp_path: Path) -> None:
    whole = weights_after(toy, tmp_path / "whole", {"dropout": 0.5})
    of_task = weights_after(toy, tmp_path / "task", {"dropout": 0.0, "dropout_of": {"cites": 0.5}})
    without = weights_after(toy, tmp_path / "without", {"dropout": 0.0})
    assert all(torch.equal(whole[name], of_task[name]) for name in whole)
    assert not all(torch.equal(whole[name], without[name]) for name in whole)
