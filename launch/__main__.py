"""`lmgnn`: one command for everything. Parses and hands on; the work is elsewhere.

`run`, `plan`, `submit`, `status` and `stop` are done here. The commands of the packages `partition` and
`pipeline` are handed on by runpy, so that launch imports neither of them.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from partition.errors import LMGNNError, UsageError

OWN = ("run", "plan", "submit", "status", "stop")
HANDED_ON = {
    "init": ("pipeline", "write graph.toml and a first plan for a folder of tables: `lmgnn init FOLDER`"),
    "check": ("pipeline", "what a folder, graph.toml or plan means, and what is odd: `lmgnn check FOLDER`"),
    "partition": ("partition", "build, pull, push, list, show, verify and clean up partitioned graphs"),
    "estimate": ("pipeline", "rows, LM tokens, time and memory of a plan.json on a finished partition"),
    "bench": ("pipeline", "what a batch costs in texts, LM tokens and bytes: `lmgnn bench batches --help`"),
    "leaks": ("pipeline", "look for answers that lie in the edges and texts which a plan's model sees"),
    "baselines": ("pipeline", "classical baselines for a run's tasks: `lmgnn baselines latest`"),
    "report": ("pipeline", "write a run's report.html again: `lmgnn report latest`"),
    "predict": ("pipeline", "what a finished run says about ids of yours: `lmgnn predict latest --ids ID`"),
    "embed": ("pipeline", "vectors of texts or nodes by a finished run: `lmgnn embed latest --help`"),
    "doctor": ("pipeline", "versions, devices and where the code comes from"),
}
TAKES_RUN = {
    "baselines": (),
    "report": ("--output",),
    "predict": ("--task", "--ids", "--pairs", "--relation", "--top", "--output"),
    "embed": ("--task", "--texts", "--column", "--id", "--type", "--nodes", "--output"),
}
"""Handed-on commands that take a run, and their options with a value."""
INTRODUCTION = """\
Train a language model and a graph neural network together on a graph whose nodes have text.

  lmgnn                                         the default job: one graph, all stages, a report
  lmgnn run --config my.toml                    a job of your own
  lmgnn plan --config my.toml                   what it would start, compute and need
  lmgnn run --config my.toml --nodes 2          over two hosts, simulated on this machine
  lmgnn run --config my.toml --hostfile hosts   over the hosts of a file, by ssh
  lmgnn run --config my.toml --run-dir latest   go on with the last run where it stopped
  lmgnn status                                  how the last run is doing
  lmgnn stop latest                             save a checkpoint and end
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code; errors are one line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] and arguments[0] in HANDED_ON:
        try:
            return _hand_on(_with_run_folders(arguments))
        except LMGNNError as error:
            return _fail(error)
    if not arguments or (arguments[0] not in OWN and arguments[0] not in ("-h", "--help")):
        if arguments and not arguments[0].startswith("-"):
            known = ", ".join([*OWN, *HANDED_ON])
            return _fail(UsageError(f"unknown command {arguments[0]!r}", hint=f"known: {known}"))
        arguments = ["run", *arguments]
    options = _parser().parse_args(arguments)
    try:
        return int(options.act(options, arguments))
    except LMGNNError as error:
        return _fail(error)


def _fail(error: LMGNNError) -> int:
    sys.stderr.write(f"error: {error}\n")
    return error.exit_code


def _with_run_folders(arguments: list[str]) -> list[str]:
    """The arguments, with folders for runs that are given by name or as `latest`."""
    if arguments[0] not in TAKES_RUN:
        return arguments
    from launch import runs

    changed, before, found = arguments[:1], "", False
    for text in arguments[1:]:
        # The first free word is the run; options may take any number of them after it.
        plain = found or text.startswith("-") or before in TAKES_RUN[arguments[0]]
        found = found or not plain
        changed.append(text if plain or Path(text).is_dir() else str(runs.find(text)))
        before = text
    return changed


