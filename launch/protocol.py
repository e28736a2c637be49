"""The words between supervisor and agent: one JSON object a line, over the agent's stdin and stdout.

Orders go to the agent, reports come back. Owns only their shape.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from launch.plan import ProcessSpec


@dataclass(frozen=True)
class Order:
    """`kind`: environment, hold (reserve ports), start, signal, stop (end all processes), ping (the
    supervisor lives), finish (and leave)."""

    kind: str
    servers: int = 0
    """hold: length of the block of server ports."""
    spec: ProcessSpec | None = None
    """start: the process."""
    signal: int = 0
    """signal: its number."""
    role: str = ""
    """signal: only processes of this role; empty = all."""
    grace_s: float = 0.0
    """stop: seconds between SIGTERM and SIGKILL."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """environment: variables for all processes; they may be secret, so they are in no spec."""

    def to_line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Order:
        raw = json.loads(line)
        if raw["spec"] is not None:
            spec = raw["spec"]
            raw["spec"] = ProcessSpec(**{**spec, "argv": tuple(spec["argv"]), "ports": tuple(spec["ports"])})
        return cls(**raw)


@dataclass(frozen=True)
class Report:
    """`kind`: hello, alive, ports, started, ready, heartbeat, line, exit, stopped, leaving, failed.

    `process` names the process that it is about; hello, alive, ports, stopped, leaving (the host is
    told to end) and failed (an order that could not be carried out: `text` says why, `code` is the
    exit code) are about the host.
    """

    kind: str
    process: str = ""
    pid: int = 0
    server_port: int = 0
    master_port: int = 0
    code: int = 0
    """exit: return code as in subprocess (negative = signal)."""
    text: str = ""
    """line: the line; exit: the last lines of the log."""
    level: str = ""
    """line: progress, warning or text."""
    seconds: float = 0.0
    peak_bytes: int = 0
    """exit: highest resident size of the process and its children; alive: of the host's processes
    together, pages that they share counted once."""
    kernel_out_of_memory: bool | None = None
    """exit: whether its host's kernel has ended processes for lack of memory meanwhile; None: unknown."""
    suspended: tuple[str, ...] = ()
    """alive: processes that a signal has stopped, such as SIGSTOP, without ending them."""
    beat: Mapping[str, Any] = field(default_factory=dict)
    """heartbeat: what the process wrote."""

    def to_line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Report:
        raw = json.loads(line)
        return cls(**{**raw, "suspended": tuple(raw["suspended"])})
