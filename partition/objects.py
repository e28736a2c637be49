"""Objects below an fsspec URL: read, written, created once and listed, in bounded time.

Owns the only calls to a remote store of partition stores, their limits and repeats; what their failures mean
is in trouble.py. Never knows what an object holds. Credentials are the client's business: environment, files
or the machine's role.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem, sync

from partition.errors import StoreError, UsageError
from partition.paths import store_url
from partition.trouble import FAILURES, absent, exists_already, explained, passing

_RANGE = 8 << 20
"""Bytes of one request; a break costs no more than that again."""
_PART = 16 << 20
_MOST_PARTS = 10_000
"""S3's limit for one upload."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Patience:
    """How long a store may take; each request is repeated by the client, then each operation by us."""

    connect_s: float = 5
    read_s: float = 20
    """Silence on a connection."""
    requests: int = 3
    attempts: int = 3
    """Of an operation, whose requests each were tried that often."""
    wait_s: float = 1
    """Before the second attempt; twice that before the third."""
    operation_s: float = 120
    """For all attempts together, and what sending takes on top of it:"""
    slowest: float = 200_000
    """Bytes a second."""


@dataclass(frozen=True)
class ObjectInfo:
    size: int
    modified: float
    """Seconds of the epoch, by the store's clock; 0 where it does not tell."""


