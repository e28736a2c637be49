"""Stands in for `python -m partition`: takes the real command line, makes an empty partition folder."""

import argparse
import json
import os
import sys
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("command", choices=("build",))
parser.add_argument("folder")
for flag in ("--hosts", "--trainers", "--store", "--method", "--cluster-size", "--seed", "--tokenizer"):
    parser.add_argument(flag, required=True)
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
sys.stderr.write("cutting the graph\n")
sys.stdout.write(json.dumps({"id": path.name, "path": str(path), "seconds": 0.1, "found": False}) + "\n")
