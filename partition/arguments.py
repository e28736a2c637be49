"""The command line of `python -m partition`: flags, defaults and their words. Never does any work."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import TypeAlias

from partition.build import BuildOptions
from partition.methods import AUTO, METHODS
from partition.paths import cache_folder
from partition.quarantine import POLICIES
from partition.remote import UNFINISHED_S

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def parser() -> argparse.ArgumentParser:
    """The parser; `command` of what it gives names the command."""
    whole = argparse.ArgumentParser(
        prog="lmgnn partition", description="Cut a graph into parts and keep them."
    )
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    for add in (_build, _pull, _push, _ls, _show, _verify, _gc):
        add(commands)
    return whole


def _build(commands: _Commands) -> None:
    parser = commands.add_parser(
        "build",
        help="cut a graph, or find it cut already",
        description="Cut the graph of FOLDER/graph.toml for so many hosts and trainers.",
        epilog="What the store has of the graph is reused: cut, clusters, tokens, files "
        "(docs/partition-format.md). Example: "
        "lmgnn partition build data/debian --hosts 2 --trainers 2 --store s3://bucket/store",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER", help="folder or fsspec URL that holds graph.toml")
    _add_store(parser)
    _add_cache(parser)
    _add_options(parser)
    parser.add_argument(
        "--memory",
        default="",
        metavar="SIZE",
        help="what the build may take, by which auto chooses, like 4GiB; none = most of what there is",
    )
    parser.add_argument(
        "--no-reuse", action="store_true", help="take nothing from other partitions of the store: cut afresh"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say what it would find, make and take (rows, methods, memory, disk, LM tokens, time) and "
        "refuse what does not fit; nothing is written",
    )
    parser.add_argument("--json", action="store_true", help="print the result as one line of JSON, last")
    parser.set_defaults(command="build")


def _pull(commands: _Commands) -> None:
    parser = commands.add_parser(
        "pull",
        help="bring a partition from a store at a URL to this machine",
        epilog="example: lmgnn partition pull ID --store s3://bucket/store --host 1 --cache /data/store",
    )
    parser.add_argument("id", metavar="ID", help="as `lmgnn partition ls` shows it")
    _add_store(parser)
    _add_cache(parser)
    parser.add_argument("--host", type=int, metavar="N", help="only what this host reads, counted from 0")
    parser.add_argument("--json", action="store_true", help="print the result as one line of JSON, last")
    parser.set_defaults(command="pull")


def _push(commands: _Commands) -> None:
    parser = commands.add_parser("push", help="send a partition of this machine to a store at a URL")
    parser.add_argument("path", metavar="PATH", help="folder of a partition")
    _add_store(parser)
    parser.add_argument("--json", action="store_true", help="print the result as one line of JSON, last")
    parser.set_defaults(command="push")


def _ls(commands: _Commands) -> None:
    parser = commands.add_parser("ls", help="list the partitions of a store")
    _add_store(parser)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.set_defaults(command="ls")


def _show(commands: _Commands) -> None:
    parser = commands.add_parser("show", help="tell what a partition holds")
    parser.add_argument("path", metavar="PATH", help="folder or URL of a partition")
    parser.add_argument("--json", action="store_true", help="print its manifest")
    parser.set_defaults(command="show")


def _verify(commands: _Commands) -> None:
    parser = commands.add_parser("verify", help="check every file of a partition against its checksum")
    parser.add_argument("path", metavar="PATH", help="folder or URL of a partition")
    parser.add_argument(
        "--deep",
        action="store_true",
        help="check as well that what the files hold fits together: nodes, edges, halos, features, texts, "
        "targets",
    )
    parser.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    parser.set_defaults(command="verify")


def _gc(commands: _Commands) -> None:
    parser = commands.add_parser(
        "gc",
        help="remove what unfinished builds left in a store, and partitions not used for long",
        epilog="example: lmgnn partition gc --store s3://bucket/store --unused-days 60 --dry-run",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_store(parser)
    add = parser.add_argument
    add(
        "--unused-days",
        type=_positive,
        metavar="N",
        help="remove partitions not used for N days; unset: none",
    )
    hours = UNFINISHED_S / 3600
    add(
        "--unfinished-hours",
        type=_positive,
        default=hours,
        metavar="N",
        help="remove older unfinished builds",
    )
    add("--keep", action="append", default=[], metavar="ID", help="never remove this one; repeat it")
    add("--dry-run", action="store_true", help="say what would be removed")
    add("--json", action="store_true", help="print the result as one line of JSON")
    parser.set_defaults(command="gc")


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store", required=True, help="folder or URL (s3://bucket/prefix) that keeps finished partitions"
    )


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache",
        default="",
        metavar="FOLDER",
        help=f"folder of this machine for partitions of a store at a URL; unset: {cache_folder()}",
    )


def _positive(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text}: expected more than 0")
    return number


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
    parser.add_argument("--method", default=defaults["method"], help=", ".join((AUTO, *METHODS)))
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
        "--bad-rows",
        default=defaults["bad_rows"],
        choices=POLICIES,
        help="stop at a wrong row, or leave it out of the graph and keep it in the partition's quarantine/",
    )
    parser.add_argument(
        "--bad-rows-cap",
        type=float,
        default=defaults["bad_rows_cap"],
        metavar="SHARE",
        help="with quarantine: share of a table's rows that may be left out; one row always may",
    )
    parser.add_argument(
        "--relations", action="append", default=[], metavar="NAME", help="load this relation only; repeat it"
    )
