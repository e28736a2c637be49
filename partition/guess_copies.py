"""What the copies of `lmgnn init --split` were made of, kept beside them and compared with the tables of now.

Owns with_split/made_of.json. Tables are told apart by checksums: times of files do not outlive a copy of the
folder, a checkout or a download, and a build reads the whole tables anyway. Never makes a copy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from partition.errors import DataError
from partition.guess_files import SPLIT_FOLDER
from partition.schema import EdgeSchema, GraphSchema, NodeSchema
from partition.storage import InputFile, InputFolder, reading

RECORD = f"{SPLIT_FOLDER}/made_of.json"
SPLIT_COMMAND = "`lmgnn init FOLDER --split {}`"


@dataclass(frozen=True)
class Origin:
    """What a copy was made of."""

    paths: tuple[str, ...]
    """As graph.toml named the table before."""
    sha256: Mapping[str, str]
    """File -> checksum."""
    shares: str
    """Of training, validation and test rows, as --split takes them."""


def origin_of(paths: Sequence[str], files: Sequence[InputFile], shares: str) -> Origin:
    """The origin of a copy that is made now."""
    return Origin(tuple(paths), {file.name: file.sha256() for file in files}, shares)


def read_origins(folder: InputFolder) -> dict[str, Origin]:
    """Copy (path relative to the folder) -> its origin; DataError for a record that cannot be read."""
    file = folder.file(RECORD)
    if not file.fs.exists(file.path):
        return {}
    with reading(RECORD):
        raw: bytes = file.fs.cat_file(file.path)
    try:
        found: dict[str, dict[str, Any]] = json.loads(raw)
        return {
            copy: Origin(tuple(entry["paths"]), dict(entry["sha256"]), str(entry["shares"]))
            for copy, entry in found.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(
            f"{RECORD}: not what `lmgnn init --split` wrote",
            hint="remove it; whether the copies are old can then not be told",
        ) from None


def origins_json(origins: Mapping[str, Origin]) -> str:
    """The text of the record."""
    return json.dumps({copy: asdict(origin) for copy, origin in origins.items()}, indent=1) + "\n"


def copied(table: NodeSchema | EdgeSchema, origins: Mapping[str, Origin]) -> Origin | None:
    """The origin of a table whose path is a copy."""
    return origins.get(table.path[0]) if len(table.path) == 1 else None


def why_old(copy: str, origin: Origin, folder: InputFolder) -> str:
    """How a copy differs from its tables, or empty; of tables that are all gone it is the only copy left."""
    if not there(folder.file(copy)):
        return f"{copy} is gone"
    files = [file for path in origin.paths for file in _found(folder, path)]
    if not files:
        return ""
    now = {file.name: file.sha256() for file in files}
    for name in sorted({*now, *origin.sha256}):
        if now.get(name) != origin.sha256.get(name):
            what = "is gone" if name not in now else "has changed" if name in origin.sha256 else "is new"
            return f"{name} {what} since {copy} was made of it"
    return ""


def old_copies(schema: GraphSchema, folder: InputFolder) -> Iterator[str]:
    """A sentence with the way out for each table of graph.toml whose copy is older than its tables."""
    origins = read_origins(folder)
    for table in _tables(schema):
        origin = copied(table, origins)
        if origin is not None and (told := why_old(table.path[0], origin, folder)):
            kind = "nodes" if isinstance(table, NodeSchema) else "edges"
            again = SPLIT_COMMAND.format(origin.shares)
            yield f"[{kind}.{table.name}]: {told}: {again} makes the copy again and keeps your plan"


def require_copies(schema: GraphSchema, folder: InputFolder) -> None:
    """DataError with the way out where graph.toml names a copy that somebody has removed."""
    for table in _tables(schema):
        path = table.path[0]
        if path.startswith(f"{SPLIT_FOLDER}/") and not there(folder.file(path)):
            origin = copied(table, read_origins(folder))
            problem = f"{path}: no such file; graph.toml names this copy, which `lmgnn init --split` made"
            if origin is not None:
                again = SPLIT_COMMAND.format(origin.shares)
                raise DataError(problem, hint=f"{again} makes it again")
            raise DataError(
                problem,
                hint="remove graph.toml too, or set its path back to your table and take split out; then "
                f"{SPLIT_COMMAND.format('80,10,10')}",
            )


def there(file: InputFile) -> bool:
    with reading(file.name):
        return bool(file.fs.exists(file.path))


def _tables(schema: GraphSchema) -> list[NodeSchema | EdgeSchema]:
    return [*schema.nodes, *schema.edges]


def _found(folder: InputFolder, path: str) -> list[InputFile]:
    """The files of a path or glob that are there."""
    try:
        return [file for file in folder.files([path], where=path) if there(file)]
    except DataError:  # a glob that matches nothing any more
        return []
