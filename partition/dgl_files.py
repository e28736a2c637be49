"""DGL's files of one host, made of mapped arrays, so that next to nothing of them is in memory.

Owns what DGL 1.1.3 is given, and how a file that it could not finish is noticed. DGL copies one array at a
time into memory while it saves (dgl 1.1.3: whatever torch hands over has strides, and those it copies).
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import dgl
import numpy as np
import torch
from dgl.data.utils import save_graphs, save_tensors

from partition.errors import StoreError
from partition.local_graph import LocalGraph

_Content = TypeVar("_Content", LocalGraph, Mapping[str, np.ndarray])

_FULL_BYTES = 1 << 20
"""With less than this free, DGL's failed write is put down to a full disk."""


def save_graph(path: Path, local: LocalGraph) -> None:
    """`graph.dgl`; OSError with ENOSPC if the disk is full, StoreError for other trouble."""
    none = {name: values[:0] for name, values in vars(local).items() if isinstance(values, np.ndarray)}
    empty = LocalGraph(**{**none, "indptr": np.zeros(1, dtype=np.int64)}, own=0)
    _save(path, _saved_graph, local, empty)


def save_features(path: Path, features: Mapping[str, np.ndarray]) -> None:
    """Named arrays of one or two dimensions; errors as above."""
    _save(path, _saved_tensors, features, {name: values[:0] for name, values in features.items()})


def _save(path: Path, save: Callable[[str, _Content], int], content: _Content, empty: _Content) -> None:
    """Of a full disk DGL says nothing, or not when it closes a file: so its length is compared.

    Without anything in its arrays a file is as long as what DGL puts around them.
    """
    with _dgl_writing(path):
        nothing = save(str(path), empty)
        around = path.stat().st_size - nothing
        wanted = around + save(str(path), content)
        if (size := path.stat().st_size) != wanted:
            raise dgl.DGLError(f"{size:,} bytes are there of {wanted:,}")


def _saved_graph(path: str, local: LocalGraph) -> int:
    """Bytes of the arrays that were saved."""
    own = np.zeros(len(local.nodes), dtype=np.uint8)
    own[: local.own] = 1
    in_order = torch.zeros(0, dtype=torch.int64)  # edge i is the i-th: nothing need be said
    structure = torch.from_numpy(local.indptr), torch.from_numpy(local.sources), in_order
    block = dgl.graph(("csc", structure), num_nodes=len(local.nodes))
    nodes = {dgl.NID: local.nodes, dgl.NTYPE: local.types, "inner_node": own}
    edges = {dgl.EID: local.edge_ids, dgl.ETYPE: local.relations, "inner_edge": local.inner}
    for frame, arrays in ((block.ndata, nodes), (block.edata, edges)):
        for name, values in arrays.items():
            frame[name] = torch.from_numpy(values)
    save_graphs(path, [block], formats=["csc"])
    return sum(values.nbytes for values in (local.indptr, local.sources, *nodes.values(), *edges.values()))


def _saved_tensors(path: str, features: Mapping[str, np.ndarray]) -> int:
    save_tensors(path, {name: torch.from_numpy(values) for name, values in features.items()})
    return sum(values.nbytes for values in features.values())


@contextlib.contextmanager
def _dgl_writing(path: Path) -> Iterator[None]:
    """Tell a full disk from other trouble."""
    try:
        yield
    except dgl.DGLError as error:
        if shutil.disk_usage(path.parent).free < _FULL_BYTES:
            raise OSError(errno.ENOSPC, "no space left on the device", str(path)) from error
        raise StoreError(f"{path}: DGL cannot write it: {str(error).splitlines()[0]}") from error
