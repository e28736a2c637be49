"""The partitioned graph as trainers see it: what is asked of DGL goes through here.

DistDGL's servers hold one part each and answer over RPC; a trainer reads its own host's part from
shared memory. Stock sampling over a DistGraph ignores exclusions and cannot be repeated
(dgl 1.1.3: `DistGraph.sample_neighbors` drops `exclude_edges`), so neighbours, edge look-ups and
token lists have requests of their own (requests.py). Calls are not
thread-safe: DGL's client takes whichever reply comes first.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
from dgl.distributed import DistEmbedding, DistGraph, DistTensor, dist_context, rpc
from dgl.distributed.graph_partition_book import NodePartitionPolicy
from torch import Tensor

from partition.reader import read_ids
from pipeline.batch import Ragged
from pipeline.csc import Drawn, Excluded, edges_into
from pipeline.packed import ascending, narrow, unpack_ascending, unpack_drawn
from pipeline.requests import (
    NOTHING,
    AmongRequest,
    RowsPolicy,
    RowsRequest,
    SampleRequest,
    TokenRequest,
    this_host,
)
from pipeline.sharded import Embedding, Table


@dataclass(frozen=True)
class Neighbours:
    """Drawn in-edges of one relation, ordered by (destination, source)."""

    destination: Tensor
    """int64 E: position among the seeds of the relation's destination type."""
    source: Tensor
    """int64 E: typed ids."""
    scale: Tensor
    """float32 E: see batch.Edges."""