def _hand_on(arguments: list[str]) -> int:
    command = arguments[0]
    package = HANDED_ON[command][0]
    rest = arguments[1:] if package == command else arguments
    sys.argv = [f"lmgnn {command}", *rest]
    try:
        runpy.run_module(package, run_name="__main__", alter_sys=True)
    except SystemExit as leaving:
        if leaving.code is None:
            return 0
        if isinstance(leaving.code, int):
            return leaving.code
        sys.stderr.write(f"{leaving.code}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    others = "".join(f"  {name:10} {text}\n" for name, (_, text) in HANDED_ON.items())
    parser = argparse.ArgumentParser(
        prog="lmgnn",
        description=INTRODUCTION,
        epilog=f"further commands, each with its own --help:\n{others}\n"
        "exit codes: 0 done, 2 usage, 3 data, 5 locked, 10 a process failed, 11 hang, 12 something is "
        "missing,\n13 store, 14 disk full, 70 our bug, 130 Ctrl-C, 143 terminated",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    from launch import k8s_command, slurm_submit

    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, text in (
        ("run", "run a job from graph to report"),
        ("plan", "show what `run` would do; builds graph and partition, trains nothing"),
    ):
        command = _command(commands, name, text, f"lmgnn {name} --config my.toml --set engine.zero=1")
        _add_run_flags(command)
        command.set_defaults(act=_run, dry_run=name == "plan")
        if name == "run":
            command.add_argument("--dry-run", action="store_true", help="the same as `lmgnn plan`")
        else:
            k8s_command.add_flags(command)
    queued = _command(commands, "submit", "queue a job on Slurm", "lmgnn submit --config my.toml --nodes 4")
    _add_run_flags(queued)
    slurm_submit.add_flags(queued)
    queued.add_argument("--dry-run", action="store_true", help="print the batch script only")
    queued.set_defaults(act=slurm_submit.submit)
    status = _command(commands, "status", "how a run is doing", "lmgnn status latest")
    status.add_argument("run", nargs="?", default="latest", help="folder, name under runs/, or latest")
    status.add_argument("--json", action="store_true", help="for programs")
    status.set_defaults(act=_status)
    stop = _command(commands, "stop", "save a checkpoint and end a run", "lmgnn stop latest")
    stop.add_argument("run", help="folder, name under runs/, or latest")
    stop.add_argument("--now", action="store_true", help="do not wait for the checkpoint")
    stop.set_defaults(act=_stop)
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, example: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=f"example: {example}",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )


def _add_run_flags(parser: argparse.ArgumentParser) -> None:
    from launch.runs import DEFAULT_PLAN

    add = parser.add_argument
    add("--config", default=str(DEFAULT_PLAN), metavar="FILE", help="the plan, a TOML file")
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="change a key of the plan, e.g. --set stages.joint.epochs=2 (may be repeated)")  # fmt: skip
    add("--nodes", type=int, metavar="N",
        help="hosts; unset: all of a hostfile, or 1. Without a hostfile they are simulated here")  # fmt: skip
    add("--trainers-per-node", type=int, metavar="T", help="processes that train; unset: one per GPU, or 2")
    add("--servers-per-node", type=int, default=1, metavar="S", help="processes that serve the graph")
    add("--partition", default="", metavar="FOLDER", help="a finished partition; unset: found or built")
    add("--run-dir", default="", metavar="FOLDER",
        help="results; unset: runs/TIME-NAME. Folder or name of a run, or `latest`: go on")  # fmt: skip
    add("--name", default="", help="name of the new run folder; unset: the plan's")
    add(
        "--resume",
        choices=("auto", "never"),
        default="auto",
        help="with the folder of a run: go on from its newest good checkpoint, or refuse",
    )
    add("--max-restarts", type=int, metavar="R",
        help="start again from the newest checkpoint after a failure, so often without progress")  # fmt: skip
    add("--hang-timeout", type=_duration, default="15m", metavar="TIME",
        help="a trainer that is silent for so long ends the job (90, 90s, 15m, 2h)")  # fmt: skip
    add("--json", action="store_true", help="one JSON object on stdout at the end, all else on stderr")
    _add_host_flags(parser.add_argument_group("hosts").add_argument)


