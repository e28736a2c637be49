"""What a failure of a remote store means: its kind, words and way out.

Owns the reading of exceptions of fsspec, s3fs, botocore and aiohttp. Never calls a store.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import aiohttp
import botocore.exceptions
from fsspec.exceptions import FSTimeoutError

from partition.errors import StoreError

FAILURES = (
    OSError,  # FileNotFoundError, PermissionError, TimeoutError and s3fs's translations
    FSTimeoutError,
    botocore.exceptions.BotoCoreError,
    botocore.exceptions.ClientError,
    botocore.exceptions.HTTPClientError,
    aiohttp.ClientError,
)
_BUSY = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS)
_NO_UPLOAD = "NoSuchUpload"
"""A large object was put together, but the answer got lost and the client asked once more."""
_SKEWED = "RequestTimeTooSkewed"
_NO_CREDENTIALS = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.ProfileNotFound,
)
_CREDENTIALS = "credentials come from AWS_* variables, AWS_PROFILE or the machine's role"


def absent(error: BaseException) -> bool:
    """Whether there is no such object; a missing bucket or upload is another matter."""
    return isinstance(error, FileNotFoundError) and _code(error) not in ("NoSuchBucket", _NO_UPLOAD)


def exists_already(error: BaseException) -> bool:
    """Whether an object was there already where it had to be new."""
    return isinstance(error, FileExistsError) or _status(error) == HTTPStatus.PRECONDITION_FAILED


def passing(error: BaseException) -> bool:
    """Whether the same call may work later."""
    status = _status(error)
    if _code(error) == _NO_UPLOAD:
        return True
    if status:
        return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _BUSY
    lasting = (
        FileNotFoundError,
        PermissionError,
        *_NO_CREDENTIALS,
        botocore.exceptions.ParamValidationError,
    )
    return not isinstance(error, lasting)


def explained(error: BaseException, name: str, waited_s: float) -> StoreError:
    """The error for a person: which object, what happened, what to do."""
    status, code = _status(error), _code(error)
    bucket = "/".join(name.split("/")[:3])
    said = f"{status} {code}" if code != str(status) else str(status)
    if code == "NoSuchBucket":
        return StoreError(f"{name}: there is no bucket {bucket}", hint="make it, or check its name")
    if code == _SKEWED:
        hint = "set the clock: S3 refuses requests of more than 15 minutes off"
        return StoreError(f"{name}: this machine's clock differs from the store's ({said})", hint=hint)
    if isinstance(error, PermissionError) or status in (401, 403):
        words = f"{name}: access denied ({said if status else error})"
        return StoreError(words, hint=f"may you read and write {bucket}? {_CREDENTIALS}")
    if isinstance(error, _NO_CREDENTIALS):
        return StoreError(f"{name}: {error}", hint=_CREDENTIALS)
    if isinstance(error, FileNotFoundError):
        return StoreError(f"{name}: no such object")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _BUSY:
        return StoreError(f"{name}: the store answers {said}{_after(waited_s)}", hint=_LATER)
    if status:
        return StoreError(f"{name}: the store answers {said}: {error}")
    timeouts = (
        FSTimeoutError,
        TimeoutError,
        botocore.exceptions.ReadTimeoutError,
        botocore.exceptions.ConnectTimeoutError,
    )
    if isinstance(error, timeouts):
        return StoreError(f"{name}: no answer in time{_after(waited_s)}", hint=_LATER)
    return StoreError(f"{name}: {str(error) or type(error).__name__}{_after(waited_s)}", hint=_REACHABLE)


_REACHABLE = "is the store reachable from here? The same command goes on later where it stopped"
_LATER = "is the store healthy? The same command goes on later where it stopped"


def _after(waited_s: float) -> str:
    return f", tried for {waited_s:.0f} s" if waited_s >= 1 else ""


def _answer(error: BaseException | None) -> dict[str, Any]:
    """What S3 answered, of an error or of the one that it was translated from."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return response
        error = error.__cause__
    return {}


def _status(error: BaseException) -> int:
    """The HTTP status; 0 where there was no answer."""
    return int(_answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: BaseException) -> str:
    """S3's word for the trouble, such as SlowDown."""
    return str(_answer(error).get("Error", {}).get("Code", ""))
