"""Starts DGL's graph servers and connects trainers to them, with what DGL 1.1.3 gets wrong there put right.

Owns what servers and trainers have to be told before DGL's own code runs. Never asks for anything of a graph.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dgl
from dgl.distributed import kvstore, rpc, rpc_server

from partition.manifest import PartitionManifest
from pipeline.ids import IdSpace
from pipeline.requests import Host, join

_LISTENS_AFTER_S = 0.3
"""A client asks servers to connect back and listens right after that. DGL's server gives it 3 s for it, at
every start; one that comes too early only tries again."""


def _prepare(folder: Path, host: int, graph_name: str) -> str:
    """Set up this process's view of its part; returns the path of the DGL configuration."""
    manifest = PartitionManifest.load(folder)
    join(Host(folder, manifest, IdSpace(manifest), host))
    _name_shared_memory(graph_name)
    rpc.register_sig_handler = lambda: None  # DGL's ends the process at SIGTERM, instead of worker.py's
    config = json.loads((folder / "graph.json").read_text())
    config["graph_name"] = graph_name
    for part in range(manifest.hosts):
        files = config[f"part-{part}"]
        config[f"part-{part}"] = {name: str((folder / path).resolve()) for name, path in files.items()}
    path = Path(tempfile.mkdtemp(prefix=graph_name)) / "graph.json"
    path.write_text(json.dumps(config))
    return str(path)


def _name_shared_memory(graph_name: str) -> None:
    """Put the job into the names of feature segments, which in dgl 1.1.3 carry only type and
    feature: two jobs on one host would read each other's. Empty tables get ordinary memory,
    since a segment of no bytes cannot be mapped."""
    original = kvstore.empty_shared_mem

    def named(name: str, is_create: bool, shape: Any, dtype: str) -> Any:
        if 0 in tuple(shape):
            return dgl.ndarray.empty(tuple(shape), dtype)
        return original(f"{graph_name}-{name}", is_create, shape, dtype)

    kvstore.empty_shared_mem = named


def serve(folder: Path, host: int, graph_name: str, *, ready: Callable[[], None]) -> None:
    """Be a graph server until all trainers have said goodbye. DGL's variables are in os.environ."""
    os.environ["DGL_CONF_PATH"] = _prepare(folder, host, graph_name)
    original = rpc.wait_for_senders

    def announce(*args: Any, **options: Any) -> None:
        shutil.rmtree(Path(os.environ["DGL_CONF_PATH"]).parent)
        ready()
        original(*args, **options)

    rpc.wait_for_senders = announce
    rpc_server.time = SimpleNamespace(sleep=lambda seconds: time.sleep(min(seconds, _LISTENS_AFTER_S)))
    dgl.distributed.initialize(os.environ["DGL_IP_CONFIG"])


def start_client(folder: Path, host: int, graph_name: str) -> None:
    """Connect this trainer to the servers; must come before torch.distributed starts."""
    os.environ["DGL_CONF_PATH"] = _prepare(folder, host, graph_name)
    dgl.distributed.initialize(os.environ["DGL_IP_CONFIG"])
    shutil.rmtree(Path(os.environ["DGL_CONF_PATH"]).parent)
