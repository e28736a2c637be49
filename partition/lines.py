"""Which line of a CSV file a row begins in, for complaints that a person looks up in an editor.

Reads a file again, and only once something is wrong with it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import IO

from partition.storage import InputFile

LineOf = Callable[[str, int], int | None]
"""(file name, row from 0) -> line from 1, the header's included; None where lines tell nothing."""


def no_line(name: str, row: int) -> int | None:
    """For files that are not made of lines."""
    return None


def lines_of(files: Sequence[InputFile]) -> LineOf:
    """Look-up in some CSV files."""

    def line(name: str, row: int) -> int | None:
        file = next(file for file in files if file.name == name)
        with file.open() as stream:
            return csv_line(stream, row)

    return line


def csv_line(stream: IO[bytes], row: int) -> int | None:
    """Line of a row, quoted line breaks before it counted; None where the file is read otherwise by csv."""
    reader = csv.reader(io.TextIOWrapper(stream, encoding="utf-8", errors="replace", newline=""))
    left, before = row + 1, 0
    try:
        for cells in reader:
            if cells and left == 0:
                return before + 1
            left -= bool(cells)  # pyarrow passes over empty lines as well
            before = reader.line_num
    except csv.Error:  # a cell of more than 128 KiB
        return None
    return None


def place(row: int, line: int | None) -> str:
    """`row 3 (counting from 0)`, with its line where it has one."""
    return f"row {row} (counting from 0)" + (f", line {line}" if line else "")
