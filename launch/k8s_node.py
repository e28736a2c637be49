"""The pods beside pod 0: connect to it, run its agent, connect again, until the job is over.

Knows nothing of what runs. An attempt that fails ends the agent, not the pod; a pod 0 that fails is
replaced by Kubernetes, and this one waits for the new one.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from launch.backends import agent_argv
from launch.k8s import PORT, Pod, facts
from launch.k8s_channel import NotOurs, greet_head, read_line, send_line, watch_over
from launch.probe import software

HEAD_GONE_S = 1800.0
"""Without a pod 0 for so long (its replacement finds no room) the pod gives up, with 10."""
AGAIN_S = 1.0
ATTEMPT = -1
LAST_WORDS = (0, 2, 3, 4, 12, 14, 70)
"""Ends of a job after which no other pod 0 comes; see podFailurePolicy in k8s_manifests. 5 is none of them:
the lock of a pod 0 that is gone is held until the file system notices."""
TERMINATED = 143
"""Of a pod that was told to end, and of pod 0 when it heard so from another."""
LEASE_S = 60
"""An agent that hears nothing for so long takes pod 0 for gone."""
AGENT_GRACE_S = 90
"""A pod that is told to end lets pod 0 save a checkpoint for so long."""


class Node:
    """One pod's loop; `terminate` is the handler of SIGTERM."""

    def __init__(self, pod: Pod, *, code: Path, port: int = PORT) -> None:
        self._pod = pod
        self._key = pod.key()
        self._code = code
        self._port = port
        self._agent: subprocess.Popen[bytes] | None = None
        self._told_to_end = False
        self._complaint = ""

    def run(self) -> int:
        """The job's exit code, 10 when pod 0 stays away, 143 when this pod is told to end."""
        since = time.monotonic()
        while not self._told_to_end:
            answer = self._attempt()
            if answer in LAST_WORDS:
                sys.stderr.write(f"the job ended with {answer}\n")
                return answer
            if answer is not None:
                since = time.monotonic()
            elif time.monotonic() - since > HEAD_GONE_S:
                sys.stderr.write(f"error: {self._pod.head} not there for {HEAD_GONE_S:.0f} s\n")
                return 10
            time.sleep(AGAIN_S)
        return TERMINATED

    def terminate(self, *_: object) -> None:
        """Ask pod 0, through the agent, to save and end; without an agent leave at once."""
        self._told_to_end = True
        if self._agent is None:
            sys.exit(TERMINATED)
        self._agent.terminate()

    def _attempt(self) -> int | None:
        """Serve one connection: how the job ended, ATTEMPT after an attempt, None without a pod 0."""
        try:
            with socket.create_connection((self._pod.head, self._port), timeout=10) as link:
                watch_over(link)
                greet_head(link, self._key)
                host = dataclasses.asdict(facts(self._pod))
                own = software(self._code)
                send_line(link, {"index": self._pod.index, "host": host, "software": own})
                link.settimeout(None)  # there may be a graph to build first
                answer = read_line(link)
                if "over" in answer:
                    return int(answer["over"])
                self._serve(link, str(answer["run"]))
                return ATTEMPT
        except (OSError, NotOurs, KeyError, ValueError) as error:
            self._complain(f"{self._pod.head}:{self._port}: {error}; trying again")
            return None

    def _serve(self, link: socket.socket, run_id: str) -> None:
        self._complain("an attempt begins")
        self._agent = subprocess.Popen(
            [*agent_argv(run_id), "--grace", str(AGENT_GRACE_S), "--lease", str(LEASE_S)],
            stdin=link.fileno(),
            stdout=link.fileno(),
            env={**os.environ, "PYTHONPATH": str(self._code)},
            start_new_session=True,
        )
        link.close()  # so that pod 0 sees the end with the agent's
        self._agent.wait()
        self._agent = None

    def _complain(self, text: str) -> None:
        if text != self._complaint:
            sys.stderr.write(f"{text}\n")
            self._complaint = text


def serve(pod: Pod, *, code: Path) -> int:
    """Run this pod to its end; the exit code."""
    node = Node(pod, code=code)
    signal.signal(signal.SIGTERM, node.terminate)
    return node.run()
