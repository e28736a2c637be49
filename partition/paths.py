"""Where finished partitions may lie: a folder of this machine, or any fsspec URL with a local cache.

Owns how a store's name is read and the default cache; standard library only, because `launch` imports it.
Never touches a file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from partition.errors import UsageError


def is_url(store: str) -> bool:
    """Whether a store's name means a place beyond this machine's folders."""
    return "://" in store and not store.startswith("file://")


def store_folder(store: str, *, key: str) -> Path:
    """The folder that a store's name or file:// URL means; UsageError, naming `key`, for any other URL.

    Without the check `s3://bucket` would become a local folder called `s3:`.
    """
    scheme, separator, path = store.partition("://")
    if not separator:
        return Path(store).expanduser()
    if scheme != "file" or not path.startswith("/"):
        raise UsageError(
            f"{key} = {store!r}: expected a local folder", hint="such as store or file:///srv/store"
        )
    return Path(path)


def store_url(store: str, *, key: str) -> str:
    """The URL of a store without a slash at its end; UsageError for one with a password."""
    parts = urlsplit(store)
    if "@" in parts.netloc:  # not repeated: it would put the password on the terminal and into logs
        raise UsageError(
            f"{key} holds a name or password before '@'",
            hint="credentials come from AWS_* variables, AWS_PROFILE or the machine's role",
        )
    if parts.query or parts.fragment or (not parts.netloc and parts.scheme != "file"):
        raise UsageError(f"{key} = {store!r}: no URL of a store", hint="such as s3://bucket/prefix")
    return store.rstrip("/")


def split_url(url: str) -> tuple[str, str]:
    """(store's URL, partition id) of a partition's URL; UsageError if there is no id in it."""
    store, _, part_id = store_url(url, key="the partition's URL").rpartition("/")
    if store.endswith("/") or "://" not in store:
        raise UsageError(f"{url}: no partition's URL", hint="such as s3://bucket/prefix/ID")
    return store, part_id


def is_id(name: str) -> bool:
    """Whether a name may be a partition's id; a store's folder may hold other things, which are nobody's."""
    return re.fullmatch(r"[0-9a-f]{20}", name) is not None


def cache_folder(cache: str = "") -> Path:
    """Where partitions of a store elsewhere are kept on this machine: `cache`, or the user's cache folder."""
    if cache:
        return store_folder(cache, key="cache").absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "lmgnn" / "partitions"
