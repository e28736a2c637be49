"""`python -m partition build | ls | show | verify`: flags in, one JSON line or a table out.

Owns the command line and its exit codes. Never does any work of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import fields

from partition.build import BuildOptions, find_or_build
from partition.errors import LMGNNError
from partition.manifest import SPLITS, PartitionManifest
from partition.methods import AUTO, METHODS
from partition.paths import store_folder
from partition.store import finished, verify
from partition.tokens import check_trainable


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is that of the error's class."""
    os.environ.setdefault("DGLBACKEND", "pytorch")  # else dgl's first import writes into the home folder
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except LMGNNError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception:  # a bug of ours: whoever mends it needs the traceback
        traceback.print_exc()
        return LMGNNError.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lmgnn partition", description="Cut a graph into parts and keep them."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    build = commands.add_parser(
        "build",
        help="cut a graph, or find it cut already",
        description="Cut the graph of FOLDER/graph.toml for so many hosts and trainers.",
        epilog="What the store has of the graph is reused: the cut, clusters, tokens, files "
        "(docs/formats.md). Example: lmgnn partition build data/debian --hosts 2 --trainers 2 --store store",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    build.add_argument("folder", metavar="FOLDER", help="folder or fsspec URL that holds graph.toml")
    build.add_argument("--store", required=True, help="folder that keeps finished partitions")
    _add_options(build)
    build.add_argument(
        "--memory",
        default="",
        metavar="SIZE",
        help="what cutting may take, by which auto chooses, like 4GiB; none = most of this machine's",
    )
    build.add_argument(
        "--no-reuse", action="store_true", help="take nothing from other partitions of the store: cut afresh"
    )
    build.add_argument("--json", action="store_true", help="print the result as one line of JSON, last")
    build.set_defaults(run=_build)

    ls = commands.add_parser("ls", help="list the partitions of a store")
    ls.add_argument("--store", required=True, help="folder that keeps finished partitions")
    ls.add_argument("--json", action="store_true", help="print one line of JSON")
    ls.set_defaults(run=_ls)

    show = commands.add_parser("show", help="tell what a partition holds")
    show.add_argument("path", metavar="PATH", help="folder of a partition")
    show.add_argument("--json", action="store_true", help="print its manifest")
    show.set_defaults(run=_show)

    check = commands.add_parser("verify", help="check every file of a partition against its checksum")
    check.add_argument("path", metavar="PATH", help="folder of a partition")
    check.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    check.set_defaults(run=_verify)
    return parser


def _add_options(parser: argparse.ArgumentParser) -> None:
    defaults = {field.name: field.default for field in fields(BuildOptions)}

    def number(name: str, text: str) -> None:
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=int, default=defaults[name], metavar="N", help=text)

    number("hosts", "graph servers, one part of the graph each")
    number("trainers", "trainers of a host")
    number("cluster_size", "nodes of a cluster, the smallest unit")
    number("seed", "another seed gives another cut")
    number("max_length", "tokens kept of a text, special ones included")
    parser.add_argument("--method", default=defaults["method"], help=f"{', '.join((AUTO, *METHODS))}")
    parser.add_argument(
        "--even",
        action=argparse.BooleanOptionalAction,
        default=defaults["even"],
        help="spread nodes, edges and training targets evenly, each by itself, for some more edges cut",
    )
    parser.add_argument(
        "--tokenizer", default="", help="model whose tokenizer to use; none = leave texts out"
    )
    parser.add_argument(
        "--trainable", action="store_true", help="refuse a tokenizer whose folder holds no model to train"
    )
    parser.add_argument(
        "--keep-eval-edges",
        action=argparse.BooleanOptionalAction,
        default=defaults["keep_eval_edges"],
        help="leave validation and test edges in the stored graph",
    )
    parser.add_argument(
        "--reverse",
        action=argparse.BooleanOptionalAction,
        default=defaults["reverse"],
        help="store relations turned round as well",
    )
    parser.add_argument(
        "--relations", action="append", default=[], metavar="NAME", help="load this relation only; repeat it"
    )


def _build(arguments: argparse.Namespace) -> int:
    values = {field.name: getattr(arguments, field.name) for field in fields(BuildOptions)}
    options = BuildOptions(**{**values, "relations": tuple(arguments.relations)})
    if arguments.trainable:
        check_trainable(options.tokenizer)
    start = time.monotonic()
    result = find_or_build(
        arguments.folder,
        options,
        store=arguments.store,
        say=_say,
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


def _ls(arguments: argparse.Namespace) -> int:
    store = store_folder(arguments.store, key="store")
    manifests = finished(store)
    if arguments.json:
        _out(json.dumps([{"id": m.id, "path": str(store / m.id)} for m in manifests]))
        return 0
    for manifest in manifests:
        nodes = sum(t.count for t in manifest.node_types)
        edges = sum(r.count for r in manifest.relations)
        parts = f"{manifest.hosts} hosts x {manifest.trainers} trainers"
        _out(f"{manifest.id}  {parts}  {nodes:,} nodes  {edges:,} edges  {_megabytes(manifest):,.1f} MB")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    manifest = PartitionManifest.load(arguments.path)
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
    for name, count in manifest.stats["leaks"].items():
        _out(f"warning: {count:,} validation or test edges of {name} are also edges that messages may use")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    manifest = verify(arguments.path)
    if arguments.json:
        _out(
            json.dumps({"id": manifest.id, "path": arguments.path, "files": len(manifest.files), "ok": True})
        )
    else:
        _out(f"partition {manifest.id}: all {len(manifest.files)} files are as written")
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


if __name__ == "__main__":
    sys.exit(main())
