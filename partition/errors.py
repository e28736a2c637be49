"""Errors that a person has to act on, each with the exit code that a scheduler acts on.

Owns the exit-code table (docs/operations.md). Never formats tracebacks: process borders print
`str(error)` as one line and leave the traceback to the log file.
"""

from __future__ import annotations


class LMGNNError(Exception):
    """What failed and where; `hint` says what to do about it."""

    exit_code = 70

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} ({self.hint})" if self.hint else message


class UsageError(LMGNNError):
    """A flag, a configuration key or a combination of them is wrong."""

    exit_code = 2


class DataError(LMGNNError):
    """A table, a text, a label or an id is wrong."""

    exit_code = 3


class LockedError(LMGNNError):
    """Another process does the same work at this moment."""

    exit_code = 5


class WorkerError(LMGNNError):
    """A trainer, a graph server or a host failed."""

    exit_code = 10


class HangError(LMGNNError):
    """A process gave no sign of life within its limit."""

    exit_code = 11


class PreflightError(LMGNNError):
    """A host lacks something that the job needs."""

    exit_code = 12


class StoreError(LMGNNError):
    """A file in the store is missing, torn or unreachable."""

    exit_code = 13


class GoneError(StoreError):
    """Something is not in the store, or not any more."""


class FormatError(StoreError):
    """A finished partition is of a format that this code does not read."""


class DiskFullError(LMGNNError):
    """No space is left where the job writes."""

    exit_code = 14
