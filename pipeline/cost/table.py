"""An estimate as a table for a person. Never computes a cost."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.cost.figures import Estimate, StageCost


def show(answer: Estimate, console: Console) -> None:
    """Fits into 120 columns."""
    table = Table(title=f"{answer.plan}: {answer.trainers} trainer(s), {answer.hosts} host(s)")
    table.add_column("stage")
    tokens = ("LM tokens\ntrained", "LM tokens\nforward", "LM tokens in\nevaluations")
    for heading in ("targets", "steps", "nodes/batch", *tokens, "time", "memory of\na trainer"):
        table.add_column(heading, justify="right")
    for row in answer.stages:
        table.add_row(
            row.name, *(_count(n) for n in (row.targets, row.steps, row.nodes_per_batch)), *_rest(row)
        )
    table.add_section()
    table.add_row("total", "", "", "", *_rest(answer.total), style="bold")
    console.print(table)
    console.print(
        f"A host's graph and tables take {_size(answer.host_bytes)} of memory more, "
        f"{_size(answer.text_bytes)} of it stored text embeddings and copies of other hosts'."
    )
    disk = answer.disk
    console.print(
        f"Disk: up to {_size(disk.total_bytes)} (models {_size(disk.models_bytes)}, checkpoints "
        f"{_size(disk.checkpoints_bytes)}, export {_size(disk.export_bytes)}, "
        f"texts {_size(disk.texts_bytes)}, records {_size(disk.records_bytes)}); "
        f"{_size(answer.free_bytes)} are free at {escape(answer.run_folder)}."
    )
    if not answer.fits:
        console.print(
            f"error: the run does not fit into {escape(answer.run_folder)}: free some space, or lower "
            "engine.checkpoints_kept",
            style="bold red",
        )
    device, threads = answer.device, answer.threads
    console.print(f"Measured on {device} with {threads} threads: {'; '.join(answer.measured)}.")
    console.print(f"Computed: {'; '.join(answer.computed)}.")
    console.print(f"Left out: {'; '.join(answer.left_out)}.")


def _rest(row: StageCost) -> tuple[str, ...]:
    tokens = (row.lm_tokens_trained, row.lm_tokens_forward, row.lm_tokens_evaluation)
    return *(_count(n) for n in tokens), _duration(row.seconds), _size(row.memory_bytes)


def _count(number: int) -> str:
    return f"{number:,}" if number else "-"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _size(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