def _add_host_flags(add: Callable[..., object]) -> None:
    from launch.backends import BACKENDS

    add("--hostfile", default="", metavar="FILE",
        help="hosts to reach by ssh, `host slots=N` a line; those beyond --nodes are spare")  # fmt: skip
    add("--backend", default="", metavar="NAME",
        help=f"how hosts are reached: {', '.join(BACKENDS)}; unset: found by itself. "
        "`plan --backend k8s` prints manifests")  # fmt: skip
    add("--ssh-config", default="", metavar="FILE", help="for ssh -F; unset: your own")
    add("--network", default="", metavar="CIDR",
        help="the job's addresses, such as 10.0.0.0/8; unset: those that ssh reaches")  # fmt: skip
    add("--allow-public", action="store_true",
        help="take addresses that the internet reaches: whoever reaches a port owns its process")  # fmt: skip
    add("--export", action="append", default=[], metavar="NAME",
        help="environment variable for other hosts, like AWS_*, HF_*, NCCL_* (may be repeated)")  # fmt: skip


def _duration(text: str) -> float:
    unit = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:], 0.0)
    try:
        seconds = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a time such as 90s, 15m or 2h")
    return seconds


def _run(options: argparse.Namespace, arguments: list[str]) -> int:
    from launch import k8s, k8s_command, k8s_node, run, runs
    from launch.cluster import HostsWanted
    from launch.job import RunOptions

    wanted = RunOptions(
        config=Path(options.config),
        overrides=options.overrides,
        hosts=HostsWanted(
            nodes=options.nodes,
            trainers_per_host=options.trainers_per_node,
            servers_per_host=options.servers_per_node,
            hostfile=options.hostfile,
            ssh_config=options.ssh_config,
            network=options.network,
            allow_public=options.allow_public,
            exports=tuple(options.export),
        ),
        backend=options.backend,
        partition=runs.partition_folder(options.partition),
        run_dir=options.run_dir,
        name=options.name,
        resume=options.resume,
        max_restarts=options.max_restarts or 0,
        hang_timeout_s=options.hang_timeout,
        json=options.json,
        command=runs.command_line(arguments, name=_own_name()),
    )
    if options.dry_run and options.backend == "k8s":
        return k8s_command.show_manifests(options, wanted.command)
    pod = k8s.this_pod() if options.backend in ("", "k8s") and not options.hostfile else None
    if pod and options.dry_run:
        raise UsageError("plan: this is a pod of a job", hint="`lmgnn plan` where the manifests were made")
    if pod and pod.index:
        return k8s_node.serve(pod, code=runs.CODE)
    return run.dry_run(wanted) if options.dry_run else run.run(wanted)


def _own_name() -> str:
    """What this command is called by: run.sh as it was typed, or lmgnn, with its folder off the PATH."""
    if typed := os.environ.pop("LMGNN_COMMAND_NAME", ""):
        return typed
    called = Path(sys.argv[0])
    found = shutil.which("lmgnn")
    off_path = called.name == "lmgnn" and (found is None or not called.samefile(found))
    return str(called) if off_path else "lmgnn"


def _status(options: argparse.Namespace, _: list[str]) -> int:
    from launch import runs, status
    from launch.console import Console

    found = status.read_status(runs.find(options.run))
    if options.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        status.show_status(found, Console(sys.stdout))
    return 0


def _stop(options: argparse.Namespace, _: list[str]) -> int:
    from launch import runs, status

    path = runs.find(options.run)
    stopped = status.stop(path, now=options.now)
    sys.stdout.write(f"{path} {'stopped' if stopped else 'was not running'}\n")
    if (job := runs.slurm_job(path)) and not stopped:
        sys.stderr.write(f"Slurm may still start it, as job {job}: `scancel {job}`\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
