"""Watches the processes of one attempt through the agents: first failure, hang or wish ends all.

Owns the state of every process and the decision that an attempt is over. Never starts a process
itself (agents do) and never decides what comes after an attempt (launch.run does).
"""

from __future__ import annotations

import selectors
import signal
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from launch.awake import AwakeClock
from launch.backends import AgentLink
from launch.cluster import ClusterSpec
from launch.console import Console
from launch.failures import host_lost, not_started, process_failed, process_hung
from launch.outcome import Interrupted, JobFailed, shell_code
from launch.plan import HostPorts, ProcessSpec
from launch.protocol import Order, Report
from launch.watch import Interrupts, Watched

TICK_S = 0.2
LONGEST_TURN_S = 2.0
"""Of a longer turn of the loop only so much counts as silence of others."""
HOST_SILENT_S = 30.0
"""Agents speak every second; one that is silent for so long is lost."""
PING_S = 5.0
"""Agents with a lease leave when they hear nothing for much longer than this."""
AGENT_START_S = 60.0
SAVE_GRACE_S = 60.0
"""Time for trainers to save a checkpoint and leave after the first Ctrl-C."""
SERVERS_LEAVE_S = 30.0
"""Servers leave by themselves once all trainers said goodbye; later they are ended."""
KILL_GRACE_S = 2.0
DUMP_S = 1.0
"""Time for the stacks to be written before a hung job is killed."""


