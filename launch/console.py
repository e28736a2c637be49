"""What the terminal shows: one live progress line, warnings with their process, steps, tables.

Writes to one stream and nowhere else; a terminal that has gone away is no error. Never decides
what is worth a line.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Sequence
from typing import TextIO

MAX_WARNINGS = 200
"""Different warnings shown in a run; all of them are in the logs anyway."""


class Console:
    """On a TTY the progress line is rewritten in place; elsewhere each one is a line of its own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._drawn = False
        self._seen: set[str] = set()
        self._started = time.monotonic()

    def say(self, text: str) -> None:
        """A line of ours, with the time since the start."""
        seconds = int(time.monotonic() - self._started)
        self.plain(f"[{seconds // 60}:{seconds % 60:02d}] {text}")

    def plain(self, text: str) -> None:
        """Lines as they are."""
        self._write(f"{self._clear()}{text}\n")

    def progress(self, text: str) -> None:
        if not self._live:
            self._write(f"{text}\n")
            return
        width = shutil.get_terminal_size().columns - 1
        self._write(f"{self._clear()}{text[:width]}")
        self._drawn = True

    def warning(self, process: str, text: str) -> None:
        """Once for the same text, whoever says it."""
        if text in self._seen or len(self._seen) >= MAX_WARNINGS:
            return
        self._seen.add(text)
        self.plain(f"[{process}] {text}")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table as wide as it needs to be; columns whose name begins with > are set right."""
        from rich.console import Console as RichConsole
        from rich.table import Table

        table = Table(title=title, title_justify="left", title_style="bold")
        for column in columns:
            table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left")
        for row in rows:
            table.add_row(*row)
        self._write(self._clear())
        with contextlib.suppress(OSError):
            width = None if self._live else 160
            RichConsole(file=self._stream, width=width, highlight=False, markup=False).print(table)

    def _clear(self) -> str:
        drawn, self._drawn = self._drawn, False
        return "\r\x1b[K" if drawn else ""

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(text)
            self._stream.flush()
