"""What accuracy the joint stage buys for its LM tokens and seconds, setting by setting, on validation
targets.

`python benchmarks/accuracy_cost.py --graph data/debian data/wn18rr --work runs/accuracy_cost` cuts a small
graph out of each (small_graph.py; test rows stay behind), trains three questions under several seeds, and
writes benchmarks/results/accuracy_cost.json; the last line of stdout is {"runs": [...], "summary": [...]}.
Seeds are the outer loop: what is there of the first is useful before the others are. A finished run keeps
its curve in a file of its own under --work and is not made again; start the command again after an
interruption.

* One host, one trainer, one thread: the trainer's part is the whole graph, so "uniform over the graph" and
  "from the part" are one here, for targets and for negatives.
* All settings of a question and seed start from one gnn_warm model and take the same number of targets in
  the same rates; what may differ is in SETTINGS.
* Curves: curve_trainer.py. LM tokens: pipeline/lm_work.py. The figures are those of the model as it is, not
  of the best so far.
"""

from __future__ import annotations

import argparse
import json
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

os.environ.setdefault("DGLBACKEND", "pytorch")  # else dgl's first import writes into the home folder

from accuracy_settings import SETTINGS, Setting
from accuracy_summary import summary
from curve_run import Run, run_all
from curve_trainer import CURVE
from runs import read_json, steps, write_json
from small_graph import Cut, cut_out

from partition.build import build
from partition.manifest import PartitionManifest
from partition.request import GRAPH_FILE, BuildOptions
from pipeline.config import TrainPlan, load_plan

HERE = Path(__file__).resolve().parent
WORDNET = ("also_see", "derivationally_related_form", "has_part", "hypernym", "instance_hypernym")
WORDNET += ("member_meronym", "synset_domain_topic_of", "verb_group")
DEBIAN = ("built_from", "maintains", "has_tag", "depends", "recommends", "suggests")
CUTS = {
    "debian": Cut("package", 5000, ("depends", "recommends", "suggests"), DEBIAN, 1500),
    "wn18rr": Cut("entity", 10000, WORDNET, WORDNET, 1500),
}
QUESTIONS = {"section": "debian", "wn18rr": "wn18rr", "depends": "debian"}
"""Plan in accuracy_cost/ -> graph."""


def main() -> int:
    options = _parser().parse_args()
    graphs = {tomllib.loads((g / GRAPH_FILE).read_text())["name"]: g for g in options.graph}
    wanted = [s for s in SETTINGS if s.name in options.settings]
    questions = [name for name in options.questions if QUESTIONS[name] in graphs]
    for seed in range(options.seeds):
        for question in questions:
            folder, partition = _partition(graphs[QUESTIONS[question]], QUESTIONS[question], options.work)
            plan = load_plan(
                HERE / "accuracy_cost" / f"{question}.toml", [f"graph.path={folder}", f"seed={seed}"]
            )
            runs = [
                _run(question, seed, s, partition, folder, options)
                for s in wanted
                if s.seeds is None or seed < s.seeds
            ]
            warm = Run("warm", replace(plan, stages=plan.stages[:1]))
            run_all([warm, *runs], partition, options.work / question / f"seed{seed}")
            measured = result(options.work, options.output)
            write_json(options.output, measured)
            if not options.json:
                print(f"{question}, seed {seed}: written to {options.output}", flush=True)
    print(json.dumps({name: measured[name] for name in ("runs", "summary")}))
    return 0


def _partition(graph: Path, name: str, work: Path) -> tuple[Path, Path]:
    """(the small graph, its partition), made where they are missing."""
    folder = work / "graphs" / name
    if not (folder / GRAPH_FILE).exists():
        cut_out(graph, folder, CUTS[name])
    plan = load_plan(HERE / "accuracy_cost" / f"{next(q for q, g in QUESTIONS.items() if g == name)}.toml")
    options = BuildOptions(tokenizer=plan.model.lm, max_length=plan.model.max_length)
    return folder, build(str(folder), options, store=str(work / "store"), say=lambda line: None)


