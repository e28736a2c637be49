"""`python -m partition build | pull | push | ls | show | verify | gc`: one JSON line or a table out.

Owns what commands print and their exit codes; flags are in arguments.py. Never does any work of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from partition import remote
from partition.arguments import parser
from partition.build import find_or_build
from partition.collect import Limits, collect_local, collect_remote
from partition.dryrun import as_json, dry_run, lines
from partition.errors import LMGNNError, UsageError
from partition.manifest import SPLITS, PartitionManifest
from partition.objects import Objects
from partition.paths import cache_folder, is_url, split_url, store_folder
from partition.pull import pull
from partition.quarantine import quarantine_lines
from partition.request import BuildOptions
from partition.store import finished, verify
from partition.tokens import check_trainable


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is that of the error's class."""
    os.environ.setdefault("DGLBACKEND", "pytorch")  # else dgl's first import writes into the home folder
    arguments = parser().parse_args(argv)
    try:
        return _COMMANDS[arguments.command](arguments)
    except LMGNNError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception:  # a bug of ours: whoever mends it needs the traceback
        traceback.print_exc()
        return LMGNNError.exit_code


def _build(arguments: argparse.Namespace) -> int:
    values = {field.name: getattr(arguments, field.name) for field in fields(BuildOptions)}
    options = BuildOptions(**{**values, "relations": tuple(arguments.relations)})
    if arguments.trainable:
        check_trainable(options.tokenizer)
    if arguments.dry_run:
        return _dry_run(arguments, options)
    start = time.monotonic()
    result = find_or_build(
        arguments.folder,
        options,
        store=arguments.store,
        say=_say,
        cache=arguments.cache,
        memory=arguments.memory,
        reuse=not arguments.no_reuse,
    )
    seconds = round(time.monotonic() - start, 2)
    if arguments.json:
        line = {"id": result.id, "path": str(result.path), "seconds": seconds, "found": result.found}
        _out(json.dumps(line))
    else:
        _out(f"{result.path}  ({'found' if result.found else 'built'} in {seconds} s)")
    return 0


def _dry_run(arguments: argparse.Namespace, options: BuildOptions) -> int:
    """What does not fit is told after all else, as an error."""
    told = dry_run(
        arguments.folder,
        options,
        store=arguments.store,
        say=_say,
        cache=arguments.cache,
        memory=arguments.memory,
        reuse=not arguments.no_reuse,
    )
    for line in [json.dumps(as_json(told))] if arguments.json else lines(told):
        _out(line)
    for refusal in told.refusals:
        sys.stderr.write(f"error: {refusal}\n")
    return told.refusals[0].exit_code if told.refusals else 0


def _pull(arguments: argparse.Namespace) -> int:
    objects, cache = Objects(arguments.store, say=_say), cache_folder(arguments.cache)
    path = pull(objects, arguments.id, cache, say=_say, host=arguments.host)
    _out(json.dumps({"id": arguments.id, "path": str(path)}) if arguments.json else str(path))
    return 0


def _push(arguments: argparse.Namespace) -> int:
    objects = Objects(arguments.store, say=_say)
    published = remote.push(objects, Path(arguments.path), say=_say)
    url = objects.name(published.manifest.id)
    _out(json.dumps({"id": published.manifest.id, "path": url}) if arguments.json else url)
    return 0


def _ls(arguments: argparse.Namespace) -> int:
    if is_url(arguments.store):
        objects = Objects(arguments.store, say=_say)
        found = [(objects.name(m.id), m) for m in remote.finished(objects, say=_say)]
    else:
        store = store_folder(arguments.store, key="store")
        found = [(str(store / m.id), m) for m in finished(store, say=_say)]
    if arguments.json:
        _out(json.dumps([{"id": m.id, "path": path} for path, m in found]))
        return 0
    for _, manifest in found:
        nodes = sum(t.count for t in manifest.node_types)
        edges = sum(r.count for r in manifest.relations)
        parts = f"{manifest.hosts} hosts x {manifest.trainers} trainers"
        _out(f"{manifest.id}  {parts}  {nodes:,} nodes  {edges:,} edges  {_megabytes(manifest):,.1f} MB")
    return 0


