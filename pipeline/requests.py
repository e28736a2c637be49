"""Requests that trainers put to graph servers, and what one process knows of its host's part.

DGL carries the messages; what they ask is answered by csc.py and by the part's token files, on the
server for other hosts and in the trainer itself for its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dgl
import numpy as np
import torch
from dgl.distributed import rpc
from dgl.distributed.graph_partition_book import NodePartitionPolicy
from torch import Tensor

from partition.manifest import PartitionManifest
from pipeline.batch import Ragged
from pipeline.csc import Drawn, PartCSC, among, draw
from pipeline.ids import IdSpace
from pipeline.packed import ascending, narrow, pack_drawn, unpack_ascending
from pipeline.records import unpack, version, would_serve
from pipeline.slots import Slots

_SAMPLE, _AMONG, _TOKENS, _ROWS, _RECORDS = 920001, 920002, 920003, 920004, 920005


@dataclass
class Host:
    """What one process knows of its own host's part; set once, before DGL starts."""

    folder: Path
    manifest: PartitionManifest
    ids: IdSpace
    number: int
    csc: PartCSC | None = None

    def __post_init__(self) -> None:
        self.source_type = torch.tensor(
            [self.ids.index[r.source] for r in self.manifest.relations], dtype=torch.int64
        )
        """int64 R: node type that each relation starts from."""

    def part(self, local_graph: dgl.DGLGraph) -> PartCSC:
        if self.csc is None:
            indptr, source, edge = local_graph.adj_tensors("csc")
            _, node_id = self.ids.typed(local_graph.ndata[dgl.NID])
            relation = local_graph.edata[dgl.ETYPE]
            if not torch.equal(edge, torch.arange(len(edge))):  # else it stays in shared memory
                relation = relation[edge]
            self.csc = PartCSC(indptr, source, relation, node_id)
        return self.csc

    def token_rows(self, type_index: int, rows: Tensor) -> Ragged:
        base = self.folder / f"part{self.number}" / "tokens" / self.ids.types[type_index]
        offsets = np.load(f"{base}.offsets.npy", mmap_mode="r")
        values = np.load(f"{base}.values.npy", mmap_mode="r")
        chosen = rows.numpy()
        first, length = offsets[chosen], offsets[chosen + 1] - offsets[chosen]
        ends = np.cumsum(length)
        flat = np.repeat(first - (ends - length), length) + np.arange(ends[-1] if len(ends) else 0)
        return Ragged(
            torch.from_numpy(values[flat].astype(np.int32)),
            torch.from_numpy(np.concatenate([np.zeros(1, np.int64), ends.astype(np.int64)])),
        )


_here: Host | None = None


def join(host: Host) -> None:
    """Make `host` this process's part and teach DGL the requests."""
    global _here
    _here = host
    requests = (
        (_SAMPLE, SampleRequest),
        (_AMONG, AmongRequest),
        (_TOKENS, TokenRequest),
        (_ROWS, RowsRequest),
        (_RECORDS, RecordRequest),
    )
    for service, request in requests:
        rpc.register_service(service, request, Tensors)


def this_host() -> Host:
    if _here is None:
        raise RuntimeError("the graph is not open in this process")
    return _here


class _Message:
    """DGL pickles `__getstate__`; tensors of the tuple travel as they are."""

    fields: tuple[str, ...] = ()

    def __init__(self, *values: Any) -> None:
        self.__setstate__(values)

    def __getstate__(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.fields)

    @property
    def bytes(self) -> int:
        """Of its tensors."""
        return sum(value.nbytes for value in self.__getstate__() if isinstance(value, Tensor))

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        for name, value in zip(self.fields, state, strict=True):
            setattr(self, name, value)


class Tensors(_Message, rpc.Response):
    """A reply: up to four tensors."""

    fields = ("first", "second", "third", "fourth")


NOTHING = torch.zeros(0, dtype=torch.int64)