class Supervisor:
    """Runs groups of processes over the agents of a cluster; every wait notices every failure."""

    def __init__(
        self,
        links: Sequence[AgentLink],
        cluster: ClusterSpec,
        *,
        console: Console,
        interrupts: Interrupts,
        hang_timeout_s: float,
        on_change: Callable[[Sequence[Watched]], None] = lambda _: None,
    ) -> None:
        self._links = links
        self._cluster = cluster
        self._console = console
        self._interrupts = interrupts
        self._hang_s = hang_timeout_s
        self._on_change = on_change
        self._watched: dict[str, Watched] = {}
        self._clock = AwakeClock(LONGEST_TURN_S)
        self._heard = dict.fromkeys(range(len(links)), self._clock.now())
        self._greeted: set[int] = set()
        self._ports: dict[int, HostPorts] = {}
        self._host_peaks: dict[int, int] = {}
        self._stopped: set[int] = set()
        self._over = False
        self._pinged = 0.0
        self._leaving_until = 0.0
        self._failed: JobFailed | None = None
        self._selector = selectors.DefaultSelector()
        for link in links:
            self._selector.register(link, selectors.EVENT_READ)

    @property
    def peak_bytes(self) -> int:
        return sum(self._host_peaks.values())

    def hold_ports(self, servers_per_host: int) -> tuple[HostPorts, ...]:
        """Wait for every agent, then let each reserve its ports."""
        self._wait_until(lambda: len(self._greeted) == len(self._links), AGENT_START_S, self._not_greeted)
        for link in self._links:
            link.send(Order("hold", servers=servers_per_host))
        self._wait_until(lambda: len(self._ports) == len(self._links), AGENT_START_S, self._not_greeted)
        return tuple(self._ports[index] for index in range(len(self._links)))

    def run_step(self, spec: ProcessSpec) -> None:
        """Run one process to its end; JobFailed when that is no success."""
        self._start([spec])
        while self._watched[spec.name].state != "done":
            self._turn()
            if self._interrupts.count:
                raise Interrupted(self._interrupts.code)

    def run_job(self, servers: Sequence[ProcessSpec], trainers: Sequence[ProcessSpec]) -> None:
        """Servers, then (all of them ready) trainers, until all trainers are done."""
        self._start(servers)
        names = [s.name for s in servers]
        self._wait_until(
            lambda: all(self._watched[n].state in ("ready", "done") for n in names),
            self._hang_s,
            lambda: [n for n in names if self._watched[n].state not in ("ready", "done")],
        )
        self._console.say(f"{len(servers)} graph server(s) ready, starting {len(trainers)} trainer(s)")
        self._start(trainers)
        names = [s.name for s in trainers]
        while not self._ended(names):
            self._turn()
            self._ask_to_leave()
            self._look_for_hangs(names)
        if self._interrupts.count:
            raise Interrupted(self._interrupts.code)
        self._over = True
        deadline = time.monotonic() + SERVERS_LEAVE_S
        while not self._ended([s.name for s in servers]) and time.monotonic() < deadline:
            self._turn()
            if self._interrupts.count > 1:
                return

    def stop(self) -> None:
        """End what still runs, hard after a short grace; returns when all hosts say so."""
        self._over = True
        grace = 0.0 if self._interrupts.count > 1 else KILL_GRACE_S
        for link in self._links:
            link.send(Order("stop", grace_s=grace))
        deadline = time.monotonic() + grace + 10
        while time.monotonic() < deadline and not self._all_stopped():
            self._turn()

    def close(self) -> None:
        """Give back its own descriptor; a job may have as many attempts as it makes progress."""
        self._selector.close()

    def dump_stacks(self) -> None:
        """Ask every process for its stacks (faulthandler writes them into the logs)."""
        for link in self._links:
            link.send(Order("signal", signal=signal.SIGUSR1))
            link.send(Order("signal", signal=signal.SIGCONT))  # what is stopped writes nothing
        deadline = time.monotonic() + DUMP_S
        self._over = True
        while time.monotonic() < deadline:
            self._turn()

    def _all_stopped(self) -> bool:
        return all(link.lost or link.host in self._stopped for link in self._links)

    def _ended(self, names: Sequence[str]) -> bool:
        return all(self._watched[n].state in ("done", "failed", "stopped") for n in names)

    def _start(self, specs: Sequence[ProcessSpec]) -> None:
        for spec in specs:
            self._watched[spec.name] = Watched(spec, spoke=self._clock.now())
            self._links[spec.host].send(Order("start", spec=spec))
        self._changed()

    def _wait_until(
        self, condition: Callable[[], bool], limit_s: float, missing: Callable[[], Sequence[str]]
    ) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            self._turn()
            if self._interrupts.count:
                raise Interrupted(self._interrupts.code)
            if time.monotonic() > deadline:
                self._hung(missing(), f"not there after {limit_s:.0f} s")

    def _not_greeted(self) -> list[str]:
        return [self._cluster.hosts[k].name for k in range(len(self._links)) if k not in self._ports]

    def _ask_to_leave(self) -> None:
        """First wish: trainers save and leave. Second, or out of patience: Interrupted."""
        if not self._interrupts.count:
            return
        if not self._leaving_until:
            self._leaving_until = time.monotonic() + SAVE_GRACE_S
            self._console.say(
                f"stopping: trainers save a checkpoint and leave (up to {SAVE_GRACE_S:.0f} s); "
                "once more = kill now"
            )
            for link in self._links:
                link.send(Order("signal", signal=signal.SIGUSR2, role="trainer"))
        if self._interrupts.count > 1 or time.monotonic() > self._leaving_until:
            raise Interrupted(self._interrupts.code)

    def _look_for_hangs(self, trainers: Sequence[str]) -> None:
        """Trainers tell of every step, servers of nothing; but who waits for a stopped server is silent, too,
        and then the server is the cause."""
        limit = self._clock.now() - self._hang_s
        silent = [n for n in trainers if self._watched[n].spoke < limit and self._watched[n].state != "done"]
        stopped = [n for n, w in self._watched.items() if w.suspended]
        long_stopped = any(self._watched[n].suspended < limit for n in stopped)
        if self._interrupts.count or not (silent or long_stopped):
            return
        if stopped:
            self._hung(stopped, "stopped by a signal (SIGSTOP or the like) and never continued")
        self._hung(silent, f"no sign of life for {self._hang_s:.0f} s")

    def _note_suspended(self, host: int, names: Sequence[str]) -> None:
        for name, watched in self._watched.items():
            if watched.spec.host == host:
                since = watched.suspended or self._clock.now()
                watched.suspended = since if name in names else 0.0

    def _hung(self, names: Sequence[str], what: str) -> NoReturn:
        """Raise the failure of the longest silent process, with every process's stack in its log."""
        first = min(names, key=lambda n: self._watched[n].spoke if n in self._watched else 0.0)
        self._console.say(f"{', '.join(names)}: {what}; writing the stacks of all processes to the logs")
        self.dump_stacks()
        if first in self._watched:
            raise process_hung(self._cluster, self._watched[first].spec, what)
        raise JobFailed(f"{first}: {what}", 11)

    def _turn(self) -> None:
        """Take what the agents reported; notice hosts that are gone. Raises the first failure, once."""
        ready = self._selector.select(TICK_S)
        self._clock.turn()
        for key, _ in ready:
            link = key.fileobj
            assert isinstance(link, AgentLink)
            reports = link.read()
            if link.lost:
                self._selector.unregister(link)
                self._lost(link, "its agent ended")
            for report in reports:
                self._take(link, report)
        now = self._clock.now()
        self._ping()
        for link in self._links:
            if not link.lost and now - self._heard[link.host] > HOST_SILENT_S:
                link.lost = True
                self._selector.unregister(link)
                self._lost(link, f"its agent was silent for {HOST_SILENT_S:.0f} s")
        if self._failed and not self._over:
            self._over = True
            raise self._failed

    def _ping(self) -> None:
        if time.monotonic() - self._pinged > PING_S:
            self._pinged = time.monotonic()
            for link in self._links:
                link.send(Order("ping"))

    def _lost(self, link: AgentLink, what: str) -> None:
        if not self._over and not self._failed:
            greeted = link.host in self._greeted
            self._failed = host_lost(self._cluster, link.host, link.log, what, greeted=greeted)

    def _take(self, link: AgentLink, report: Report) -> None:
        self._heard[link.host] = self._clock.now()
        watched = self._watched.get(report.process)
        if report.kind == "hello":
            self._greeted.add(link.host)
        elif report.kind == "alive":
            self._host_peaks[link.host] = report.peak_bytes
            self._note_suspended(link.host, report.suspended)
        elif report.kind == "ports":
            self._ports[link.host] = HostPorts(report.server_port, report.master_port)
        elif report.kind == "stopped":
            self._stopped.add(link.host)
        elif report.kind == "leaving" and not self._interrupts.count:
            self._console.say(f"host {self._cluster.hosts[link.host].name} is told to end")
            self._interrupts.ask(143)
        elif report.kind == "failed":
            if not self._over and not self._failed:
                self._failed = not_started(self._cluster, link.host, link.log, report)
        elif watched:
            self._take_of_process(watched, report)

    def _take_of_process(self, watched: Watched, report: Report) -> None:
        spec = watched.spec
        if report.kind == "started":
            watched.state, watched.pid = "running", report.pid
        elif report.kind == "ready":
            watched.state = "ready"
        elif report.kind == "heartbeat":
            watched.beat, watched.spoke = dict(report.beat), self._clock.now()
        elif report.kind == "line":
            self._show(spec, report)
        elif report.kind == "exit":
            ended = "stopped" if self._over or self._interrupts.count else "failed"
            watched.state = ended if report.code else "done"
            watched.returncode = shell_code(report.code)
            watched.peak_bytes, watched.seconds = report.peak_bytes, report.seconds
            if report.code and not self._over and not self._interrupts.count:
                self._failed = self._failed or process_failed(self._cluster, spec, report)
        if report.kind in ("started", "ready", "exit"):
            self._changed()

    def _show(self, spec: ProcessSpec, report: Report) -> None:
        if report.level == "progress":
            self._console.progress(report.text)
        elif report.level == "warning":
            name = f"{spec.role} {spec.rank} @ {self._cluster.hosts[spec.host].name}"
            self._console.warning(name, report.text)
        else:
            self._console.plain(report.text)

    def _changed(self) -> None:
        self._on_change(list(self._watched.values()))
