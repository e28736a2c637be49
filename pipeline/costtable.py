"""An estimate as a table for a person. Never computes a cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def show(answer: Mapping[str, Any], console: Console) -> None:
    """The estimate as a table for a person."""
    table = Table(title=f"{answer['plan']} on {answer['trainers']} trainers, {answer['hosts']} hosts")
    table.add_column("stage")
    headings = ("targets", "steps", "nodes/batch", "LM tokens trained", "forward only", "time", "memory")
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in answer["stages"]:
        counts = ("targets", "steps", "nodes_per_batch", "lm_tokens_backward", "lm_tokens_forward")
        cells = [f"{row[name]:,}" for name in counts]
        table.add_row(row["name"], *cells, _duration(row["seconds"]), _size(row["memory_bytes"]))
    total = answer["total"]
    cells = [f"{total[name]:,}" for name in ("lm_tokens_backward", "lm_tokens_forward")]
    cells += [_duration(total["seconds"]), _size(total["memory_bytes"])]
    table.add_row("total", "", "", "", *cells, style="bold")
    console.print(table)
    device, threads = answer["device"], answer["threads"]
    console.print(
        f"Memory is of one trainer; a host's graph and tables take {_size(total['host_bytes'])} more."
    )
    console.print(f"Measured on {device} with {threads} threads: {'; '.join(answer['measured'])}.")
    console.print(f"Computed: {'; '.join(answer['computed'])}.")
    console.print(f"Left out: {'; '.join(answer['left_out'])}.")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _size(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
