"""benchmarks/wire.py and its trainers' program: what they count, on sockets and events made by hand."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.launch_tree import wait_for

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import wire
import wire_client


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def connected(stack: ExitStack, *, source: str) -> tuple[socket.socket, socket.socket]:
    """Two ends of a connection to 127.0.0.1, both in this process."""
    listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    address = listening.getsockname()
    near = stack.enter_context(socket.create_connection(address, timeout=10, source_address=(source, 0)))
    return near, stack.enter_context(listening.accept()[0])


def carry(near: socket.socket, far: socket.socket, count: int) -> None:
    near.sendall(bytes(count))
    got = 0
    while got < count:
        got += len(far.recv(count - got))


def test_bytes_are_told_apart_by_when_a_connection_was_made_and_where_it_leads(stack):
    sockets = wire_client.Sockets()
    servers = connected(stack, source="127.0.0.2")  # other addresses at its ends: another host
    within = connected(stack, source="127.0.0.1")
    sockets.all_lead_to_servers()
    trainers = connected(stack, source="127.0.0.3")
    before = sockets.bytes()
    carry(*servers, 30_000)
    carry(*reversed(servers), 2000)
    carry(*within, 500_000)
    carry(*trainers, 7000)
    wait_for(lambda: sockets.bytes()["graph_bytes"] - before["graph_bytes"] >= 2 * 32_000)
    found = {name: value - before[name] for name, value in sockets.bytes().items()}
    # Both ends of each connection are this process's: both ways twice, what arrives once.
    assert found == {"graph_bytes": 2 * 32_000, "collective_bytes": 7000}


def test_what_a_closed_connection_carried_still_counts(stack):
    sockets = wire_client.Sockets()
    ends = connected(stack, source="127.0.0.2")
    sockets.all_lead_to_servers()
    before = sockets.bytes()["graph_bytes"]
    carry(*ends, 4000)
    wait_for(lambda: sockets.bytes()["graph_bytes"] - before == 2 * 4000)
    for end in ends:
        end.close()
    assert sockets.bytes()["graph_bytes"] - before == 2 * 4000


def test_figures_are_of_all_steps_of_all_trainers():
    times = {"sample_s": 0.1, "fetch_s": 0.2, "compute_s": 2.5, "step_s": 0.2}
    first = {
        **{"targets": 100.0, "graph_bytes": 5000.0, "collective_bytes": 300.0, "interface_bytes": 6000.0},
        **{"draw_s": 0.5, "draw_cpu_s": 0.25, "fill_s": 0.25, "fill_cpu_s": 0.125, **times},
    }
    second = {**first, "targets": 300.0, "exchange_bytes": 800.0}
    assert wire.figures([first, second]) == {
        **{"targets": 400, "graph_bytes_per_target": 25, "exchange_bytes_per_target": 2},
        **{"collective_bytes_per_target": 2, "interface_bytes_per_target": 30, "idle_share": 0.1},
        **{"draw_ms": 500.0, "draw_cpu_ms": 250.0, "fill_ms": 250.0, "fill_cpu_ms": 125.0},
    }
    cached = [{**first, "cache_texts": 10.0, "cache_usable": u} for u in (0.0, 9.0)]
    assert wire.figures(cached)["hit_share"] == 0.45


def test_an_epoch_is_the_first_steps_as_they_were_and_all_others_as_the_last_ones():
    shared = {"targets": 10.0, "collective_bytes": 0.0, "interface_bytes": 0.0, "compute_s": 1.0}
    counted = [900.0, 900.0, 900.0, 900.0, 60.0, 60.0, 10.0]  # nothing is drawn ahead in the last step
    events = [{**shared, "step": n, "graph_bytes": count} for n, count in enumerate(counted, 1)]
    found = wire.steady(events, steps_per_epoch=100)
    assert found["steady"]["graph_bytes_per_target"] == 6
    assert found["steady"]["steps"] == 2
    assert found["epoch_graph_bytes_per_target"] == round(0.04 * 90 + 0.96 * 6)
