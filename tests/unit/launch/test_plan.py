"""The plan of processes: golden for one host and for eight, and its rules."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from launch.cluster import ClusterSpec, Host, local_cluster
from launch.plan import HostPorts, LaunchPlan, Paths, make_plan
from launch.protocol import Order
from partition.errors import UsageError
from pipeline.config import TrainPlan, load_plan

GOLDEN = Path(__file__).parents[2] / "data" / "golden"
PATHS = Paths("/code", "/home/me/lm-gnn", "/runs/r", "/store/p")


@pytest.fixture
def plan() -> TrainPlan:
    return load_plan(Path(__file__).parents[2] / "data" / "fake_job" / "plan.toml")


def make(plan: TrainPlan, hosts: int, trainers: int, servers: int = 1) -> LaunchPlan:
    made = tuple(Host(f"node-{k}", f"10.0.0.{k + 1}", "eth0", 8) for k in range(hosts))
    cluster = ClusterSpec("local", made, trainers, servers)
    ports = tuple(HostPorts(30000 + 10 * k, 31000 + k) for k in range(hosts))
    return make_plan(plan, cluster, ports, PATHS, run_id="0123abcd", attempt=2, command="lmgnn run")


@pytest.mark.parametrize(("hosts", "trainers"), [(1, 1), (8, 2)])
def test_the_launch_plan_is_the_stored_one(plan: TrainPlan, hosts: int, trainers: int) -> None:
    text = make(plan, hosts, trainers).to_json().replace(sys.executable, "PYTHON") + "\n"
    golden = GOLDEN / f"launch-{hosts}x{trainers}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


def test_ranks_count_over_all_hosts_host_by_host(plan: TrainPlan) -> None:
    trainers = make(plan, 3, 2).of_role("trainer")
    assert [(t.host, t.rank, t.env["RANK"], t.env["LOCAL_RANK"]) for t in trainers] == [
        (0, 0, "0", "0"),
        (0, 1, "1", "1"),
        (1, 2, "2", "0"),
        (1, 3, "3", "1"),
        (2, 4, "4", "0"),
        (2, 5, "5", "1"),
    ]


def test_server_k_of_a_host_gets_the_kth_port_of_its_block(plan: TrainPlan) -> None:
    servers = make(plan, 2, 1, servers=3).of_role("server")
    assert [s.ports for s in servers] == [(30000,), (30001,), (30002,), (30010,), (30011,), (30012,)]
    assert [s.env["DGL_SERVER_ID"] for s in servers] == list("012345")
    (config,) = {text for s in servers for text in s.files.values()}
    assert config == "10.0.0.1 30000\n10.0.0.2 30010\n"


def test_threads_are_the_cores_shared_by_the_trainers_unless_the_plan_says(plan: TrainPlan) -> None:
    assert make(plan, 1, 3).of_role("trainer")[0].env["OMP_NUM_THREADS"] == "2"
    asked = TrainPlan.from_json(json.dumps({**asdict(plan), "engine": {"threads": 5}}))
    assert make(asked, 1, 3).of_role("trainer")[0].env["OMP_NUM_THREADS"] == "5"


def test_every_log_and_heartbeat_belongs_to_one_process(plan: TrainPlan) -> None:
    processes = make(plan, 4, 3, servers=2).processes
    assert len({p.log for p in processes}) == len({p.heartbeat for p in processes}) == len(processes) == 20


def test_only_the_first_trainer_shows_progress(plan: TrainPlan) -> None:
    assert [p.name for p in make(plan, 2, 2).processes if p.show == "progress"] == ["trainer-0"]


def test_a_process_survives_the_way_to_the_agent(plan: TrainPlan) -> None:
    for spec in make(plan, 2, 2).processes:
        assert Order.from_line(Order("start", spec=spec).to_line()).spec == spec


def test_one_local_host_is_this_machine_and_more_have_addresses_of_their_own() -> None:
    one = local_cluster(nodes=1, trainers_per_host=2, servers_per_host=1)
    assert (one.hosts[0].address, one.hosts[0].interface) == ("127.0.0.1", "lo")
    many = local_cluster(nodes=200, trainers_per_host=1, servers_per_host=1)
    assert len({h.address for h in many.hosts}) == 200
    assert all(h.cores >= 1 for h in many.hosts)


@pytest.mark.parametrize(("nodes", "trainers", "flag"), [(0, 1, "--nodes"), (1, 0, "--trainers-per-node")])
def test_numbers_below_one_are_refused_by_the_name_of_their_flag(
    nodes: int, trainers: int, flag: str
) -> None:
    with pytest.raises(UsageError, match=flag):
        local_cluster(nodes=nodes, trainers_per_host=trainers, servers_per_host=1)


def test_trainers_follow_the_visible_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,5")
    assert local_cluster(nodes=1, trainers_per_host=None, servers_per_host=1).trainers_per_host == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert local_cluster(nodes=1, trainers_per_host=None, servers_per_host=1).trainers_per_host == 2
