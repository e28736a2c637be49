"""Tensors and optimizer states as files that are safe to read.

Owns the choice of format: safetensors for tensors, torch.save read with weights_only=True for optimizer
states. Never unpickles classes, and never falls back to doing so.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from partition.errors import StoreError
from pipeline.durable import naming_full_disk


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file. Tensors that share memory are stored once each."""
    plain, seen = {}, set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        plain[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    with naming_full_disk(path):
        save_file(plain, str(path))


def load_tensors(path: Path, *, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Read what save_tensors wrote; StoreError when the file is none."""
    try:
        return load_file(str(path), device=str(device))
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error


def save_optimizer(path: Path, state: Mapping[str, Any]) -> None:
    """Write an optimizer's state: tensors, numbers, strings, lists and dicts of them.

    TypeError for other classes, because load_optimizer would refuse them.
    """
    with naming_full_disk(path), open(path, "wb") as file:
        torch.save(state, file)
    foreign = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    if foreign:
        path.unlink()
        raise TypeError(f"{path.name}: cannot be loaded safely, holds {', '.join(sorted(foreign))}")


def load_optimizer(path: Path) -> dict[str, Any]:
    """Read what save_optimizer wrote, onto the CPU; StoreError when that is not what it is."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    return state
