"""Two trainers that may run texts in bf16 take one decision, whatever each would have measured."""

from __future__ import annotations

from pathlib import Path

from toy import build_partition, plan_of, run_processes

from pipeline.events import read_events

STAGES = [
    {"name": "warm", "kind": "gnn_warm", "task": "cites", "epochs": 0.2},
    {"name": "joint", "kind": "joint", "task": "cites", "epochs": 0.2},
]


def test_all_trainers_do_as_the_first_one_found(toy: tuple[Path, Path, Path], tmp_path: Path) -> None:
    graph, lm, store = toy
    folder = build_partition(graph, lm, store, hosts=1, trainers=2)
    plan = plan_of(graph, lm, stages=STAGES, engine={"forward_precision": "auto"})
    run = run_processes(plan, folder, tmp_path / "run", hosts=1, trainers=2)
    told = [
        [
            (e["stage"], e["seconds_before"], e["seconds_bf16"], e["cosine"], e["bf16"])
            for e in read_events(run, rank)
            if e["event"] == "forward_trial"
        ]
        for rank in range(2)
    ]
    assert [stage for stage, *_ in told[0]] == ["warm", "joint"]
    assert told[0] == told[1]
    assert (run / "metrics.json").exists()
