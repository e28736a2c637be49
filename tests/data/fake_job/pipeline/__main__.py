"""Stands in for `python -m pipeline`: estimate, baselines and report as files and lines."""

import json
import sys
from pathlib import Path

command, *arguments = sys.argv[1:]
if command == "estimate":
    plan = json.loads(Path(arguments[arguments.index("--plan") + 1]).read_text())
    sys.stdout.write(json.dumps({"rows": 12, "name": plan["name"]}) + "\n")
elif command == "baselines":
    tasks = {"uses": {"metric": "mrr", "test": 0.5, "baselines": {"popularity": 0.25}, "seconds": 1.0}}
    (Path(arguments[0]) / "metrics.json").write_text(json.dumps({"tasks": tasks}))
elif command == "report":
    (Path(arguments[0]) / "report.html").write_text("<p>report</p>")