class Objects:
    """A folder of objects; keys are relative to it. StoreError for all that goes wrong there."""

    def __init__(self, url: str, *, say: Say, patience: Patience | None = None) -> None:
        self.url = store_url(url, key="store")
        self.say = say
        self._patience = patience or Patience()
        self._fs, root = _open(self.url, self._patience)
        self._root = str(root).rstrip("/")

    def name(self, key: str) -> str:
        """An object's URL."""
        return f"{self.url}/{key}" if key else self.url

    def read(self, key: str) -> bytes | None:
        """A small object; None if it is not there."""
        try:
            return bytes(self._call(key, "cat_file"))
        except FileNotFoundError:
            return None

    def chunks(self, key: str, size: int) -> Iterator[bytes]:
        """An object of `size` bytes from its beginning; FileNotFoundError if it is not there.

        One of another size gives all of itself or a piece of another length.
        """
        if size <= _RANGE:
            yield self._call(key, "cat_file")
            return
        actual = int(self._call(key, "info")["size"])
        for start in range(0, actual, _RANGE):
            yield self._call(key, "cat_file", start=start, end=min(actual, start + _RANGE))

    def put(self, key: str, path: Path) -> None:
        """Write a local file as an object."""
        size = path.stat().st_size
        options: dict[str, Any] = {}
        if _is_s3(self._fs):
            options = {"chunksize": max(_PART, -(-size // _MOST_PARTS)), "max_concurrency": 4}
        self._call(key, "put_file", sent=str(path), more_s=size / self._patience.slowest, **options)

    def copy(self, source: str, key: str, size: int) -> None:
        """Make an object of another one, of `size` bytes, in the store; FileNotFoundError if it is gone."""
        self._call(source, "cp_file", self._path(key), more_s=size / self._patience.slowest)

    def write(self, key: str, data: bytes) -> None:
        """Write a small object, over what is there."""
        self._call(key, "pipe_file", data)

    def create(self, key: str, data: bytes) -> bool:
        """Write a small object unless there is one; whether this call (or a repeat of it) made it.

        On S3 the store itself decides (If-None-Match). After a broken connection the answer may be False
        although it was this call: whoever needs to know reads the object.
        """
        try:
            if isinstance(self._fs, AsyncFileSystem):
                self._call(key, "pipe_file", data, mode="create")
            else:
                with self._told(key), self._fs.open(self._path(key), "xb") as stream:
                    stream.write(data)
        except FileExistsError:
            return False
        return True

    def info(self, key: str) -> ObjectInfo | None:
        """What is known of an object; None if it is not there."""
        try:
            found = self._call(key, "info")
        except FileNotFoundError:
            return None
        return ObjectInfo(int(found["size"]), _modified(found))

    def listing(self, under: str) -> dict[str, ObjectInfo]:
        """Objects below a folder by key, which goes on after it; empty if there are none."""
        try:
            found = self._call(under, "find", detail=True)
        except FileNotFoundError:
            return {}
        prefix = self._path(under) + "/"
        return {
            name.removeprefix(prefix): ObjectInfo(int(info["size"]), _modified(info))
            for name, info in found.items()
            if name.startswith(prefix)
        }

    def folders(self) -> list[str]:
        """Names of the folders right below the URL."""
        try:
            found = self._call("", "ls", detail=True)
        except FileNotFoundError:
            return []
        return sorted(
            str(item["name"]).rstrip("/").rpartition("/")[2] for item in found if item["type"] == "directory"
        )

    def remove(self, key: str) -> None:
        """Remove an object; one that is gone is fine."""
        with contextlib.suppress(FileNotFoundError):
            self._call(key, "rm_file")

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}" if key else self._root

    def _call(
        self, key: str, method: str, *args: Any, sent: str = "", more_s: float = 0, **options: Any
    ) -> Any:
        """One operation with its repeats; FileNotFoundError and FileExistsError come through."""
        patience = self._patience
        start, limit_s, wait_s = time.monotonic(), patience.operation_s + more_s, patience.wait_s
        paths = (sent, self._path(key)) if sent else (self._path(key),)
        for attempt in range(1, patience.attempts + 1):
            left_s = max(limit_s - (time.monotonic() - start), 0.001)
            try:
                return self._once(left_s, method, *paths, *args, **options)
            except FAILURES as error:
                self._raise_final(error, key)
                waited_s = time.monotonic() - start
                if attempt == patience.attempts or waited_s + wait_s >= limit_s or not passing(error):
                    raise explained(error, self.name(key), waited_s) from error
                self.say(f"{explained(error, self.name(key), 0)}; trying again in {wait_s:g} s")
                time.sleep(wait_s)
                wait_s *= 2
        raise AssertionError("attempts is at least 1")

    def _once(self, limit_s: float, method: str, *args: Any, **options: Any) -> Any:
        if isinstance(self._fs, AsyncFileSystem):
            return sync(self._fs.loop, getattr(self._fs, f"_{method}"), *args, timeout=limit_s, **options)
        return getattr(self._fs, method)(*args, **options)

    @contextlib.contextmanager
    def _told(self, key: str) -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            self._raise_final(error, key)
            raise explained(error, self.name(key), 0) from error

    def _raise_final(self, error: BaseException, key: str) -> None:
        """Answers that callers ask for rather than troubles."""
        if exists_already(error):
            raise FileExistsError(self.name(key)) from error
        if absent(error):
            raise FileNotFoundError(self.name(key)) from error


def _open(url: str, patience: Patience) -> tuple[Any, str]:
    """fsspec's file system of a URL and the path in it, with limits where it is S3."""
    protocol = url.partition("://")[0]
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if protocol in ("s3", "s3a"):
        retries = {"mode": "standard", "total_max_attempts": patience.requests}
        options["config_kwargs"] = {
            "connect_timeout": patience.connect_s,
            "read_timeout": patience.read_s,
            "retries": retries,
        }
        options["max_concurrency"] = 1  # else reading a small object asks for its size first
    elif protocol == "file":
        options["auto_mkdir"] = True
    try:
        fs, root = fsspec.core.url_to_fs(url, **options)
    except (ValueError, ImportError) as error:
        raise UsageError(f"{url!r} cannot be opened: {error}", hint="check the word before ://") from error
    except FAILURES as error:
        raise StoreError(f"{url}: {error}") from error
    if _is_s3(fs):
        fs.retries = 1  # a third layer of repeats, beside the client's and ours, would multiply the waiting
    return fs, str(root)


def _is_s3(fs: Any) -> bool:
    return "s3" in fs.protocol


def _modified(info: dict[str, Any]) -> float:
    """When an object was written, by what its file system calls it."""
    for key in ("LastModified", "modified", "mtime", "updated", "created"):
        value = info.get(key)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return 0.0
