"""`python -m pipeline leaks`: looks for answers that lie in the question, and writes leaks.json.

A JSON list, one object for each finding, as `targets.Leak` names the fields.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from partition.errors import UsageError
from partition.manifest import PartitionManifest
from pipeline.config import TrainPlan
from pipeline.durable import write_whole
from pipeline.given_tables import load_graph_tables
from pipeline.leaks.find import find_leaks
from pipeline.plan_check import check_against


def main(argv: Sequence[str] | None = None) -> int:
    """0 whether something was found or not: a leak is for a person to judge."""
    parser = argparse.ArgumentParser(
        prog="lmgnn leaks",
        description="Look for answers to a plan's tasks in the edges and texts that the model sees.",
        epilog="example: lmgnn leaks --plan runs/latest/plan.json --partition store/ID --output leaks.json",
    )
    parser.add_argument("--plan", type=Path, required=True, help="plan.json of a run")
    parser.add_argument("--partition", type=Path, required=True, help="folder of its partition")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="where to write the findings"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as one JSON list")
    options = parser.parse_args(argv)
    try:
        plan = TrainPlan.from_json(options.plan.read_text())
    except FileNotFoundError:
        raise UsageError(f"{options.plan}: no such plan", hint="name the plan.json of a run") from None
    check_against(plan, PartitionManifest.load(options.partition))
    leaks = find_leaks(load_graph_tables(plan, cap=plan.partition.most_bad_rows), plan)
    found = [asdict(leak) for leak in leaks]
    write_whole(options.output, json.dumps(found, indent=1) + "\n", sync=False)
    if options.json:
        print(json.dumps(found))
        return 0
    warnings = [leak for leak in leaks if leak.level == "warning"]
    for leak in warnings:
        print(leak)
    print(f"{len(warnings)} warning(s), {len(leaks) - len(warnings)} note(s): {options.output}")
    return 0
