"""Stands in for `python -m partition`: takes the real command line, makes a partition folder
that holds nothing but its manifest."""

import argparse
import json
import os
import sys
from pathlib import Path

from partition.manifest import MANIFEST_NAME, NodeTypeInfo, PartitionManifest, RelationInfo
from partition.storage import sha256_of
from partition.store import CHECKSUM_NAME

parser = argparse.ArgumentParser()
parser.add_argument("command", choices=("build",))
parser.add_argument("folder")
for flag in ("--hosts", "--trainers", "--store", "--method", "--cluster-size", "--seed", "--tokenizer"):
    parser.add_argument(flag, required=True)
parser.add_argument("--trainable", action="store_true")
parser.add_argument("--max-length")
parser.add_argument("--relations", action="append")
parser.add_argument("--keep-eval-edges", action="store_true")
parser.add_argument("--reverse", action=argparse.BooleanOptionalAction)
parser.add_argument("--json", action="store_true")
options = parser.parse_args()
if code := int(os.environ.get("FAKE_PARTITION_EXIT", "0")):
    sys.stderr.write("error: nodes/paper.parquet: row 7 has no id\n")
    sys.exit(code)
path = Path(options.store) / f"{options.hosts}x{options.trainers}"
path.mkdir(parents=True, exist_ok=True)
manifest = PartitionManifest(
    id=path.name,
    graph_name="tiny",
    hosts=int(options.hosts),
    trainers=int(options.trainers),
    node_types=(NodeTypeInfo("paper", 12, text=True, tokens=60),),
    relations=(RelationInfo("uses", "paper", "paper", 40, targets={"train": 32, "valid": 2, "test": 2}),),
    clusters=(1,) * int(options.hosts) * int(options.trainers),
    offsets={},
    options={},
    inputs={},
    stats={},
    files={},
)
(path / MANIFEST_NAME).write_text(manifest.to_json())
(path / CHECKSUM_NAME).write_text(sha256_of(path / MANIFEST_NAME) + "\n")
sys.stderr.write("cutting the graph\n")
sys.stdout.write(json.dumps({"id": path.name, "path": str(path), "seconds": 0.1, "found": False}) + "\n")
