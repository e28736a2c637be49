"""What a finished partition is: types, relations, id ranges, files. Standard library only.

Owns the id space. Per node type, ids are ordered by (host, trainer, cluster), so that every level
of the hierarchy is one range per type. A *part* is one trainer's share; parts are numbered
host-major (part = host * trainers + trainer). Never opens a data file.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

from partition.errors import FormatError, StoreError, UsageError

FORMAT_VERSION = 3
MANIFEST_NAME = "manifest.json"
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class NodeTypeInfo:
    """One node type: how many nodes, and which columns they have."""

    name: str
    count: int
    text: bool = False
    tokens: int = 0
    """Token ids stored over all nodes of the type, special tokens included."""
    feature_width: int = 0
    classes: tuple[str, ...] = ()
    """Class names in label order; empty without labels."""
    targets: Mapping[str, int] = field(default_factory=dict)
    """split -> labelled nodes in it."""
    id_column: str = ""
    """Of the type's table; empty in partitions made before it was kept."""


@dataclass(frozen=True)
class RelationInfo:
    """One edge type; names are unique by themselves."""

    name: str
    source: str
    destination: str
    count: int
    """Edges in the stored graph (those that messages may use)."""
    reverse: str = ""
    """Name of the relation that holds every edge of this one turned round; empty if none."""
    is_reverse: bool = False
    """Whether this relation was made by turning another one round."""
    feature_width: int = 0
    classes: tuple[str, ...] = ()
    targets: Mapping[str, int] = field(default_factory=dict)
    """split -> target edges in it (stored graph or not)."""
    id_columns: tuple[str, str] = ("", "")
    """Columns of the relation's table with the ids of source and destination; none of a reversed one."""


@dataclass(frozen=True)
class FileInfo:
    size: int
    sha256: str


