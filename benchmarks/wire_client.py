"""Stands in for a trainer under wire.py: the worker's own program, but a joint stage is all it runs, and
every step also tells how many bytes went over which sockets and how long batches took to draw and fill.

Bytes are the kernel's counters of this process's TCP connections to other hosts (TCP_INFO), both ways,
without headers. Those open before torch.distributed starts lead to graph servers, all others to trainers; of
the latter only what arrives is counted, so that each byte counts once.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")  # before DeepSpeed is imported, which else warns

import torch
from torch import Tensor
from uniform import dealt_out

import pipeline.dgl_processes
import pipeline.events
import pipeline.job
from pipeline.exchange import Exchange
from pipeline.loop import run_stage
from pipeline.stages import JointStage
from pipeline.trainer import Trainer
from pipeline.worker import main

_ACKED_AND_RECEIVED = struct.Struct("=120xQQ")
"""tcpi_bytes_acked and tcpi_bytes_received in Linux's struct tcp_info, since 4.1."""


@dataclass
class _Connection:
    remote: bool
    """To another host."""
    sent: int = 0
    received: int = 0


class Sockets:
    """This process's TCP connections and what went over them so far."""

    def __init__(self) -> None:
        self._known: dict[str, _Connection] = {}
        self._to_servers: set[str] = set()

    def all_lead_to_servers(self) -> None:
        """To be called when there are no others yet."""
        self._look()
        self._to_servers = set(self._known)

    def bytes(self) -> dict[str, int]:
        """To and from graph servers of other hosts; from trainers of other hosts."""
        self._look()
        graph = collective = 0
        for name, connection in self._known.items():
            if connection.remote and name in self._to_servers:
                graph += connection.sent + connection.received
            elif connection.remote:
                collective += connection.received
        return {"graph_bytes": graph, "collective_bytes": collective}

    def _look(self) -> None:
        for number in os.listdir("/proc/self/fd"):
            try:
                name = os.readlink(f"/proc/self/fd/{number}")
                copy = os.dup(int(number)) if name.startswith("socket:") else -1
            except OSError:
                continue  # closed meanwhile
            if copy >= 0:
                with socket.socket(fileno=copy) as end:
                    self._note(name, end)

    def _note(self, name: str, end: socket.socket) -> None:
        if end.family not in (socket.AF_INET, socket.AF_INET6) or end.type != socket.SOCK_STREAM:
            return
        try:
            own, other = end.getsockname()[0], end.getpeername()[0]
        except OSError:
            return  # it listens
        info = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED_AND_RECEIVED.size)
        connection = self._known.setdefault(name, _Connection(own != other))
        connection.sent, connection.received = _ACKED_AND_RECEIVED.unpack(info)


def interface_bytes() -> int:
    """Received by the host's network interface since it exists, headers included."""
    lines = Path("/proc/self/net/dev").read_text().splitlines()
    return int(next(line for line in lines if line.strip().startswith("eth0:")).partition(":")[2].split()[0])


sockets = Sockets()
counts: Counter[str] = Counter()
"""Since the last step: seconds of drawing and filling batches, on the clock and of this process's cores;
bytes of embeddings on their way to their owners."""


class Counted(pipeline.events.RunRecord):
    """Writes those figures beside a step's own."""

    def stage(self, name: str, **fields: Any) -> None:
        super().stage(name, **fields)
        self._before = {**sockets.bytes(), "interface_bytes": interface_bytes()}
        counts.clear()

    def step(self, step: int, **scalars: float) -> None:
        now = {**sockets.bytes(), "interface_bytes": interface_bytes()}
        wire = {name: float(now[name] - self._before[name]) for name in now}
        super().step(step, **scalars, **wire, **counts)
        self._before = now
        counts.clear()


def exchange(self: Exchange, node_type: str, ids: Tensor, records: Tensor) -> tuple[Tensor, Tensor]:
    """The cache's own, what leaves this trainer counted. Not by the sockets: what others send early would
    be missed."""
    foreign = int((self._owner(node_type, ids) != torch.distributed.get_rank()).sum())
    counts["exchange_bytes"] += foreign * records.element_size() * (1 + records.shape[1])
    return _exchange(self, node_type, ids, records)


_exchange = Exchange.__call__


def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, its seconds noted under `name`."""

    def run(*arguments: Any, **options: Any) -> Any:
        clock, cores = time.perf_counter(), time.thread_time()
        result = call(*arguments, **options)
        counts[f"{name}_s"] += time.perf_counter() - clock
        counts[f"{name}_cpu_s"] += time.thread_time() - cores
        return result

    return run


def one_stage(trainer: Trainer, *, resume: bool) -> None:
    """In place of run_job: the plan's stage, without test and export."""
    run_stage(trainer, trainer.plan.stages[0], None)


def prepare(*, uniform: bool) -> None:
    """Put our pieces where worker.py looks for its own."""
    start_client, targets = pipeline.dgl_processes.start_client, JointStage.targets

    def connect(*arguments: Any) -> None:
        start_client(*arguments)
        sockets.all_lead_to_servers()

    def from_all_parts(self: JointStage, part: int) -> Any:
        parts = self._trainer.graph.manifest.parts
        return dealt_out(lambda number: targets(self, number), part, parts)

    pipeline.dgl_processes.start_client = connect
    pipeline.events.RunRecord = Counted  # type: ignore[misc]
    pipeline.job.run_job = one_stage
    Exchange.__call__ = exchange  # type: ignore[method-assign]
    JointStage.batch = timed("draw", JointStage.batch)  # type: ignore[method-assign]
    JointStage.inputs = timed("fill", JointStage.inputs)  # type: ignore[method-assign]
    if uniform:
        JointStage.targets = from_all_parts  # type: ignore[method-assign]


if __name__ == "__main__":
    prepare(uniform=json.loads((Path(os.environ["LMGNN_RUN"]) / "wire.json").read_text())["uniform"])
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # as worker.py does: DGL's exit hook would wait for peers that may be gone
