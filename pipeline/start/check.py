"""`lmgnn check`: reads a graph as a build would and says what it is, what is odd, and whether a plan fits.

Owns the command and its tables. The counts are facts.py's, a plan's errors plan_check.py's.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from partition.errors import UsageError
from partition.guess_copies import old_copies, require_copies
from partition.manifest import PartitionManifest
from partition.quarantine import quarantine_lines, quarantine_stats
from partition.request import GRAPH_FILE
from partition.storage import InputFolder
from partition.tables import GraphTables, load_tables, table_files
from pipeline.config import StagePlan, TaskPlan, TrainPlan, load_plan
from pipeline.leaks.find import find_leaks
from pipeline.plan_check import check_against
from pipeline.start.facts import GraphFacts, Labels, as_manifest, graph_facts
from pipeline.start.init import read_schema
from pipeline.start.sizes import TRAINERS, most_negatives
from pipeline.targets import HELD_OUT, read_texts


@dataclass(frozen=True)
class Use:
    """What one task or stage of a plan uses."""

    name: str
    kind: str
    of: str
    """Node type or relations."""
    train: int
    """Training targets, or texts of mlm; of all relations together."""
    valid: int | None = None
    test: int | None = None
    steps: int | None = None
    """Of a stage, on one host with two trainers."""


def main(argv: Sequence[str] | None = None) -> int:
    """0 unless something is wrong; DataError and UsageError as a build and a start would raise them."""
    options = _parser().parse_args(argv)
    plan, url = _find(options.what, options.overrides)
    folder = InputFolder(url)
    schema = read_schema(folder.file(GRAPH_FILE))
    if plan is not None:
        schema = schema.select(plan.graph.relations)
        schema.check_names(reverse=plan.partition.reverse)
    require_copies(schema, folder)
    cap = plan.partition.most_bad_rows if plan is not None else None
    tables = load_tables(schema, table_files(schema, folder), cap=cap)
    facts = graph_facts(tables, name=schema.name)
    odd = (*quarantine_lines(quarantine_stats(tables.quarantine)), *old_copies(schema, folder))
    facts = replace(facts, warnings=(*facts.warnings, *odd))
    uses: list[Use] = []
    if plan is not None:
        manifest = as_manifest(tables, schema, reverse=plan.partition.reverse)
        check_against(plan, manifest)
        uses = [*_tasks(plan, manifest), *_stages(plan, manifest)]
        facts = replace(facts, warnings=(*facts.warnings, *_few_candidates(plan, manifest)))
    leaks = _leaks(tables, plan)
    if options.json:
        answer = {"graph": asdict(facts), "leaks": leaks, "plan": [asdict(use) for use in uses]}
        print(json.dumps(answer))
    else:
        # 120 columns into a file: rich's 80 would cut names off.
        width = None if sys.stdout.isatty() else 120
        _show(facts, uses, leaks, Console(highlight=False, width=width))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lmgnn check",
        description="Read a graph's tables as a build would, say what they hold and what is odd, and, for a "
        "plan, what each task and stage would use. Changes nothing.",
        epilog="example: lmgnn check ~/papers/plan.toml",
    )
    parser.add_argument(
        "what", metavar="WHAT", help="folder or URL that holds graph.toml, a graph.toml, or a plan"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="change a key of the plan, as run and plan do (may be repeated)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _find(what: str, overrides: Sequence[str]) -> tuple[TrainPlan | None, str]:
    """The plan, if it is one, and the graph's folder."""
    path, folder = Path(what), "://" in what or Path(what).is_dir()
    if not folder and not path.is_file():
        raise UsageError(f"{what}: no such file or folder", hint="name a folder, a graph.toml or a plan")
    if not folder and path.name != GRAPH_FILE:
        plan = load_plan(path, overrides)
        return plan, graph_folder(plan, path.parent)
    if overrides:
        raise UsageError(f"--set {overrides[0]}: {what} is no plan", hint="name a plan to change keys of it")
    return None, what.removesuffix(f"/{GRAPH_FILE}") if folder else str(path.parent)


def home() -> Path:
    """What a plan's relative paths count from where its own folder has no such thing: the checkout, or
    the current folder when there is none."""
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / "pyproject.toml").exists() else Path.cwd()


def graph_folder(plan: TrainPlan, folder: Path) -> str:
    """Where a plan's graph is, by the rule in launch/runs.py; UsageError if it has yet to be made."""
    name = plan.graph.path
    if "://" in name:
        return name
    found = (folder if (folder / name).exists() else home()) / name
    if plan.graph.builder and not (found / GRAPH_FILE).exists():
        raise UsageError(
            f"{found}: graph.builder has not made it yet",
            hint="`lmgnn plan --config PLAN` makes it without training",
        )
    return str(found)


def _leaks(tables: GraphTables, plan: TrainPlan | None) -> list[str]:
    """What gives a plan's answers away."""
    return [str(leak) for leak in find_leaks(tables, plan)] if plan is not None else []


def _tasks(plan: TrainPlan, manifest: PartitionManifest) -> list[Use]:
    return [_use(name, task.kind, _targets(task, manifest)) for name, task in plan.tasks.items()]


def _targets(task: TaskPlan, manifest: PartitionManifest) -> dict[str, Mapping[str, int]]:
    if task.node_type:
        return {task.node_type: manifest.node_type(task.node_type).targets}
    return {name: manifest.relation(name).targets for name in task.relations}