@dataclass(frozen=True)
class ReuseInfo:
    """What a partition took from an earlier one, and what that cost."""

    how: str = ""
    """kept, extended or regrouped; empty = cut afresh."""
    origin: str = ""
    """Newest of itself and its ancestors that was cut or regrouped: what drift is measured against."""
    new: int = 0
    """Nodes that have come since the origin."""
    gone: int = 0
    """Nodes that have left since the origin."""
    drift: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Figure -> (at the origin, now): shares of edges cut, and the heaviest part over the mean."""


@dataclass(frozen=True)
class PartitionManifest:
    """One immutable partition. `offsets[t][c]` is the first id of type t in cluster c."""

    id: str
    graph_name: str
    hosts: int
    trainers: int
    """Parts per host."""
    node_types: tuple[NodeTypeInfo, ...]
    relations: tuple[RelationInfo, ...]
    clusters: tuple[int, ...]
    """Clusters of each part; length hosts * trainers."""
    offsets: Mapping[str, tuple[int, ...]]
    """Node type -> first id of every cluster in order, then the count; length sum(clusters) + 1."""
    options: Mapping[str, Any]
    inputs: Mapping[str, str]
    """Table (path relative to the graph folder) -> fingerprint."""
    stats: Mapping[str, Any]
    files: Mapping[str, FileInfo]
    """Path relative to the partition folder -> size and checksum; the manifest itself excepted."""
    schema_name: str = ""
    """Of the graph, in graph.toml; empty in partitions made before it was kept."""
    parent: str = ""
    """Partition whose assignment of nodes this one goes on with; empty = cut afresh."""
    parent_numbering: str = ""
    """The parent's `numbering` as it was then; empty without a parent, and in partitions made before."""
    reuse: ReuseInfo = field(default_factory=ReuseInfo)
    keys: Mapping[str, str] = field(default_factory=dict)
    """What of the input -> sha256 of its content (keys.py); empty in partitions made before they were."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Step -> how long it took when it was last done, here or in an ancestor."""
    version: int = FORMAT_VERSION

    @property
    def parts(self) -> int:
        return self.hosts * self.trainers

    @property
    def numbering(self) -> str:
        """Hash of which node has which id, and where parts begin, 20 hex digits.

        The id does not tell: the same request, built once more after the partition was lost, may be cut by
        another method, or out of another partition. Whatever names nodes by id names this as well.
        """
        ids = {name: info.sha256 for name, info in self.files.items() if name.split("/")[1:2] == ["ids"]}
        text = json.dumps([self.clusters, self.offsets, ids], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    def files_of_host(self, host: int) -> dict[str, FileInfo]:
        """What the processes of a host read: its part, what all share, and the id maps of all parts.

        Id maps of other hosts name the far ends of links in predictions and examples.
        """
        return {
            name: info
            for name, info in self.files.items()
            if "/" not in name or name.startswith(f"part{host}/") or name.split("/")[1] == "ids"
        }

    def node_type(self, name: str) -> NodeTypeInfo:
        """UsageError for an unknown name."""
        return _named(self.node_types, name, "node type")

    def relation(self, name: str) -> RelationInfo:
        """UsageError for an unknown name."""
        return _named(self.relations, name, "relation")

    def host_range(self, node_type: str, host: int) -> tuple[int, int]:
        """[first, last) id of a type on a host."""
        first = self.part_range(node_type, host * self.trainers)[0]
        return first, self.part_range(node_type, (host + 1) * self.trainers - 1)[1]

    def part_range(self, node_type: str, part: int) -> tuple[int, int]:
        """[first, last) id of a type in a trainer's part."""
        bounds = [0, *accumulate(self.clusters)]
        offsets = self.offsets[node_type]
        return offsets[bounds[part]], offsets[bounds[part + 1]]

    def homogeneous_starts(self) -> dict[str, tuple[int, ...]]:
        """Node type -> for each host, the DGL homogeneous id of its first node of that type.

        DGL numbers nodes by (host, type, id within host and type); parts follow as ranges.
        """
        starts: dict[str, list[int]] = {t.name: [] for t in self.node_types}
        position = 0
        for host in range(self.hosts):
            for node_type in self.node_types:
                first, last = self.host_range(node_type.name, host)
                starts[node_type.name].append(position)
                position += last - first
        return {name: tuple(values) for name, values in starts.items()}

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> PartitionManifest:
        raw = json.loads(text)
        if raw.get("version") != FORMAT_VERSION:
            raise FormatError(
                f"partition format {raw.get('version')} is not the {FORMAT_VERSION} of this code",
                hint="build the partition again",
            )
        raw["node_types"] = tuple(
            NodeTypeInfo(**{**t, "classes": tuple(t["classes"])}) for t in raw["node_types"]
        )
        raw["relations"] = tuple(
            RelationInfo(**{**r, "classes": tuple(r["classes"]), "id_columns": tuple(r["id_columns"])})
            for r in raw["relations"]
        )
        raw["clusters"] = tuple(raw["clusters"])
        raw["offsets"] = {name: tuple(values) for name, values in raw["offsets"].items()}
        raw["files"] = {name: FileInfo(**info) for name, info in raw["files"].items()}
        reuse = raw.pop("reuse", {})
        drift = {name: (first, now) for name, (first, now) in reuse.pop("drift", {}).items()}
        raw["reuse"] = ReuseInfo(**reuse, drift=drift)
        return cls(**raw)

    @classmethod
    def load(cls, folder: str | Path) -> PartitionManifest:
        """Read a partition's manifest; StoreError where there is none, FormatError for another."""
        path = Path(folder) / MANIFEST_NAME
        try:
            return cls.from_json(path.read_text())
        except FileNotFoundError:
            raise StoreError(
                f"{folder} holds no finished partition ({MANIFEST_NAME} is missing)",
                hint="build it with `lmgnn partition build`",
            ) from None


_Named = TypeVar("_Named", NodeTypeInfo, RelationInfo)


def _named(items: Sequence[_Named], name: str, what: str) -> _Named:
    for item in items:
        if item.name == name:
            return item
    names = [item.name for item in items]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(names)}"
    raise UsageError(f"the graph has no {what} {name!r}", hint=hint)