def _gc(arguments: argparse.Namespace) -> int:
    limits = Limits(
        keep=frozenset(arguments.keep),
        unused_days=arguments.unused_days,
        unfinished_s=arguments.unfinished_hours * 3600,
    )
    if is_url(arguments.store):
        objects = Objects(arguments.store, say=_say)
        removed = collect_remote(objects, limits, dry_run=arguments.dry_run)
    else:
        store = store_folder(arguments.store, key="store")
        removed = collect_local(store, limits, dry_run=arguments.dry_run)
    if arguments.json:
        _out(json.dumps({"removed": [asdict(r) for r in removed], "dry_run": arguments.dry_run}))
        return 0
    word = "would remove" if arguments.dry_run else "removed"
    for removal in removed:
        _out(f"{word} {removal.id}: {removal.why}, {removal.size / 1e6:,.1f} MB")
    if not removed:
        _out("nothing to remove")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    manifest = _manifest(arguments.path)
    if arguments.json:
        _out(json.dumps(json.loads(manifest.to_json())))
        return 0
    cut, balance = manifest.stats["cut"], manifest.stats["balance"]["parts"]
    _out(f"partition {manifest.id}: {manifest.hosts} hosts x {manifest.trainers} trainers, ", end="")
    _out(f"{sum(manifest.clusters)} clusters, {len(manifest.files)} files, {_megabytes(manifest):,.1f} MB")
    _out(f"edges cut: {cut['hosts']:.1%} between hosts, {cut['parts']:.1%} between parts")
    for choice in manifest.stats.get("methods", ()):  # none in partitions made before it was kept
        _out(f"{choice['level']} cut by {choice['method']} ({choice['why']})")
    if manifest.parent:
        _out(f"assignment of nodes {manifest.reuse.how} from partition {manifest.parent}")
    for name, values in balance.items():
        _out(f"{name} by part: {', '.join(f'{value:,}' for value in values)}")
    for node_type in manifest.node_types:
        text = f", {node_type.tokens:,} tokens" if node_type.text else ""
        width = f", {node_type.feature_width} features" if node_type.feature_width else ""
        _out(f"node type {node_type.name}: {node_type.count:,}{text}{width}{_targets(node_type.targets)}")
    for relation in manifest.relations:
        kind = f" (turns round {relation.reverse})" if relation.is_reverse else _targets(relation.targets)
        ends = f"{relation.source} -> {relation.destination}"
        _out(f"relation {relation.name}: {ends}, {relation.count:,} edges{kind}")
    for line in quarantine_lines(manifest.stats.get("quarantine", {})):
        _out(f"quarantine {line}")
    for name, count in manifest.stats["leaks"].items():
        _out(f"warning: {count:,} validation or test edges of {name} are also edges that messages may use")
    return 0


def _manifest(path: str) -> PartitionManifest:
    if not is_url(path):
        return PartitionManifest.load(path)
    store, part_id = split_url(path)
    return remote.get(Objects(store, say=_say), part_id).manifest


def _verify(arguments: argparse.Namespace) -> int:
    if is_url(arguments.path):
        if arguments.deep:
            raise UsageError("--deep needs a partition on this machine", hint="pull it first")
        store, part_id = split_url(arguments.path)
        manifest = remote.verify(Objects(store, say=_say), part_id)
    else:
        manifest = verify(arguments.path)
    if arguments.deep:
        # Imported here: DGL takes seconds, and checksums need none of them.
        from partition.check import check_structure

        check_structure(Path(arguments.path), manifest)
    if arguments.json:
        _out(
            json.dumps({"id": manifest.id, "path": arguments.path, "files": len(manifest.files), "ok": True})
        )
    else:
        fit = " and fit together" if arguments.deep else ""
        _out(f"partition {manifest.id}: all {len(manifest.files)} files are as written{fit}")
    return 0


def _targets(counts: Mapping[str, int]) -> str:
    words = [f"{counts[split]:,} {split}" for split in SPLITS if counts.get(split)]
    return f", targets: {', '.join(words)}" if words else ""


def _megabytes(manifest: PartitionManifest) -> float:
    return sum(info.size for info in manifest.files.values()) / 1e6


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _out(line: str, *, end: str = "\n") -> None:
    sys.stdout.write(line + end)


_COMMANDS = {
    "build": _build,
    "pull": _pull,
    "push": _push,
    "ls": _ls,
    "show": _show,
    "verify": _verify,
    "gc": _gc,
}


if __name__ == "__main__":
    sys.exit(main())