class Graph:
    """A trainer's view of the whole graph. All ids are typed (pipeline/ids.py), int64."""

    def __init__(self, graph_name: str) -> None:
        """Connect to the servers; call after `start_client`, once, on every trainer."""
        host = this_host()
        self.manifest, self.ids, self.host, self.folder = host.manifest, host.ids, host.number, host.folder
        self.relations = tuple(r.name for r in self.manifest.relations)
        self.relation_index = {name: i for i, name in enumerate(self.relations)}
        self.costs: Counter[str] = Counter()
        """Since the last `take_costs`: edges, rows, texts, tokens and records that came from other hosts, and
        bytes of requests to them and of their answers, rows of DGL's own tables and framing left out."""
        self._graph = DistGraph(graph_name)
        self._tables: dict[str, Table] = {}

    def take_costs(self) -> dict[str, float]:
        costs, self.costs = dict(self.costs), Counter()
        return {name: float(value) for name, value in costs.items()}

    def sample(
        self, seeds: Mapping[str, Tensor], fanout: Tensor, *, key: int, excluded: Excluded, labor: bool
    ) -> dict[str, Neighbours]:
        """Draw in-edges of seeds of several types (see csc.draw); relation -> what was drawn."""
        types = [t for t in self.ids.types if t in seeds and len(seeds[t])]
        if not types:
            return {}
        flat = torch.cat([self.ids.homogeneous(t, seeds[t]) for t in types])
        owner = torch.cat([self.ids.host_of(t, seeds[t]) for t in types])
        sizes = torch.tensor([len(seeds[t]) for t in types])
        first = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)

        def request(host: int, rows: Tensor) -> SampleRequest:
            return SampleRequest(self._places(host, flat[rows]), fanout, key, excluded.into(host), labor)

        seed, relation, source, scale = [], [], [], []
        for target, rows, reply in self.ask(owner, request):
            drawn = reply if isinstance(reply, Drawn) else unpack_drawn(reply.__getstate__(), len(fanout))
            seed.append(rows[drawn.seed])
            relation.append(drawn.relation)
            source.append(drawn.source)
            scale.append(drawn.scale)
            if target != self.host:
                self.costs["remote_edges"] += len(drawn.seed)
        everything = Drawn(torch.cat(seed), torch.cat(relation), torch.cat(source), torch.cat(scale))
        return self._by_relation(everything, first)

    def _places(self, host: int, homogeneous: Tensor) -> Tensor:
        """Positions in a host's part, as they travel."""
        return narrow(homogeneous - self.ids.host_first[host])

    def _by_relation(self, drawn: Drawn, first: Tensor) -> dict[str, Neighbours]:
        found = {}
        for number in torch.unique(drawn.relation).tolist():
            rows = (drawn.relation == number).nonzero().squeeze(1)
            # Hosts answer one after the other: bring the seeds back into one order.
            rows = rows[drawn.seed[rows].argsort(stable=True)]
            seed = drawn.seed[rows]
            found[self.relations[number]] = Neighbours(
                seed - first[seed], drawn.source[rows], drawn.scale[rows]
            )
        return found

    def among(self, relation: str, seeds: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
        """Stored edges from `sources` (sorted, distinct) to `seeds`: positions in both lists."""
        node_type = self.manifest.relation(relation).destination
        flat = self.ids.homogeneous(node_type, seeds)
        number = self.relation_index[relation]
        owner = self.ids.host_of(node_type, seeds)
        pairs, asked = ([NOTHING], [NOTHING]), ascending(sources)
        for _, rows, reply in self.ask(
            owner, lambda host, rows: AmongRequest(self._places(host, flat[rows]), number, asked)
        ):
            seed, source = reply if isinstance(reply, tuple) else reply.__getstate__()[:2]
            pairs[0].append(rows[seed.long()])
            pairs[1].append(source.long())
        return torch.cat(pairs[0]), torch.cat(pairs[1])

    def stored_edges(self, relation: str, part: int) -> tuple[Tensor, Tensor]:
        """(sources, destinations), typed ids, of a relation's edges into a part of this host."""
        node_type = self.manifest.relation(relation).destination
        ids = torch.arange(*self.manifest.part_range(node_type, part))
        host = this_host()
        seeds = self.ids.homogeneous(node_type, ids) - self.ids.host_first[host.number]
        return edges_into(host.part(self._graph.local_partition), seeds, ids, self.relation_index[relation])

    def tokens(self, node_type: str, ids: Tensor) -> Ragged:
        """Token ids (int32) of nodes of a type with text, in the order of `ids`."""
        index, local = self.ids.index[node_type], self.ids.local(node_type, ids)
        owner = self.ids.host_of(node_type, ids)
        values, lengths, order = [], [], []
        for target, rows, reply in self.ask(owner, lambda _, rows: TokenRequest(index, narrow(local[rows]))):
            part = reply
            if not isinstance(reply, Ragged):
                part = Ragged(reply.first.to(torch.int32), unpack_ascending(reply.second))
            values.append(part.values)
            lengths.append(part.lengths())
            order.append(rows)
            if target != self.host:
                self.costs["remote_texts"] += len(rows)
                self.costs["remote_tokens"] += part.values.numel()
        if not order:
            return Ragged(torch.zeros(0, dtype=torch.int32), torch.zeros(1, dtype=torch.int64))
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat(lengths).cumsum(0)])
        return Ragged(torch.cat(values), offsets).select(torch.cat(order).argsort())

    def features(self, node_type: str, ids: Tensor) -> Tensor:
        """float32 rows of the numeric features."""
        remote = int((self.ids.host_of(node_type, ids) != self.host).sum())
        self.costs["remote_rows"] += remote
        return self._node_data(node_type)["feat"][ids]

    def _node_data(self, node_type: str) -> Any:
        return self._graph.nodes[node_type].data

    def table(
        self, name: str, node_type: str, width: int, dtype: torch.dtype, *, rows: int | None = None
    ) -> Table:
        """A table of zeros, made on first use; every trainer must ask in the same order. `rows`: that this
        host has, unless it has one for each of its nodes."""
        key = f"{name}-{node_type}"
        if key not in self._tables:
            policy = self._policy(node_type) if rows is None else self._rows_policy(node_type, name, rows)
            shape = (self.ids.count[node_type], width)
            tensor = DistTensor(shape, dtype, key, part_policy=policy, persistent=True)
            self._tables[key] = Table(tensor, self.first_local(node_type))
        return self._tables[key]

    def embedding(self, name: str, node_type: str, width: int) -> Embedding:
        """Learnable rows, zero at first; every trainer must ask in the same order."""
        made = DistEmbedding(
            self.ids.count[node_type], width, f"{name}-{node_type}", part_policy=self._policy(node_type)
        )
        made._tensor._persistent = True  # else its deletion is a collective call at a random moment
        return Embedding(made, self.first_local(node_type))

    def own_ids(self, node_type: str, part: int) -> pa.Array:
        """The tables' ids of the nodes of a part on this host, by id."""
        first, last = self.manifest.part_range(node_type, part)
        ids = read_ids(self.folder, self.host, node_type)
        return ids.slice(first - self.first_local(node_type), last - first)

    def first_local(self, node_type: str) -> int:
        return self.manifest.host_range(node_type, self.host)[0]

    def _policy(self, node_type: str) -> NodePartitionPolicy:
        return NodePartitionPolicy(self._graph.get_partition_book(), node_type)

    def _rows_policy(self, node_type: str, name: str, rows: int) -> RowsPolicy:
        """A policy that this host's servers know as well."""
        policy = RowsPolicy(self._graph.get_partition_book(), node_type, name, rows)
        request = RowsRequest(node_type, name, rows)
        group = rpc.get_num_server() // self.manifest.hosts
        for number in range(group):
            rpc.send_request(self.host * group + number, request)
        for _ in range(group):
            rpc.recv_response()
        return policy

    def ask(self, owner: Tensor, request: Callable[[int, Tensor], Any]) -> list[tuple[int, Tensor, Any]]:
        """Put rows to the hosts that own them; [(host, rows, answer)], own host from memory."""
        rows_of = {h: (owner == h).nonzero().squeeze(1) for h in torch.unique(owner).tolist()}
        remote = [(h, request(h, rows)) for h, rows in rows_of.items() if h != self.host]
        pending = rpc.send_requests_to_machine(remote) if remote else {}
        answers = []
        if self.host in rows_of:
            own = request(self.host, rows_of[self.host]).answer(self._graph.local_partition)
            answers.append((self.host, rows_of[self.host], own))
        replies = rpc.recv_responses(pending) if remote else []
        for (host, asked), reply in zip(remote, replies, strict=True):
            self.costs["remote_bytes"] += asked.bytes + reply.bytes
            answers.append((host, rows_of[host], reply))
        return sorted(answers, key=lambda answer: answer[0])

    def close(self) -> None:
        """Say goodbye; the servers leave when every trainer has."""
        with contextlib.redirect_stdout(None):
            dist_context.exit_client()
