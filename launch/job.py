"""What the parts of a run share: its flags and the state that goes from step to step. Data; does nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launch import runs
from launch.backends import Backend
from launch.cluster import ClusterSpec, HostsWanted
from launch.console import Console
from launch.plan import Paths
from launch.watch import Interrupts
from pipeline.config import TrainPlan


@dataclass(frozen=True)
class RunOptions:
    """The flags of `lmgnn run`."""

    config: Path
    overrides: Sequence[str]
    hosts: HostsWanted
    backend: str
    """Its name; empty = found by itself."""
    partition: str
    """Folder of a finished partition; empty = found or built."""
    run_dir: str
    name: str
    resume: str
    max_restarts: int
    hang_timeout_s: float
    json: bool
    command: str


@dataclass
class Job:
    """What the parts of a run share."""

    plan: TrainPlan
    backend: Backend
    cluster: ClusterSpec
    options: RunOptions
    folder: runs.RunFolder
    paths: Paths
    console: Console
    interrupts: Interrupts
    versions: dict[str, str]
    attempt: int
    started: float = field(default_factory=time.monotonic)
    restarts: int = 0
    peak_bytes: int = 0
