"""One per host: starts, watches and ends this host's processes as the supervisor orders.

Speaks launch.protocol over stdin and stdout. Lives exactly as long as its stdin: when that
closes, however the supervisor died, every process group is killed and the run's shared memory
swept. Never talks to other hosts and takes no decision of its own.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from launch import shm
from launch.child import Child
from launch.protocol import Order, Report

TICK_S = 0.2
ALIVE_EVERY_S = 1.0
READ_BYTES = 65536
FIRST_PORT = 20000
HOLD_TRIES = 200


class PortHolder:
    """Keeps ports of this host bound until the process that wants them starts.

    They lie below the range that the kernel gives to outgoing connections, so that none of those
    can take a port in the moment between release and bind.
    """

    def __init__(self) -> None:
        self._held: dict[int, socket.socket] = {}

    def hold(self, count: int) -> int:
        """Bind `count` neighbouring ports; the first of them. OSError when there are none."""
        lines = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
        top = max(FIRST_PORT + 1000, int(lines[0]))
        for _ in range(HOLD_TRIES):
            first = random.randrange(FIRST_PORT, top - count)
            sockets = _bind_all(range(first, first + count))
            if sockets:
                self._held.update(zip(range(first, first + count), sockets, strict=True))
                return first
        raise OSError(f"no {count} free neighbouring ports between {FIRST_PORT} and {top}")

    def release(self, ports: Sequence[int]) -> None:
        for port in ports:
            if port in self._held:
                self._held.pop(port).close()


def _bind_all(ports: range) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    for port in ports:
        held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sockets.append(held)
        try:
            held.bind(("", port))
        except OSError:
            for other in sockets:
                other.close()
            return []
    return sockets


class Agent:
    """The loop: orders from stdin, ends of processes, and a look at everything every TICK_S."""

    def __init__(self, run_id: str, *, lease_s: float = 0.0, grace_s: float = 0.0) -> None:
        """With a lease, silence on stdin for so long counts as its end; the grace follows a SIGTERM."""
        self._children: dict[str, Child] = {}
        self._ports = PortHolder()
        self._selector = selectors.DefaultSelector()
        self._rest = b""
        self._kill_at = 0.0
        self._stopping = False
        self._leaving = False
        self._spoken = 0.0
        self._lease_s = lease_s
        self._grace_s = grace_s
        self._told_to_leave = False
        self._leave_at = 0.0
        self._heard = time.monotonic()
        self._peak_bytes = 0
        shm.sweep_dead_runs()
        self._lock = shm.RunLock(run_id) if run_id else None

    def run(self) -> None:
        """Serve until `finish`, end of stdin or SIGTERM; then leave nothing behind."""
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ, "orders")
        try:
            self._say(Report("hello", pid=os.getpid(), text=socket.gethostname()))
            while not self._leaving:
                self._turn()
        except (ConnectionError, TimeoutError):  # the supervisor is gone
            pass
        finally:
            for child in self._children.values():
                child.signal_group(signal.SIGKILL)
            for child in self._children.values():
                child.reap()
            if self._lock:
                self._lock.release()
            shm.sweep_dead_runs()

    def leave(self, *_: object) -> None:
        """Signal handler. With a grace the supervisor gets the time to save a checkpoint first."""
        if self._grace_s and not self._told_to_leave:
            self._told_to_leave = True
        else:
            self._leaving = True

    def _turn(self) -> None:
        ended = []
        for key, _ in self._selector.select(TICK_S):
            if key.data == "orders":
                self._read_orders()
            else:
                ended.append(key.data)
        # Two ends in one turn: the one that a signal killed is the cause, not the follower.
        for name in sorted(ended, key=lambda name: not _was_killed(self._children[name].pid)):
            self._report_end(name)
        for name, child in self._children.items():
            self._look_at(name, child)
        self._count_and_tell()
        self._look_at_grace()
        if self._lease_s and time.monotonic() - self._heard > self._lease_s:
            self._leaving = True
        if self._stopping and not self._children:
            self._stopping = False
            self._say(Report("stopped"))
        elif self._stopping and time.monotonic() > self._kill_at:
            for child in self._children.values():
                child.signal_group(signal.SIGKILL)

    def _look_at_grace(self) -> None:
        if self._told_to_leave and not self._leave_at:
            self._leave_at = time.monotonic() + self._grace_s
            self._say(Report("leaving"))
        elif self._leave_at and time.monotonic() > self._leave_at:
            self._leaving = True

    def _read_orders(self) -> None:
        data = os.read(sys.stdin.fileno(), READ_BYTES)
        if not data:
            self._leaving = True
            return
        self._heard = time.monotonic()
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._obey(Order.from_line(line))

    def _obey(self, order: Order) -> None:
        if order.kind == "environment":
            os.environ.update(order.environment)
        elif order.kind == "hold":
            self._hold(order.servers)
        elif order.kind == "start" and order.spec:
            self._start(order)
        elif order.kind == "signal":
            for child in self._children.values():
                if order.role in ("", child.spec.role):
                    child.signal(order.signal)
        elif order.kind == "stop":
            self._stopping = True
            self._kill_at = time.monotonic() + order.grace_s
            for child in self._children.values():
                child.signal_group(signal.SIGTERM)
                child.signal_group(signal.SIGCONT)
        elif order.kind == "finish":
            self._leaving = True

    def _hold(self, servers: int) -> None:
        try:
            self._say(Report("ports", server_port=self._ports.hold(servers), master_port=self._ports.hold(1)))
        except OSError as error:
            self._say(Report("failed", text=str(error), code=12))

    def _start(self, order: Order) -> None:
        spec = order.spec
        if spec is None or self._stopping:
            return
        self._ports.release(spec.ports)
        try:
            child = Child(spec)
        except (OSError, subprocess.SubprocessError) as error:
            code = 14 if isinstance(error, OSError) and error.errno == 28 else 12
            self._say(Report("failed", spec.name, text=f"cannot start {spec.name}: {error}", code=code))
            return
        self._children[spec.name] = child
        self._selector.register(child.pidfd, selectors.EVENT_READ, spec.name)
        self._say(Report("started", spec.name, pid=child.pid))

    def _look_at(self, name: str, child: Child) -> None:
        if child.became_ready():
            self._say(Report("ready", name))
        beat = child.new_heartbeat()
        if beat is not None:
            self._say(Report("heartbeat", name, beat=beat))
        for level, line in child.new_lines():
            self._say(Report("line", name, text=line, level=level))

    def _report_end(self, name: str) -> None:
        child = self._children[name]
        self._selector.unregister(child.pidfd)
        code = child.reap()
        self._look_at(name, child)
        del self._children[name]
        report = Report(
            "exit",
            name,
            code=code,
            text=child.tail() if code else "",
            seconds=child.seconds,
            peak_bytes=child.peak_bytes,
            kernel_out_of_memory=child.kernel_out_of_memory(),
        )
        self._say(report)

    def _count_and_tell(self) -> None:
        if time.monotonic() - self._spoken < ALIVE_EVERY_S:
            return
        self._spoken = time.monotonic()
        sizes = [child.measure() for child in self._children.values()]
        together = sum(private for private, _ in sizes) + max((shared for _, shared in sizes), default=0)
        self._peak_bytes = max(self._peak_bytes, together)
        suspended = tuple(name for name, child in self._children.items() if child.suspended)
        self._say(Report("alive", peak_bytes=self._peak_bytes, suspended=suspended))

    def _say(self, report: Report) -> None:
        """ConnectionError when nobody can read it any more, TimeoutError when nobody does for the lease."""
        data, output = report.to_line(), sys.stdout.fileno()
        since = time.monotonic()
        while data:
            if select.select([], [output], [], TICK_S)[1]:  # then so much goes without blocking
                data = data[os.write(output, data[: select.PIPE_BUF]) :]
                since = time.monotonic()
            elif self._leaving or 0 < self._lease_s < time.monotonic() - since:
                raise TimeoutError


def _was_killed(pid: int) -> bool:
    """Whether an ended, not yet reaped process died by a signal."""
    try:
        info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except ChildProcessError:  # its end was collected already
        return False
    return info is not None and info.si_code != os.CLD_EXITED


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m launch.agent", description=__doc__)
    parser.add_argument("--run", default="", help="run id whose shared memory this agent guards")
    parser.add_argument("--lease", type=float, default=0.0, metavar="SECONDS",
        help="leave when nothing comes for so long; 0 = wait for ever")  # fmt: skip
    parser.add_argument("--grace", type=float, default=0.0, metavar="SECONDS",
        help="between SIGTERM and the end, for a checkpoint; 0 = none")  # fmt: skip
    options = parser.parse_args(argv)
    agent = Agent(options.run, lease_s=options.lease, grace_s=options.grace)
    # Handlers that do nothing, since children would inherit SIG_IGN.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGHUP, lambda *_: None)
    signal.signal(signal.SIGTERM, agent.leave)
    agent.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
