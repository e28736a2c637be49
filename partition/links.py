"""Files of a partition that are the same in its parent: linked, not written again.

Owns which content keys a file depends on. Never links a file whose checksum is wrong.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from partition.earlier import Earlier
from partition.manifest import FileInfo, PartitionManifest
from partition.storage import sha256_of


def link_unchanged(draft: Path, manifest: PartitionManifest, parent: Earlier) -> dict[str, FileInfo]:
    """Put the parent's files that are right for a partition into its folder; path -> what is known of it.

    Both must have the same assignment of nodes; then equal keys make equal files.
    """
    linked = {}
    for name, info in parent.manifest.files.items():
        wanted = keys_of(name, manifest.keys)
        if wanted is None or wanted != keys_of(name, parent.manifest.keys):
            continue
        source, target = parent.folder / name, draft / name
        if not _is_sound(source, info):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():  # else it is there since a build that was stopped
            try:
                os.link(source, target)
            except OSError:  # another owner, or a file system without links
                shutil.copyfile(source, target)
        linked[name] = info
    return linked


def linked_words(linked: Mapping[str, FileInfo]) -> str:
    """`; N files, N MB, are the parent's`, or nothing."""
    megabytes = sum(info.size for info in linked.values()) / 1e6
    return f"; {len(linked)} files, {megabytes:,.1f} MB, are the parent's" if linked else ""


def keys_of(name: str, keys: Mapping[str, str]) -> dict[str, str] | None:
    """The content keys that a file of a partition is made of; None for one that is never shared."""
    inner = name.partition("/")[2]
    if not inner or "layout" not in keys:
        return None
    wanted = _parts_of(inner)
    if wanted is None:
        return None
    prefix, kinds = wanted
    return {
        key: value
        for key, value in keys.items()
        if key == "layout" or (key.startswith(prefix) and key.rpartition("/")[2] in kinds)
    }


def _parts_of(inner: str) -> tuple[str, tuple[str, ...]] | None:
    """(first letters, last word) of the keys besides layout that a file of a host depends on."""
    folder, _, rest = inner.rpartition("/")
    match folder, rest:
        case "", "graph.dgl":
            return "nodes/", ()
        case "", "node_feat.dgl":
            return "nodes/", ("features", "labels")
        case "", "edge_feat.dgl":
            return "edges/", ("features",)
        case "ids", _:
            return "nodes/", ()
        case "tokens", _:
            return f"nodes/{rest.rsplit('.', 2)[0]}/", ("tokens",)  # TYPE.values.npy
        case "targets/nodes", _:
            return f"nodes/{rest.removesuffix('.parquet')}/", ("targets",)
        case "targets/edges", _:
            return f"edges/{rest.removesuffix('.parquet')}/", ("targets",)
    return None


def _is_sound(path: Path, info: FileInfo) -> bool:
    try:
        return sha256_of(path) == info.sha256
    except OSError:  # removed meanwhile, or not ours to read
        return False