class SampleRequest(_Message, rpc.Request):
    fields = ("seeds", "fanout", "key", "excluded", "labor")
    seeds: Tensor
    """Positions in the host's part."""
    fanout: Tensor
    key: int
    excluded: Tensor
    labor: bool

    def process_request(self, server_state: Any) -> Tensors:
        return Tensors(*pack_drawn(self.answer(server_state.graph), len(self.fanout)))

    def answer(self, local_graph: dgl.DGLGraph) -> Drawn:
        host = this_host()
        return draw(
            host.part(local_graph),
            self.seeds.long(),
            self.fanout,
            key=self.key,
            excluded=self.excluded,
            source_type=host.source_type if self.labor else None,
        )


class AmongRequest(_Message, rpc.Request):
    fields = ("seeds", "relation", "sources")
    seeds: Tensor
    """Positions in the host's part."""
    relation: int
    sources: Tensor
    """As packed.ascending."""

    def process_request(self, server_state: Any) -> Tensors:
        seed, source = self.answer(server_state.graph)
        return Tensors(narrow(seed), narrow(source), NOTHING, NOTHING)

    def answer(self, local_graph: dgl.DGLGraph) -> tuple[Tensor, Tensor]:
        part = this_host().part(local_graph)
        return among(part, self.seeds.long(), self.relation, unpack_ascending(self.sources))


class TokenRequest(_Message, rpc.Request):
    fields = ("type_index", "rows")
    type_index: int
    rows: Tensor

    def process_request(self, server_state: Any) -> Tensors:
        ragged = self.answer(server_state.graph)
        return Tensors(narrow(ragged.values), ascending(ragged.offsets), NOTHING, NOTHING)

    def answer(self, local_graph: dgl.DGLGraph) -> Ragged:
        return this_host().token_rows(self.type_index, self.rows.long())


class RowsPolicy(NodePartitionPolicy):
    """Nodes lie where they lie, but a host keeps another number of rows than it has nodes. Rows are asked for
    by numbers that count from the host's first node on."""

    def __init__(self, book: Any, node_type: str, name: str, rows: int) -> None:
        """`name`: of the table; `rows`: of this process's host."""
        super().__init__(book, node_type)
        self._policy_str += f"~{name}"
        self._rows = rows

    def get_part_size(self) -> int:
        return self._rows


class RowsRequest(_Message, rpc.Request):
    """Makes a RowsPolicy known to a server, which holds a new table's size against it."""

    fields = ("node_type", "name", "rows")
    node_type: str
    name: str
    rows: int

    def process_request(self, server_state: Any) -> Tensors:
        policy = RowsPolicy(server_state.partition_book, self.node_type, self.name, self.rows)
        # Every trainer of the host asks; their policies are equal, and DGL takes the first it finds.
        server_state.kv_store.add_part_policy(policy)
        return Tensors(NOTHING, NOTHING, NOTHING, NOTHING)


class RecordRequest(_Message, rpc.Request):
    """Asks for stored text embeddings that the asker has no copy of, or an older one."""

    fields = ("table", "node_type", "share", "rows", "held", "wanted")
    table: str
    """Where DGL's servers have the records."""
    node_type: str
    share: float
    """See Slots."""
    rows: Tensor
    """N rows among the host's nodes, as packed.ascending."""
    held: Tensor
    """int16 N x 3: records.version of the asker's copies, 0 where there is none; no rows if there are none at
    all."""
    wanted: Tensor
    """See records.would_serve."""

    def process_request(self, server_state: Any) -> Tensors:
        missing, sent, records = self.answer(server_state.kv_store.data_store[self.table])
        return Tensors(ascending(missing), ascending(sent), records, NOTHING)

    def answer(self, records: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(int64: positions of the nodes without a record that would serve; int64 M: of those whose copy is
        not the record; int64 M x W: their records), from those of this host."""
        host = this_host()
        first, _ = host.manifest.host_range(self.node_type, host.number)
        ids = first + unpack_ascending(self.rows)
        stored = records.index_select(0, Slots(host.manifest, self.node_type, self.share).of(ids) - first)
        found = unpack(stored, ids, 0)  # all of them: a copy must not outlive its damaged record
        same = torch.zeros(len(ids), dtype=torch.bool)
        if len(self.held):
            same = found.whole & (version(stored) == self.held).all(1) & (self.held != 0).any(1)
        sent = found.whole & ~same & would_serve(found, self.wanted)
        missing = (~same & ~sent).nonzero().squeeze(1)
        return missing, sent.nonzero().squeeze(1), stored[sent]
