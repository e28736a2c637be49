"""Copies of other hosts' records against tables without copies, all hosts in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toy import build_partition, plan_of

from partition.manifest import PartitionManifest
from pipeline.cost.offline import OfflineGraph
from pipeline.hashing import hash_ids, key_of
from pipeline.records import Stamp, pack
from pipeline.room import copied_bytes, copied_share, host_bytes
from pipeline.texttable import TextTable

WIDTH, HOSTS = 12, 2
RECORD = 40
"""Bytes of a record of that width."""
JOINT = [{"name": "joint", "kind": "joint", "task": "cites"}]


@pytest.fixture(scope="module")
def folder(toy: tuple[Path, Path, Path]) -> Path:
    graph, lm, store = toy
    return build_partition(graph, lm, store, hosts=HOSTS, trainers=1)


class Tables:
    """One table of papers, as each of the hosts sees it."""

    def __init__(self, folder: Path, *, share: float = 1.0, copied: float) -> None:
        self.graph = OfflineGraph(folder, PartitionManifest.load(folder))
        self.count = self.graph.ids.count["paper"]
        self.hosts = []
        for self.graph.host in range(HOSTS):
            self.hosts.append(TextTable(self.graph, "paper", WIDTH, share=share, copied=copied))

    def write(self, ids: Tensor, step: int, model: int = 7) -> None:
        """The owners store embeddings that tell of node and step."""
        owner = self.graph.ids.host_of("paper", ids)
        for host, table in enumerate(self.hosts):
            self.graph.host = host
            own = ids[owner == host]
            rows = hash_ids(key_of("row", step), own[:, None], torch.arange(WIDTH)) & 0x3FF
            table.put(own, pack(rows.float(), own, Stamp(model, step)))

    def fetched(self, host: int, ids: Tensor, wanted: Tensor | None = None) -> tuple[Tensor, Tensor, int]:
        """(rows, which are there, records that were sent) of a look-up by a host."""
        self.graph.host = host
        self.graph.take_costs()
        found = self.hosts[host].look_up(ids, *([] if wanted is None else [wanted]))
        return found.rows, found.whole, int(self.graph.take_costs().get("remote_records", 0))

    def others(self, host: int) -> Tensor:
        ids = torch.arange(self.count)
        return ids[self.graph.ids.host_of("paper", ids) != host]


@pytest.mark.parametrize("copied", [1.0, 0.2])
@pytest.mark.parametrize("share", [1.0, 0.4])
def test_what_is_found_does_not_depend_on_copies(folder: Path, share: float, copied: float) -> None:
    plain, with_copies = (Tables(folder, share=share, copied=c) for c in (0.0, copied))
    sent = [0, 0]
    for step in range(12):
        draws = hash_ids(key_of("step", step), torch.arange(plain.count))
        for tables in (plain, with_copies):
            tables.write((draws % 5 == 0).nonzero().squeeze(1), step)
        asked = (draws % 3 != 0).nonzero().squeeze(1).flip(0)
        for host in range(HOSTS):
            expected, found = (tables.fetched(host, asked) for tables in (plain, with_copies))
            assert torch.equal(found[1], expected[1])
            assert torch.equal(found[0][found[1]], expected[0][expected[1]])
            sent = [sent[0] + expected[2], sent[1] + found[2]]
    assert sent[1] < (0.7 if copied == 1 else 0.95) * sent[0]


def test_a_record_travels_once_until_its_owner_writes_another(folder: Path) -> None:
    tables = Tables(folder, copied=1.0)
    ids = tables.others(0)
    tables.write(ids, 3)
    assert [tables.fetched(0, ids)[2] for _ in range(3)] == [len(ids), 0, 0]
    tables.write(ids[:10], 4)
    assert [tables.fetched(0, ids)[2] for _ in range(2)] == [10, 0]


def test_an_owner_s_record_that_is_gone_is_not_served_from_a_copy(folder: Path) -> None:
    tables = Tables(folder, copied=1.0)
    ids = tables.others(0)
    tables.write(ids, 3)
    tables.fetched(0, ids)
    tables.graph.host = 1
    tables.hosts[1].records.put(ids[:5], torch.zeros(5, RECORD // 8, dtype=torch.int64))
    _, whole, sent = tables.fetched(0, ids)
    assert whole.tolist() == [False] * 5 + [True] * (len(ids) - 5)
    assert sent == 0


def test_an_owner_s_damaged_record_is_not_served_from_a_copy(folder: Path) -> None:
    tables = Tables(folder, copied=1.0)
    ids = tables.others(0)
    tables.write(ids, 3)
    tables.fetched(0, ids)
    stored = tables.graph._made["text-paper"].rows[1]
    for row in range(len(stored)):
        stored[row, row % stored.shape[1]] ^= 1 << row % 63
    _, whole, sent = tables.fetched(0, ids)
    assert not bool(whole.any())
    assert sent == 0


def test_a_damaged_copy_is_fetched_again(folder: Path) -> None:
    tables = Tables(folder, copied=1.0)
    ids = tables.others(0)
    tables.write(ids, 3)
    expected, _, _ = tables.fetched(0, ids)
    table = tables.graph._made["copies-paper"].rows[0]
    for row in range(len(table)):
        table[row, row % table.shape[1]] ^= 1 << row % 63
    rows, whole, sent = tables.fetched(0, ids)
    assert bool(whole.all())
    assert torch.equal(rows, expected)
    assert sent == len(ids)


def test_records_that_would_not_serve_do_not_travel(folder: Path) -> None:
    tables = Tables(folder, copied=1.0)
    ids = tables.others(1)
    for step, some in enumerate(ids[:60].split(20)):
        tables.write(some, step)
    tables.write(ids[60:70], 9, model=8)
    _, whole, sent = tables.fetched(1, ids, torch.tensor([[7, 1], [6, 0]]))
    assert whole.nonzero().squeeze(1).tolist() == list(range(20, 60))
    assert sent == 40


def test_own_records_that_the_owner_takes_are_not_fetched(folder: Path) -> None:
    tables = Tables(folder, copied=1.0)
    ids = tables.others(0)[:50]
    records = pack(torch.ones(50, WIDTH), ids, Stamp(7, 2))
    tables.graph.host = 0
    tables.hosts[0].sent(ids, records)
    tables.graph.host = 1
    tables.hosts[1].put(ids[:30], records[:30])
    tables.write(ids[30:], 2)  # what another trainer computed at the same step
    assert tables.fetched(0, ids)[2] == 20


def test_copies_take_no_more_memory_than_their_share(folder: Path) -> None:
    manifest = PartitionManifest.load(folder)
    for share in (1.0, 0.3, 0.001):
        tables = Tables(folder, copied=share)
        for host in range(HOSTS):
            kept = tables.graph._made["copies-paper"].rows[host]
            assert kept.nbytes == RECORD * max(1, int(share * len(tables.others(host))))
    assert manifest.hosts == HOSTS


@pytest.mark.parametrize(
    ("room", "copied"),
    [(0.0, 1.0), (1.0, 0.0), (1.25, 0.25), (9.0, 1.0), (0.5, 0.0)],
)
def test_copies_have_what_the_limit_leaves_beside_a_host_s_own(
    folder: Path, room: float, copied: float
) -> None:
    """`room`: cache.host_gib in hosts' own embeddings; two hosts that own about as many each."""
    manifest, widths = PartitionManifest.load(folder), {"paper": WIDTH}
    own = host_bytes(manifest, widths)
    plan = plan_of(Path("tables"), Path("lm"), stages=JOINT, cache={"host_gib": room * own / 2**30})
    assert copied_share(plan, manifest, widths) == pytest.approx(copied, abs=0.01)
    assert room == 0 or copied_bytes(plan, manifest, widths) + min(own, room * own) <= room * own + 1


@pytest.mark.parametrize(
    "changes",
    [{"cache": {"mode": "exact"}}, {"stages": [{"name": "words", "kind": "graph_lm", "task": "cites"}]}],
)
def test_there_are_no_copies_where_no_stage_looks_embeddings_up(
    folder: Path, changes: dict[str, Any]
) -> None:
    plan = plan_of(Path("tables"), Path("lm"), **{"stages": JOINT, **changes})
    assert copied_share(plan, PartitionManifest.load(folder), {"paper": WIDTH}) == 0


def test_one_host_has_nothing_to_copy(toy: tuple[Path, Path, Path]) -> None:
    graph, lm, store = toy
    manifest = PartitionManifest.load(build_partition(graph, lm, store, hosts=1, trainers=2))
    assert copied_bytes(plan_of(graph, lm, stages=JOINT), manifest, {"paper": WIDTH}) == 0
