"""Which line of a CSV file a row begins in, for complaints that a person looks up in an editor.

Reads a file again, and only once something is wrong with it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import IO

from partition.storage import InputFile

LinesOf = Callable[[str, Sequence[int]], list[int | None]]
"""(file name, ascending rows from 0) -> lines from 1, the header's included; None where they tell nothing."""


def no_lines(name: str, rows: Sequence[int]) -> list[int | None]:
    """For files that are not made of lines."""
    return [None] * len(rows)


def lines_of(files: Sequence[InputFile]) -> LinesOf:
    """Look-up in some CSV files."""

    def lines(name: str, rows: Sequence[int]) -> list[int | None]:
        file = next(file for file in files if file.name == name)
        with file.open() as stream:
            return csv_lines(stream, rows)

    return lines


def csv_line(stream: IO[bytes], row: int) -> int | None:
    """Line of a row, quoted line breaks before it counted; None where the file is read otherwise by csv."""
    return csv_lines(stream, [row])[0]


def csv_lines(stream: IO[bytes], rows: Sequence[int]) -> list[int | None]:
    """The same for ascending rows, in one reading."""
    reader = csv.reader(io.TextIOWrapper(stream, encoding="utf-8", errors="replace", newline=""))
    found: list[int | None] = []
    row, before = -1, 0  # the header is row -1
    try:
        for cells in reader:
            while cells and len(found) < len(rows) and rows[len(found)] == row:
                found.append(before + 1)
            if len(found) == len(rows):
                break
            row += bool(cells)  # pyarrow passes over empty lines as well
            before = reader.line_num
    except csv.Error:  # a cell of more than 128 KiB
        pass
    return found + [None] * (len(rows) - len(found))


def place(row: int, line: int | None) -> str:
    """`row 3 (counting from 0)`, with its line where it has one."""
    return f"row {row} (counting from 0)" + (f", line {line}" if line else "")
