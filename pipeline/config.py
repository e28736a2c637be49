"""The plan of a run: one TOML file plus dotted overrides -> frozen, checked dataclasses.

Standard library only, because `launch` imports it. The settings lie in plan_tables.py and
plan_stages.py; owns how they make up a plan. Never reads an environment variable and never touches the graph.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from partition.errors import UsageError
from pipeline.plain import build, check, nearest
from pipeline.plan_idle import refuse_idle_keys
from pipeline.plan_stages import StagePlan, TaskPlan
from pipeline.plan_tables import DEFAULT_LM as DEFAULT_LM
from pipeline.plan_tables import CachePlan, EnginePlan, GraphPlan, ModelPlan, PartitionPlan


@dataclass(frozen=True)
class TrainPlan:
    """A whole run."""

    name: str
    """Part of the run folder's name."""
    graph: GraphPlan
    tasks: Mapping[str, TaskPlan]
    stages: tuple[StagePlan, ...]
    seed: int = 0
    """Of all draws: order, negatives, neighbours, hidden tokens, initial weights."""
    partition: PartitionPlan = field(default_factory=PartitionPlan)
    model: ModelPlan = field(default_factory=ModelPlan)
    engine: EnginePlan = field(default_factory=EnginePlan)
    cache: CachePlan = field(default_factory=CachePlan)

    def __post_init__(self) -> None:
        check(len(self.tasks) > 0, "tasks", dict(self.tasks), "a task or more")
        check(len(self.stages) > 0, "stages", self.stages, "a stage or more")
        names = [s.name for s in self.stages]
        for position, stage in enumerate(self.stages):
            check(names.count(stage.name) == 1, "stages.name", stage.name, "a name used once")
            if stage.task and stage.task not in self.tasks:
                raise UsageError(
                    f"stages.{stage.name}.task = {stage.task!r} is no task of this plan"
                    + nearest(stage.task, self.tasks)
                )
            if stage.start and ":" not in stage.start and stage.start not in names[:position]:
                raise UsageError(
                    f"stages.{stage.name}.start = {stage.start!r} is no earlier stage"
                    + nearest(stage.start, names[:position])
                )

        for name in self.model.dropout_of:
            if name not in self.tasks:
                raise UsageError(f"model.dropout_of.{name}: no task of this plan{nearest(name, self.tasks)}")
        for name in self.tasks:
            if not any(stage.task == name for stage in self.stages):
                raise UsageError(f"no stage trains tasks.{name}: give one task = {name!r}")

    def fingerprint(self) -> str:
        """Hash of everything that decides the numbers of the run."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> TrainPlan:
        return build(cls, json.loads(text), "")


def load_plan(path: str | Path, overrides: Iterable[str] = ()) -> TrainPlan:
    """Read a plan; each override is `dotted.key=value` with a TOML value (bare words are strings).

    Stages are addressed by name: `stages.joint.epochs=2`. Paths in the plan stay as they are.
    """
    try:
        raw = tomllib.loads(Path(path).read_text())
    except FileNotFoundError:
        raise UsageError(f"{path}: no such plan") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}") from None
    for override in overrides:
        _override(raw, override)
    try:
        plan = build(TrainPlan, raw, "")
        refuse_idle_keys(raw, plan.tasks, plan.stages)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    return plan


def _override(raw: dict[str, Any], text: str) -> None:
    key, separator, value = text.partition("=")
    if not separator:
        raise UsageError(f"--set {text}: expected key=value")
    try:
        parsed = tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        parsed = value
    *parents, last = key.strip().split(".")
    node: Any = raw
    for name in parents:
        if isinstance(node, list):
            found = [item for item in node if isinstance(item, dict) and item.get("name") == name]
            if not found:
                known = [str(item.get("name")) for item in node if isinstance(item, dict)]
                raise UsageError(f"--set {text}: no stage {name!r}{nearest(name, known)}")
            node = found[0]
        elif isinstance(node, dict):
            node = node.setdefault(name, {})
    if not isinstance(node, dict):
        raise UsageError(f"--set {text}: {'.'.join(parents)} holds no keys")
    node[last] = parsed
