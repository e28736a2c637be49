"""Settings of the joint stage that accuracy_cost.py compares, as changes of a question's plan."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """Changes of a question's plan."""

    name: str
    changes: tuple[str, ...]
    """As for `lmgnn run --set`."""
    links: tuple[str, ...] = ()
    """Those of a link task; TASK stands for its name."""
    targets: float = 1.0
    """In those asked for."""
    seeds: int | None = None
    """Of all seeds so many; None: each."""


TRAINED = ("stages.joint.train_nodes=32", "stages.joint.lm_rate=1e-4")
SLOW = ("stages.joint.train_nodes=32", "stages.joint.lm_rate=2e-5")
EIGHT = ("stages.joint.train_nodes=8", "stages.joint.lm_rate=2e-5")
EIGHT_FAST = ("stages.joint.train_nodes=8", "stages.joint.lm_rate=1e-4")
STILL = ("model.lm_dropout=0",)
PAPER = ("cache.mode=unbounded",)
EVEN = ("stages.joint.train_choice=uniform",)
SHORT = ("stages.joint.forward_tokens=128",)
SAMPLER = ("model.sampler=labor",)
FEW = (*EIGHT, *STILL, *PAPER)
BOUND = ("cache.mode=bounded", "cache.max_age=16")
LEAN = ("stages.joint.train_nodes=16", "stages.joint.lm_rate=1e-4")
OLDER = ("cache.mode=bounded", "cache.max_age=64", "cache.refresh=0.02")
FRESH = ("cache.mode=bounded", "cache.max_age=100000", "cache.drift=-1", "cache.refresh=0.02")
LABOR = (*TRAINED, *SAMPLER, *BOUND)
HALF = ("tasks.TASK.negative_mix={ anywhere = 0.5, part = 0.5 }", "tasks.TASK.log_q=true")
NEAR = ("tasks.TASK.negative_mix={ clusters = 1.0 }",)
FROZEN = ("stages.joint.kind=gnn_warm",)
SETTINGS = (
    Setting("joint", (*TRAINED, "cache.mode=exact")),
    Setting("paper", (*TRAINED, *PAPER)),
    Setting("recommended", FEW, EVEN),
    Setting("few_labor", (*FEW, *SAMPLER), (*EVEN, *HALF)),
    Setting("targets_first", (*FEW, *SAMPLER), HALF),
    Setting("bounded_labor", LABOR, HALF),
    Setting("frozen", FROZEN),
    Setting("older", (*TRAINED, *SAMPLER, *OLDER), HALF),
    Setting("tight", (*LABOR, "stages.joint.clusters=2"), NEAR, seeds=1),
    Setting("bounded", (*TRAINED, *BOUND), seeds=1),
    Setting("labor", (*TRAINED, *SAMPLER, *PAPER), seeds=1),
    Setting("paper_slow", (*SLOW, *PAPER), seeds=1),
    Setting("paper_slow_even", (*SLOW, *PAPER, *EVEN), seeds=1),
    Setting("paper_slow_still", (*SLOW, *PAPER, *STILL), seeds=1),
    Setting("uneven", (*FEW, *SHORT), seeds=1),
    Setting("uneven_fresh", (*EIGHT, *STILL, *FRESH, *SHORT), seeds=1),
    Setting("fast", (*EIGHT_FAST, *STILL, *PAPER), seeds=1),
    Setting("even", (*FEW, *EVEN), seeds=1),
    Setting("even_fast", (*EIGHT_FAST, *STILL, *PAPER, *EVEN), seeds=1),
    Setting(
        "sixteen", ("stages.joint.train_nodes=16", "stages.joint.lm_rate=5e-5", *STILL, *PAPER), EVEN, seeds=1
    ),
    Setting("unclipped", (*FEW, "engine.clip=0"), EVEN, seeds=1),
    Setting("unmoved", (*FEW, "engine.clip=0", "stages.joint.lm_rate=1e-9"), EVEN, seeds=1),
    Setting("few_labor_more", (*FEW, *SAMPLER), (*EVEN, *HALF), targets=1.5),
    Setting("recommended_more", FEW, EVEN, targets=4 / 3),
    Setting("recommended_longer", FEW, EVEN, targets=4.0),
    Setting("recommended_longest", FEW, EVEN, targets=16.0, seeds=1),
    Setting("longer", LABOR, HALF, targets=4.0, seeds=1),
    Setting("lean_longer", (*LEAN, *SAMPLER, *OLDER), HALF, targets=4.0),
    Setting("frozen_longer", FROZEN, targets=4.0),
    Setting("paper_longer", (*TRAINED, *PAPER), targets=4.0),
    Setting("even_longer", (*FEW, *EVEN), targets=4.0, seeds=1),
    Setting("noisy_longer", (*EIGHT, *PAPER), targets=4.0, seeds=1),
    Setting("fast_longer", (*EIGHT_FAST, *STILL, *PAPER), targets=4.0, seeds=1),
    Setting("fast_noisy_longer", (*EIGHT_FAST, *PAPER), targets=4.0, seeds=1),
)
"""`recommended` is `paper` with gradients for 8 texts at an LM rate of 2e-5, without the LM's dropout, and,
of links, with any text as likely to be trained as any other; `few_labor` that with LABOR and half of the
negatives from the part, `targets_first` that again with the ends of true edges trained first.

`frozen` trains the graph encoder alone, so what it reaches is not the language model's doing; `paper_slow` is
`paper` at 2e-5, `_even` with any text as likely, `_still` without dropout; `uneven` is `recommended` with
targets first for links as well, `uneven_fresh` that with the oldest fiftieth of what is found computed again.

`bounded_labor` is LABOR and a bound of 16 steps; `older` the same with one of 64; `tight` takes targets and
all negatives from two clusters; `bounded` and `labor` are `paper` with one of the two knobs of
`bounded_labor` each.

`fast` is `recommended` at an LM rate of 1e-4, `even` with any text as likely for classes too, `even_fast`
both; `sixteen` trains 16 texts at 5e-5; `unclipped` does not clip, `unmoved` does not move the LM either.

`few_labor_more` takes half as many targets more, `recommended_more` a third, those that end in `longer` four
times as many and `recommended_longest` sixteen times: of `bounded_labor` (`longer`), `paper`, `frozen`,
`recommended`; `lean` is `older` with gradients for half as many texts, `even` as above, `noisy` with dropout
and targets first, `fast` at 1e-4 and targets first, `fast_noisy` all three."""
