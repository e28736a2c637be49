"""`python -m pipeline COMMAND`: finds the command's module and turns errors into exit codes.

Owns dispatch and `doctor`. Commands are imported when asked for, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import logging
import os
import platform
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from partition.errors import LMGNNError, PreflightError

COMMANDS = {
    "init": ("pipeline.start.init", "tables of a folder -> a guessed graph.toml and a first plan"),
    "check": ("pipeline.start.check", "what a graph.toml or a plan means, and what is odd about it"),
    "estimate": ("pipeline.cost.estimate", "LM tokens, time, memory and disk of a plan before it runs"),
    "bench": ("pipeline.cost.batches", "what a stage's batches cost: texts, LM tokens, bytes, one by one"),
    "leaks": ("pipeline.leaks.command", "answers to a plan's tasks that lie in what the model sees"),
    "baselines": ("pipeline.baselines.compare", "classical baselines for the tasks of a run"),
    "report": ("pipeline.report.page", "one HTML file about a run"),
    "predict": ("pipeline.use.predict", "classes, scores and best links of a finished run for given ids"),
    "embed": (
        "pipeline.use.embed",
        "new texts through a finished run's LM, or its node embeddings in one file",
    ),
    "doctor": ("pipeline.__main__", "versions, where the packages come from, devices"),
}
"""Command -> (module with its `main`, what it does)."""
_OURS = ("pipeline", "partition", "launch")
_LIBRARIES = ("torch", "dgl", "deepspeed", "transformers")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code (the table in partition/errors.py)."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline",
        description="Commands around training. `COMMAND --help` tells more.",
        epilog="commands:\n" + "\n".join(f"  {name:<10} {what}" for name, (_, what) in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        if options.command == "doctor":
            return doctor(options.arguments)
        code: int = importlib.import_module(COMMANDS[options.command][0]).main(options.arguments)
        return code
    except LMGNNError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception:  # a process border: our bug, told apart from errors that a person can mend
        traceback.print_exc()
        return LMGNNError.exit_code


def doctor(argv: Sequence[str]) -> int:
    """Print what this interpreter would train with; PreflightError when something cannot be imported."""
    parser = argparse.ArgumentParser(
        prog="lmgnn doctor", description=COMMANDS["doctor"][1].capitalize() + "."
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    os.environ.setdefault(
        "DGLBACKEND", "pytorch"
    )  # else dgl's first import writes a file into the home folder
    broken: dict[str, str] = {}
    facts = {"python": f"{platform.python_version()} at {sys.executable}"}
    for name in _LIBRARIES:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # DeepSpeed warns on stdout where it finds no GPU
                importlib.import_module(name)
            facts[name] = importlib.metadata.version(name)
        except Exception as error:  # whatever an import raises is what the doctor is for
            broken[name] = f"{type(error).__name__}: {error}"
    for name in _OURS:
        try:
            facts[name] = str(Path(importlib.import_module(name).__path__[0]).resolve())
        except Exception as error:  # as above
            broken[name] = f"{type(error).__name__}: {error}"
    if "torch" in facts:
        facts["devices"] = ", ".join(_devices())
    if options.json:
        print(json.dumps({**facts, "broken": broken}))
    else:
        for name, fact in facts.items():
            print(f"{name:<13} {fact}")
    trees = {str(Path(facts[name]).parent) for name in _OURS if name in facts}
    if broken:
        told = "; ".join(f"{name} ({reason})" for name, reason in broken.items())
        raise PreflightError(f"cannot be imported: {told}", hint="install the versions of requirements.lock")
    if len(trees) > 1:
        raise PreflightError(
            f"the three packages come from different places: {', '.join(sorted(trees))}",
            hint="start with `python -P` and only one of them on PYTHONPATH",
        )
    return 0


def _devices() -> list[str]:
    import torch

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return [*names, f"{torch.get_num_threads()} CPU threads"]


if __name__ == "__main__":
    sys.exit(main())