def _run(
    question: str,
    seed: int,
    setting: Setting,
    partition: Path,
    folder: Path,
    options: argparse.Namespace,
) -> Run:
    """The joint stage of a question under a setting."""
    path = HERE / "accuracy_cost" / f"{question}.toml"
    task = load_plan(path).stages[-1].task
    linked = load_plan(path).tasks[task].kind == "link_prediction"
    changes = [*setting.changes, *(setting.links if linked else ())]
    known = _train_targets(load_plan(path), task, PartitionManifest.load(partition))
    share = setting.targets * options.targets / known
    changes += [f"graph.path={folder}", f"seed={seed}", f"stages.joint.epochs={share:.6f}"]
    changes += [f"stages.joint.evals={options.evals}"]
    plan = load_plan(path, [change.replace("TASK", task) for change in changes])
    return Run(setting.name, replace(plan, stages=plan.stages[1:]), start="warm")


def _train_targets(plan: TrainPlan, task: str, manifest: PartitionManifest) -> int:
    asked = plan.tasks[task]
    if asked.kind == "node_classification":
        return manifest.node_type(asked.node_type).targets["train"]
    return sum(manifest.relation(name).targets.get("train", 0) for name in asked.relations)


def result(work: Path, output: Path) -> dict[str, Any]:
    """All that has been measured so far, runs that only `output` has included: other machines'."""
    runs = list(_runs(work))
    made = {_key(run) for run in runs}
    if output.exists():
        runs += [run for run in read_json(output)["runs"] if _key(run) not in made]
    runs.sort(key=_key)
    return {
        "graphs": {name: {"core": cut.core, "nodes": cut.size} for name, cut in CUTS.items()},
        "runs": runs,
        "summary": summary(runs),
    }


def _key(run: Mapping[str, Any]) -> tuple[int, int, str, int]:
    """Question, setting and seed; settings that are no more come last."""
    names = [setting.name for setting in SETTINGS]
    place = names.index(run["setting"]) if run["setting"] in names else len(names)
    return list(QUESTIONS).index(run["question"]), place, run["setting"], run["seed"]


def _runs(work: Path) -> Iterator[dict[str, Any]]:
    for question in QUESTIONS:
        for setting in SETTINGS:
            for path in sorted((work / question).glob(f"seed*/{setting.name}/{CURVE}")):
                points: Sequence[Mapping[str, float]] = read_json(path)
                targets = _targets_at_evaluations(path.parent, len(points) - 1)
                yield {
                    "question": question,
                    "setting": setting.name,
                    "seed": int(path.parents[1].name.removeprefix("seed")),
                    "points": [
                        {"targets": seen, **{name: round(value, 4) for name, value in point.items()}}
                        for seen, point in zip(targets, points, strict=True)
                    ],
                }


def _targets_at_evaluations(run: Path, evals: int) -> list[int]:
    """Targets before each, that at the start included."""
    seen = list(accumulate((round(event["targets"]) for event in steps(run)), initial=0))
    return [seen[round(i * (len(seen) - 1) / evals)] for i in range(evals + 1)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [setting.name for setting in SETTINGS]
    add = parser.add_argument
    add("--graph", type=Path, nargs="+", required=True, help="folders of graph.toml: debian, wn18rr or both")
    add("--work", type=Path, default=Path("runs/accuracy_cost"), help="small graphs, partitions and runs")
    add("--seeds", type=int, default=3, metavar="N")
    add("--targets", type=int, default=1920, metavar="N", help="of a run, in batches of 64")
    add("--evals", type=int, default=3, metavar="N", help="points of a curve after the first")
    add("--questions", nargs="*", choices=list(QUESTIONS), default=list(QUESTIONS), metavar="NAME")
    add("--settings", nargs="*", choices=names, default=names, metavar="NAME", help=", ".join(names))
    add("--output", type=Path, default=HERE / "results" / "accuracy_cost.json", metavar="FILE")
    add("--json", action="store_true", help="nothing on stdout but the last line")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
