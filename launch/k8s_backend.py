"""Pod 0: waits for the other pods and drives the agents in them over the connections they make.

The listener lives as long as the job, so that a pod which was replaced, or whose agent ended with
an attempt, waits in its queue for the next one. Never starts a pod: that is Kubernetes' business.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from launch.backends import LEAVE_S, READ_BYTES, AgentLink, agent_argv, close_all
from launch.cluster import ClusterSpec, Host, HostsWanted
from launch.console import Console
from launch.k8s import PORT, Pod, pod_cluster, this_pod
from launch.k8s_channel import NotOurs, greet_node, read_line, send_line, watch_over
from launch.outcome import Interrupted, JobFailed
from launch.plan import Paths
from launch.probe import software
from launch.protocol import Order, Report
from launch.watch import Interrupts
from partition.errors import PreflightError, UsageError

PODS_S = 900.0
"""Pods that are not there by then (no room, no image, no network) end the attempt."""
FAREWELL_S = 15.0
"""Time for the other pods to come and hear how the job ended."""
TICK_S = 0.5


class PodLink(AgentLink):
    """The connection to the agent of another pod."""

    def __init__(self, host: int, link: socket.socket, log: Path) -> None:
        self.host = host
        self.lost = False
        self.log = log
        self._rest = b""
        self._link = link
        link.settimeout(None)

    def fileno(self) -> int:
        return self._link.fileno()

    def read(self) -> list[Report]:
        try:
            return super().read()
        except OSError:  # its machine is gone
            self.lost = True
            return []

    def send(self, order: Order) -> None:
        """Hand over an order; a broken connection shows in `read`."""
        with contextlib.suppress(OSError):
            self._link.sendall(order.to_line())

    def close(self) -> None:
        """End the agent by order and by end of file; it hangs up when it has left."""
        self.send(Order("finish"))
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_WR)
            self._link.settimeout(LEAVE_S)
            while not self.lost and self._link.recv(READ_BYTES):
                pass
        self._link.close()


@dataclass(frozen=True)
class Joined:
    """A pod that has proved itself and waits for a word."""

    link: socket.socket
    index: int
    host: Host
    software: dict[str, str]

    def is_there(self) -> bool:
        """Whether it has not hung up; it says nothing before it is told to."""
        try:
            self.link.setblocking(False)
            return self.link.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            self.link.settimeout(None)


class Head:
    """Pod 0's listener, and the pods that have come."""

    def __init__(self, pod: Pod, *, hosts: int, port: int = PORT) -> None:
        self._key = pod.key()
        self._hosts = hosts
        self._listener = socket.create_server((pod.address, port), backlog=1024)
        self._listener.settimeout(TICK_S)
        self._joined: dict[int, Joined] = {}
        self._turned_away: list[str] = []

    def wait_for_all(self, names: list[str]) -> dict[int, Joined]:
        """Every pod but this one. JobFailed (10) when some do not come, Interrupted when somebody asked."""
        self._joined = {index: one for index, one in self._joined.items() if one.is_there()}
        deadline = time.monotonic() + PODS_S
        while len(self._joined) < self._hosts - 1:
            wishes = Interrupts.current
            if wishes and wishes.count:
                raise Interrupted(wishes.code)
            if time.monotonic() > deadline:
                missing = ", ".join(n for k, n in enumerate(names) if k and k not in self._joined)
                away = f" (turned away: {'; '.join(self._turned_away[-3:])})" if self._turned_away else ""
                raise JobFailed(f"pod(s) {missing} not there after {PODS_S:.0f} s{away}", 10)
            self._accept()
        return dict(self._joined)

    def hand_over(self) -> None:
        """The pods that are there have got work: they come again after it."""
        self._joined = {}

    def dismiss(self, code: int) -> None:
        """Tell the other pods how the job ended, and close."""
        told: set[int] = set()
        deadline = time.monotonic() + FAREWELL_S
        while len(told) < self._hosts - 1 and time.monotonic() < deadline:
            for one in self._joined.values():
                with contextlib.suppress(OSError):
                    send_line(one.link, {"over": code})
                    told.add(one.index)
                one.link.close()
            self._joined = {}
            self._accept()
        self._listener.close()

    def _accept(self) -> None:
        """Let one pod in, if one comes within TICK_S and proves itself."""
        try:
            link, peer = self._listener.accept()
        except TimeoutError:
            return
        try:
            watch_over(link)
            greet_node(link, self._key)
            said = read_line(link)
            one = Joined(link, int(said["index"]), Host(**said["host"]), dict(said["software"]))
            if not 1 <= one.index < self._hosts:
                raise NotOurs(f"it is pod {one.index} of a job of {self._hosts}")
        except (NotOurs, OSError, KeyError, TypeError, ValueError) as error:
            self._turned_away.append(f"{peer[0]}: {error}")
            link.close()
            return
        if one.index in self._joined:  # it was replaced, or started again
            self._joined[one.index].link.close()
        self._joined[one.index] = one


class K8sBackend:
    """An agent of this pod's own and one in every other pod."""

    def __init__(self, wanted: HostsWanted) -> None:
        pod = this_pod()
        if pod is None:
            raise UsageError(
                "--backend k8s: this is no pod of an indexed Job",
                hint="`lmgnn plan --backend k8s` prints the manifests of one",
            )
        self._cluster = pod_cluster(pod, wanted)
        self._head = Head(pod, hosts=len(self._cluster.hosts)) if len(self._cluster.hosts) > 1 else None
        self._links: list[AgentLink] = []

    def cluster(self, paths: Paths, console: Console) -> ClusterSpec:
        return self._cluster

    def check(
        self, cluster: ClusterSpec, paths: Paths, console: Console, *, run_id: str, again: bool = False
    ) -> ClusterSpec:
        """Wait for the pods; the result has their addresses as they are now."""
        joined = self._wait(cluster, console)
        own = software(paths.code)
        for index, one in joined.items():
            other = [f"{k} {one.software.get(k)}" for k in own if one.software.get(k) != own[k]]
            if other:
                raise PreflightError(
                    f"pod {cluster.hosts[index].name} has {', '.join(other)}, unlike pod 0",
                    hint="give the image by digest: its tag was moved while the job started",
                )
        hosts = [joined[k].host if k in joined else host for k, host in enumerate(cluster.hosts)]
        return dataclasses.replace(cluster, hosts=tuple(hosts))

    def start(self, cluster: ClusterSpec, *, run_id: str, paths: Paths, logs: Path) -> list[AgentLink]:
        joined = self._wait(cluster)
        for index, one in joined.items():
            if one.host != cluster.hosts[index]:
                raise JobFailed(f"pod {one.host.name} was replaced while the job started", 10)
        names = [host.name for host in cluster.hosts]
        own = AgentLink(0, agent_argv(run_id), paths=paths, log=logs / f"{names[0]}-agent.log")
        self._links.append(own)
        for index in sorted(joined):
            link = joined[index].link
            with contextlib.suppress(OSError):  # shows when the link is read
                send_line(link, {"run": run_id})
            self._links.append(PodLink(index, link, logs / f"{names[index]}-agent.log"))
        if self._head:
            self._head.hand_over()
        return self._links

    def close(self) -> None:
        close_all(self._links)
        self._links = []

    def finish(self, code: int) -> None:
        if self._head:
            self._head.dismiss(code)

    def _wait(self, cluster: ClusterSpec, console: Console | None = None) -> dict[int, Joined]:
        if self._head is None:
            return {}
        if console:
            console.say(f"waiting for {len(cluster.hosts) - 1} other pod(s)")
        return self._head.wait_for_all([host.name for host in cluster.hosts])
