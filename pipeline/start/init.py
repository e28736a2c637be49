"""`lmgnn init FOLDER`: tables -> graph.toml and a first plan, both with reasons, and a summary.

Owns the files that are written and the refusal to overwrite. Guesses are partition/guess.py's, numbers
pipeline/start/plan.py's.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from partition.errors import DataError, UsageError
from partition.guess import GraphGuess, guess_graph
from partition.guess_copies import require_copies
from partition.guess_files import survey
from partition.guess_split import parse_shares, plan_splits
from partition.guess_toml import graph_toml
from partition.request import GRAPH_FILE
from partition.schema import GraphSchema, parse_schema
from partition.storage import InputFile, InputFolder, reading, writing
from partition.tables import load_tables, table_files
from pipeline.durable import write_whole
from pipeline.start.plan import Starter, starter_plan

PLAN_FILE = "plan.toml"


def main(argv: Sequence[str] | None = None) -> int:
    """0 once graph.toml is written, with a plan if something can be predicted; errors as everywhere.

    Everything is read and checked before the first file is written, so that an error leaves none half-done.
    Only a guessed graph.toml is written at once, for its comments tell what to mend.
    """
    options = _parser().parse_args(argv)
    folder, console = InputFolder(options.folder), Console(highlight=False)
    graph, plan = folder.file(GRAPH_FILE), _plan_path(options.folder)
    shares = parse_shares(options.split) if options.split else None
    found = graph.fs.exists(graph.path) and bool(shares or not options.force)
    if not (found and shares):
        _spare(plan, options)
    text = _read(graph) if found else _guess(folder, graph, console)
    splits = plan_splits(text, folder, shares, where=graph.name) if shares else None
    renews = splits is not None and all(table.again for table in splits.drawn) and plan.exists()
    if not renews:
        _spare(plan, options)
    schema = parse_schema(splits.text if splits else text, where=graph.name)
    if splits:
        tables = splits.check(folder)
    else:
        require_copies(schema, folder)
        tables = load_tables(schema, table_files(schema, folder))
    starter = starter_plan(tables, name=schema.name, path=options.folder if "://" in options.folder else ".")
    if splits:
        splits.write(folder)
        _write(graph, splits.text)
    if found:
        end = "; a plan is made for it" if starter.text else ""
        stays = "keeps all but what a split changes in it" if splits else f"stays as it is{end}"
        console.print(f"{GRAPH_FILE} is there and {stays}.", soft_wrap=True)
    for table in splits.drawn if splits else ():
        label = f"label = {table.label}; " if table.label else ""
        told = f"{table.name}: {table.path}; {label}{table.told}"
        console.print(f"  split {escape(told)}", soft_wrap=True)
    if renews and not options.force:
        told = "stays as it is: only copies of tables that have changed were made again."
        console.print(f"{escape(str(plan))} {told}", soft_wrap=True)
    else:
        _make_plan(starter, plan, console, options.folder)
    return 0


def _spare(plan: Path, options: argparse.Namespace) -> None:
    """UsageError instead of overwriting a plan."""
    if plan.exists() and not options.force:
        also = "" if options.split else ", and graph.toml"
        raise UsageError(f"{plan} is there already", hint=f"--force overwrites it{also}")


def _guess(folder: InputFolder, graph: InputFile, console: Console) -> str:
    """The text of a new graph.toml, which is written; DataError if a build could not read it."""
    guess = guess_graph(survey(folder), _name(folder.url))
    text = graph_toml(guess)
    _write(graph, text)
    _tell_guess(guess, console)
    if not guess.of("nodes") or not guess.of("edges"):
        missing = "edges" if guess.of("nodes") else "nodes"
        raise DataError(
            f"{graph.path}: no table of {missing} is clear enough",
            hint="its comments say why; correct it, then run `lmgnn init` again for a plan",
        )
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lmgnn init",
        description="Look at the *.parquet and *.csv under a folder and write what they most likely are into "
        "FOLDER/graph.toml, and a first plan for it into FOLDER/plan.toml (for a URL: ./plan.toml). "
        "Where graph.toml is there already, only the plan is made.",
        epilog="example: lmgnn init ~/papers && lmgnn check ~/papers/plan.toml && "
        "lmgnn run --config ~/papers/plan.toml",
    )
    parser.add_argument("folder", metavar="FOLDER", help="folder or fsspec URL that holds the tables")
    parser.add_argument(
        "--force", action="store_true", help="overwrite plan.toml and, without --split, graph.toml"
    )
    parser.add_argument(
        "--split",
        default="",
        metavar="TRAIN,VALID,TEST",
        help="copy each table with a label (or one likely label) and no split to FOLDER/with_split, with a "
        "split drawn by a hash of ids, e.g. 80,10,10; without a sure label or a split anywhere, also the "
        "largest relation. Copies whose tables have changed are made again. A graph.toml that is there keeps "
        "all else",
    )
    return parser


def _plan_path(folder: str) -> Path:
    """Beside the tables; a plan is a local file, so for a URL it goes to the current folder."""
    return Path(PLAN_FILE) if "://" in folder else Path(folder).expanduser() / PLAN_FILE


def _name(folder: str) -> str:
    return Path(folder.partition("://")[2] or folder).resolve().name or "graph"


def _write(file: InputFile, text: str) -> None:
    with writing(Path(file.path)), file.fs.transaction, file.fs.open(file.path, "wb") as stream:
        stream.write(text.encode("utf-8"))


def read_schema(graph: InputFile) -> GraphSchema:
    """graph.toml, parsed; UsageError or DataError naming it."""
    return parse_schema(_read(graph), where=graph.name)


def _read(graph: InputFile) -> str:
    with reading(graph.path, hint="`lmgnn init FOLDER` writes one"):
        raw: bytes = graph.fs.cat_file(graph.path)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{graph.name}: not valid UTF-8") from None


def _make_plan(starter: Starter, plan: Path, console: Console, url: str) -> None:
    for sentence in starter.missing:
        console.print(f"! {escape(sentence)}", style="yellow")
    if not starter.text:
        plan.unlink(missing_ok=True)  # of an earlier init --force: it would ask for what is gone
        _tell_missing(console, url)
        return
    with writing(plan):
        write_whole(plan, starter.text, sync=True)
    console.print(f"\nwritten: {escape(str(plan))}")
    for sentence in starter.tasks:
        console.print(f"  task {escape(sentence)}")
    console.print(
        f"next: lmgnn check {escape(str(plan))}   what was understood, and what is odd\n"
        f"      lmgnn plan --config {escape(str(plan))}   what it costs\n"
        f"      lmgnn run --config {escape(str(plan))}",
        soft_wrap=True,
    )


def _tell_guess(guess: GraphGuess, console: Console) -> None:
    """One line a table; then what was left out."""
    console.print(f"written: {GRAPH_FILE}, with the reason behind every guess")
    for table in guess.tables:
        path = ", ".join(table.table.paths)
        if table.kind == "nodes":
            keys = [key for key in ("text", "label", "split", "features") if table.value(key)]
            told = f"{table.name}: {path}; {', '.join(keys) or 'ids only'}"
            console.print(f"  nodes {escape(told)}", soft_wrap=True)
        elif table.sure:
            keys = [key for key in ("label", "split") if table.value(key)]
            ends = f"{table.value('source')} -> {table.value('destination')}"
            told = f"{table.name}: {path}; {', '.join([ends, *keys])}"
            console.print(f"  edges {escape(told)}", soft_wrap=True)
        else:
            told = f"{table.name}: {path}; {table.notes[-1]}"
            console.print(f"! edges {escape(told)}", style="yellow", soft_wrap=True)
    for sentence in guess.left_out:
        console.print(f"! {escape(sentence)}", style="yellow", soft_wrap=True)


def _tell_missing(console: Console, url: str) -> None:
    console.print(
        "\nno plan yet: nothing that can be predicted has a split into train, valid and test.\n"
        f"      lmgnn init {escape(url)} --split 80,10,10   draws one into copies of the tables",
        soft_wrap=True,
    )
