"""`start = "RUN:STAGE"` of a plan: which run's folder that is, from the start of a run on.

Owns where a run is looked for, and what a link such as `runs/latest` means to a run that is taken up again.
Never opens a model.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path

from partition.errors import UsageError
from pipeline.config import StagePlan, TrainPlan
from pipeline.plain import nearest


def kept_plan(run: Path) -> TrainPlan | None:
    """The plan that a run began with; None where none has begun in the folder, or one of other code."""
    with contextlib.suppress(FileNotFoundError, UsageError):
        return TrainPlan.from_json((run / "plan.json").read_text())
    return None


def resolve_starts(plan: TrainPlan, folder: Path, base: Path, kept: TrainPlan | None = None) -> TrainPlan:
    """The plan with the absolute folder of every run that a stage starts from; links are followed.

    A run is looked for beside the plan (`folder`), in the home folder `base`, and by name in its runs/.
    `kept` is what the run that is taken up began with. A link may lead elsewhere by now (runs/latest to that
    very run), and the run that it led to may be gone: then the folder of that time stays.
    UsageError where there is no such run, or no model of that stage in it.
    """
    then = {stage.name: stage.start for stage in kept.stages} if kept else {}
    stages = tuple(
        dataclasses.replace(stage, start=_resolved(stage, (folder, base, base / "runs"), then))
        if ":" in stage.start
        else stage
        for stage in plan.stages
    )
    return dataclasses.replace(plan, stages=stages)


def _resolved(stage: StagePlan, places: tuple[Path, ...], then: Mapping[str, str]) -> str:
    run, _, name = stage.start.rpartition(":")
    there = [place / run for place in places if (place / run).is_dir()]
    found = next((path for path in there if (path / "stages" / name).is_dir()), None)
    before = then.get(stage.name, "")
    link = any((place / run).is_symlink() for place in places)
    gone = found is None and Path(before.rpartition(":")[0]).name == Path(run).name
    if before.endswith(f":{name}") and (link or gone):
        return before
    if found is not None:
        return f"{found.resolve()}:{name}"
    asked = f"stages.{stage.name}.start = {stage.start!r}"
    if there:
        known = sorted(path.name for path in (there[0] / "stages").glob("*"))
        raise UsageError(f"{asked}: {there[0]} has no model of a stage {name!r}{nearest(name, known)}")
    looked = ", ".join(dict.fromkeys(str(place) for place in places))
    raise UsageError(f"{asked}: there is no run {run!r}", hint=f"looked in {looked}")