def _few_candidates(plan: TrainPlan, manifest: PartitionManifest) -> Iterator[str]:
    """Link tasks whose candidates are drawn from few nodes: they repeat, and chance alone ranks well."""
    for name, task in plan.tasks.items():
        ends = {manifest.relation(r).destination for r in task.relations}
        for node_type in sorted(ends) if task.kind == "link_prediction" else ():
            count = manifest.node_type(node_type).count
            if (most := most_negatives(count)) < task.eval_negatives:
                yield (
                    f"tasks.{name}: {task.eval_negatives} candidates of a target are drawn from {count:,} "
                    f"{node_type} nodes: lower eval_negatives to {most}, or "
                    "look at full_ranking = true, which ranks against all nodes"
                )


def _use(name: str, kind: str, of: Mapping[str, Mapping[str, int]], *, steps: int | None = None) -> Use:
    train, valid, test = (sum(t.get(split, 0) for t in of.values()) for split in ("train", "valid", "test"))
    return Use(name, kind, ", ".join(of), train, valid, test, steps)


def _stages(plan: TrainPlan, manifest: PartitionManifest) -> list[Use]:
    """Steps as schedule.Schedule counts them, with the targets spread evenly over two trainers."""
    uses = []
    for stage in plan.stages:
        of, train = _stage_targets(stage, plan, manifest)
        per_epoch = max(1, math.ceil(train / TRAINERS / stage.batch_size))
        batches = max(1, round(stage.epochs * per_epoch))
        steps = math.ceil(batches / plan.engine.accumulate)
        uses.append(Use(stage.name, stage.kind, of, train, steps=steps))
    return uses


def _stage_targets(stage: StagePlan, plan: TrainPlan, manifest: PartitionManifest) -> tuple[str, int]:
    texts = [info.name for info in manifest.node_types if info.text]
    if stage.kind == "mlm":
        return ", ".join(texts), len(read_texts(manifest, part=0, split="train"))
    if stage.task:
        of = _targets(plan.tasks[stage.task], manifest)
        return ", ".join(of), sum(targets.get("train", 0) for targets in of.values())
    between = {
        r.name: r for r in manifest.relations if not r.is_reverse and {r.source, r.destination} <= set(texts)
    }
    chosen = [manifest.relation(name) for name in stage.relations or between]
    # Which edges are held out depends on the ids that a partition gives; how many, hardly.
    train = sum(r.targets.get("train", 0) if r.targets else r.count - r.count // HELD_OUT for r in chosen)
    if len(chosen) > 3:
        return f"{len(chosen)} relations", train
    return ", ".join(r.name for r in chosen), train


def _show(facts: GraphFacts, uses: Sequence[Use], leaks: Sequence[str], console: Console) -> None:
    nodes = Table(title=f"nodes of {escape(facts.name)}")
    _columns(nodes, ("type",), ("rows", "with text", "words", "features", "without edges"))
    for node in facts.nodes:
        text = "-" if node.with_text is None else f"{node.with_text / max(node.rows, 1):.0%}"
        words = "-" if node.with_text is None else f"{node.mean_words:.0f}"
        cells = (f"{node.rows:,}", text, words, str(node.features or "-"), f"{node.isolated:,}")
        nodes.add_row(escape(node.name), *cells)
    console.print(nodes)
    edges = Table(title="edges")
    _columns(
        edges, ("relation", "from", "to"), ("rows", "out", "in", "repeated", "loops", "train/valid/test")
    )
    for edge in facts.edges:
        degrees = f"{edge.out_degree:.1f}", f"{edge.in_degree:.1f}"
        counts = *degrees, f"{edge.duplicates:,}", f"{edge.self_loops:,}", _per_split(edge.splits)
        edges.add_row(*map(escape, (edge.name, edge.source, edge.destination)), f"{edge.rows:,}", *counts)
    console.print(edges)
    labelled = {node.name: node.labels for node in facts.nodes if node.labels is not None}
    labelled |= {edge.name: edge.labels for edge in facts.edges if edge.labels is not None}
    if labelled:
        console.print(_label_table(labelled))
    if uses:
        console.print(_use_table(uses))
    for sentence in leaks:
        console.print(f"leak: {escape(sentence)}", style="red", soft_wrap=True)
    for sentence in facts.warnings:
        console.print(f"! {escape(sentence)}", style="yellow", soft_wrap=True)
    console.print("nothing is odd" if not (facts.warnings or leaks) else "no errors")


def _label_table(labelled: Mapping[str, Labels]) -> Table:
    table = Table(title="labels")
    _columns(table, ("of",), ("classes", "labelled", "train/valid/test", "most in training", "fewest"))
    for name, labels in labelled.items():
        ordered = sorted(labels.training.items(), key=lambda item: -item[1])
        ends = [f"{ordered[i][0]}: {ordered[i][1]:,}" for i in (0, -1)] if ordered else ["-", "-"]
        cells = (f"{labels.classes:,}", f"{labels.labelled:,}", _per_split(labels.targets), *ends)
        table.add_row(*map(escape, (name, *cells)))
    return table


def _use_table(uses: Sequence[Use]) -> Table:
    table = Table(title=f"what the plan uses (steps: on one host with {TRAINERS} trainers)")
    if any(use.kind == "graph_lm" for use in uses):
        table.caption = "graph_lm: to about one in a hundred; the partition decides which edges are held out"
    _columns(table, ("task or stage", "kind", "of"), ("train/valid/test", "steps"))
    for use in uses:
        counts = f"{use.train:,}" if use.valid is None else f"{use.train:,}/{use.valid:,}/{use.test:,}"
        steps = "" if use.steps is None else f"{use.steps:,}"
        table.add_row(*map(escape, (use.name, use.kind, use.of)), counts, steps)
    return table


def _per_split(counts: Mapping[str, int]) -> str:
    return "/".join(f"{count:,}" for count in counts.values()) or "-"


def _columns(table: Table, left: Sequence[str], right: Sequence[str]) -> None:
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right")
