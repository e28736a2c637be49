"""Where a finished partition may lie: a folder of this machine, for now.

Owns the refusal of other places; standard library only, because `launch` imports it. Never touches
a file.
"""

from __future__ import annotations

from pathlib import Path

from partition.errors import UsageError


def store_folder(store: str, *, key: str) -> Path:
    """The folder that a store's name or file:// URL means; UsageError, naming `key`, for any other URL.

    Without the check `s3://bucket` would become a local folder called `s3:`.
    """
    scheme, separator, path = store.partition("://")
    if not separator:
        return Path(store).expanduser()
    if scheme != "file" or not path.startswith("/"):
        raise UsageError(
            f"{key} = {store!r}: partitions are kept in a local folder, {scheme}:// is not supported yet",
            hint="name a folder; tables may stay where they are (graph.path takes any fsspec URL)",
        )
    return Path(path)
