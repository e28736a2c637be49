"""What the tests of forecasts share: a dry run, and the build that it is about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from partition_remotes import quiet

from partition.build import BuildOptions, build
from partition.dryrun import DryRun, dry_run
from partition.forecast import Forecast
from partition.manifest import PartitionManifest


def foreseen(
    folder: Path | str, store: Path | str, *, cache: str = "", reuse: bool = True, **options: Any
) -> DryRun:
    memory = options.pop("memory", "")
    return dry_run(
        str(folder),
        BuildOptions(**options),
        store=str(store),
        say=quiet,
        cache=cache,
        memory=memory,
        reuse=reuse,
    )


def told(run: DryRun) -> Forecast:
    assert run.told is not None
    return run.told


def made(folder: Path, store: Path, **options: Any) -> PartitionManifest:
    return PartitionManifest.load(build(str(folder), BuildOptions(**options), store=str(store), say=quiet))


def command(graph: Path, store: Path, *flags: str) -> list[str]:
    return ["build", str(graph), "--store", str(store), "--dry-run", *flags]
