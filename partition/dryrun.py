"""`lmgnn partition build --dry-run`: what a build would find, make and take, and why it cannot be.

Owns the words and the JSON. Writes nothing, neither in the store nor in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from partition import remote
from partition import store as stores
from partition.csr import MAX_NODES
from partition.earlier import earlier_partitions
from partition.errors import DataError, LMGNNError
from partition.forecast import Forecast, forecast
from partition.manifest import PartitionManifest
from partition.memory import machine_bytes, memory_bytes, size_words
from partition.objects import Objects
from partition.parents import published, size_of
from partition.paths import cache_folder, is_url, store_folder
from partition.refusals import DISK_FACTOR, free_bytes, memory_refusals, no_room
from partition.request import BuildOptions, Request, afresh, request_of

Say = Callable[[str], None]


@dataclass(frozen=True)
class DryRun:
    """What a build would come to."""

    id: str
    place: str
    """Folder or URL where the partition is, or would be."""
    found: bool
    """Nothing would be built."""
    root: Path
    """Folder it would be built in."""
    told: Forecast | None
    """None where it is there."""
    free: int
    """Bytes of the disk there."""
    machine: int
    """Bytes of memory that this process may have."""
    refusals: tuple[LMGNNError, ...]
    """Why it cannot be; the first decides the exit code."""


def dry_run(
    folder: str, options: BuildOptions, *, store: str, say: Say, cache: str, memory: str, reuse: bool
) -> DryRun:
    """Look, but build nothing; parameters as of `build.find_or_build`.

    UsageError, DataError and StoreError as there; what does not fit is in `refusals`.
    """
    root = cache_folder(cache) if is_url(store) else store_folder(store, key="store")
    objects = Objects(store, say=say) if is_url(store) else None
    request = request_of(folder, options, memory_bytes(memory), say)
    there = _there(request, objects, root)
    if there is not None and not reuse and there.parent:
        request = afresh(request, say)
        there = _there(request, objects, root)
    place = objects.name(request.id) if objects else str(root / request.id)
    free, machine = free_bytes(root), machine_bytes()
    if there is not None:
        return DryRun(request.id, place, True, root, None, free, machine, ())
    earlier = earlier_partitions(root) if reuse else []
    elsewhere = []
    if reuse and objects is not None:
        elsewhere = published(objects, root, leave_out={e.id for e in earlier}, say=say)
    told = forecast(request, [*earlier, *elsewhere], try_texts=True)
    pulled = sum(size_of(e) for e in elsewhere if e.id == told.likely.parent)
    told = replace(told, pulled_bytes=pulled)
    refusals = tuple(_refusals(request, told, root, free, machine))
    return DryRun(request.id, place, False, root, told, free, machine, refusals)


def _there(request: Request, objects: Objects | None, root: Path) -> PartitionManifest | None:
    if objects is not None:
        published = remote.find(objects, request.id)
        return published.manifest if published else None
    path = stores.find(root, request.id)
    return PartitionManifest.load(path) if path else None


def _refusals(request: Request, told: Forecast, root: Path, free: int, machine: int) -> Iterator[LMGNNError]:
    if told.sizes.nodes > MAX_NODES:
        yield DataError(f"{told.sizes.nodes:,.0f} nodes: at most {MAX_NODES:,} can be cut")
    if not told.sizes.nodes:
        yield DataError(f"{request.schema.name}: the graph has no nodes")
    yield from memory_refusals(request, told, machine)
    if told.peak_disk > free:
        yield no_room(root, f"about {size_words(told.peak_disk)} are", free)


def as_json(run: DryRun) -> dict[str, Any]:
    """One object; `disk` and `memory` are in bytes, `seconds` those of a CPU."""
    head = {"id": run.id, "path": run.place, "found": run.found, "dry_run": True}
    told = run.told
    if told is None:
        return head
    return {
        **head,
        "tables": {t.name: {"rows": t.rows, "exact": t.exact, "ids": t.ids} for t in told.tables},
        "nodes": round(told.sizes.nodes),
        "edges": round(told.sizes.edges),
        "stored_edges": round(told.sizes.stored_edges),
        "levels": [{"level": v.level, "method": v.method, "why": v.why} for v in told.levels],
        "reuse": {**asdict(told.likely), "tokens": sorted(told.likely.tokens)},
        "tokens": {name: {"tokens": round(t.count), "tried": t.tried} for name, t in told.tokens.items()},
        "memory": {**told.memory, "machine": run.machine},
        "disk": {
            **told.disk,
            "partition": told.disk_bytes,
            "host": round(told.disk_bytes / told.hosts),
            "scratch": max(told.scratch.values()),
            "pulled": told.pulled_bytes,
            "peak": told.peak_disk,
            "free": run.free,
        },
        "seconds": {phase: round(s, 1) for phase, s in told.seconds.items()},
        "refusals": [str(refusal) for refusal in run.refusals],
    }


def lines(run: DryRun) -> Iterator[str]:
    """What a person is told."""
    told = run.told
    if told is None:
        yield f"partition {run.id} is in {run.place}: nothing would be built"
        return
    yield f"partition {run.id} would be built in {run.root}"
    yield from _table_lines(told)
    turned = f", {told.sizes.stored_edges:,.0f} stored with reverses"
    yield f"graph: {told.sizes.nodes:,.0f} nodes, {told.sizes.edges:,.0f} edges for messages{turned}"
    yield from _reuse_lines(told)
    for level in told.levels:
        yield f"{level.level} cut by {level.method} ({level.why})"
    for name, tokens in told.tokens.items():
        how = f"{tokens.tried:,} texts tried" if tokens.tried else "by the length of texts"
        yield f"LM tokens of {name}: about {tokens.count:,.0f} ({how})"
    peaks = ", ".join(f"{phase} {size_words(size)}" for phase, size in told.memory.items())
    yield f"memory at most: {peaks}; the machine has {size_words(run.machine)}"
    partition = (
        f"{size_words(told.disk_bytes)} for the partition, {size_words(told.disk_bytes / told.hosts)} a host"
    )
    scratch = f"{size_words(max(told.scratch.values()))} of scratch before"
    yield f"disk: {partition} (within a factor of {DISK_FACTOR}), {scratch}; {size_words(run.free)} free"
    phases = ", ".join(f"{phase} {seconds:,.0f}" for phase, seconds in told.seconds.items())
    yield f"CPU seconds: about {sum(told.seconds.values()):,.0f} ({phases})"


def _table_lines(told: Forecast) -> Iterator[str]:
    for table in told.tables:
        about = "" if table.exact else "about "
        words = [f"{about}{table.rows:,} rows", f"{table.ids} as ids"]
        words += [f"texts of {table.text_bytes:,.0f} bytes"] if table.texts else []
        words += [f"{table.features} features"] if table.features else []
        words += [f"about {table.targets:.0%} targets"] if table.targets else []
        yield f"{table.name}: {', '.join(words)}"


def _reuse_lines(told: Forecast) -> Iterator[str]:
    found = told.likely
    if not found.how:
        yield f"cut afresh: {found.why}"
    else:
        word = "would be" if found.certain else "may be"
        yield f"the cut of {found.parent} {word} {found.how}: {found.why}"
        if told.pulled_bytes:
            yield f"{found.parent} is not here, and would be pulled ({size_words(told.pulled_bytes)})"
    if found.tokens:
        yield f"tokens of {', '.join(sorted(found.tokens))}: what the store has of them is taken"
