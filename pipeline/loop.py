"""The training loop of a stage: batches, steps, evaluations, checkpoints, the best model.

The same for all stages; what distinguishes them is in stages.py. Every decision is taken by all
trainers alike.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from partition.errors import DataError
from pipeline.aging import CacheState
from pipeline.ahead import Ahead
from pipeline.batch import Batch
from pipeline.checkpoint import Checkpoint
from pipeline.config import StagePlan
from pipeline.engine import Engine, zero_stage
from pipeline.hashing import key_of
from pipeline.lm_work import LMWork
from pipeline.schedule import stage_schedule
from pipeline.stages import STAGES, StageRule
from pipeline.trainer import Trainer


class Asked(Exception):
    """The job was asked to save and leave, and has saved."""


@dataclass
class Progress:
    """How far a stage is; goes into checkpoints."""

    stage: str
    metric: str = ""
    """What `best` is of."""
    step: int = 0
    best: float | None = None
    best_step: int = 0
    stale: int = 0
    """Evaluations since the best one."""
    seconds: float = 0.0
    finished: bool = False
    cache: CacheState | None = None


def run_stage(trainer: Trainer, stage: StagePlan, resumed: Checkpoint | None) -> Progress:
    """Train one stage from its start, or from a checkpoint of it, and leave its best model loaded."""
    return _Loop(trainer, stage).run(resumed)


class _Loop:
    """The training loop of one stage."""

    def __init__(self, trainer: Trainer, stage: StagePlan) -> None:
        self.trainer, self.stage, plan = trainer, stage, trainer.plan
        self.rule: StageRule = STAGES[stage.kind](trainer, stage)
        self.targets = {part: self.rule.targets(part) for part in trainer.parts}
        sizes = _sizes(trainer, self.targets)
        if not sum(sizes):
            raise DataError(
                f"stage {stage.name} has no training targets",
                hint="check the split columns and the task's relations",
            )
        self.total_targets = sum(sizes)
        wanted = self.targets if stage.clusters else {}
        clusters = {part: self.rule.clusters(some) for part, some in wanted.items()}
        self.schedule = stage_schedule(plan, stage, sizes, clusters)
        self.zero = zero_stage(
            plan.engine, same_order=self.rule.one_order and min(sizes) >= self.schedule.batches_per_epoch
        )
        self.rule.begin()
        groups = trainer.model.trained_parameters(stage)
        self.engine = Engine(
            trainer.model,
            {"lm": (groups["lm"], stage.lm_rate), "rest": (groups["rest"], stage.rate)},
            plan.engine,
            zero=self.zero,
            batches_per_step=len(trainer.parts) * plan.engine.accumulate,
            weight_decay=stage.weight_decay,
            device=trainer.device,
            # Else the LM's gradients, multiplied as they are, decide how much is left of the others'.
            clip_apart=stage.kind == "joint" and stage.train_choice == "uniform",
        )
        self.ahead = Ahead(self._draw)
        self.progress = Progress(stage.name, self.rule.metric)
        self.best = trainer.stage_store(stage.name)
        steps = self.schedule.steps
        self.eval_steps = {round((i + 1) * steps / stage.evals) for i in range(stage.evals)}

    def run(self, resumed: Checkpoint | None) -> Progress:
        trainer, progress = self.trainer, self.progress
        trainer.reset_sparse()
        # transformers hands models over in eval mode: without this, dropout would wait for the
        # first evaluation to switch it on, and a resumed job would differ from an unbroken one.
        trainer.model.train()
        if resumed is not None:
            progress = self.progress = _progress(resumed)
        trainer.cache = self.rule.cache(progress.cache)
        if trainer.cache is not None:
            progress.cache = trainer.cache.state
        if resumed is not None:
            trainer.load(resumed, self.engine)
            if trainer.cache is not None and trainer.left_out_of_checkpoints:
                trainer.record.event("cache_cold", node_types=trainer.left_out_of_checkpoints)
        steps = self.schedule.steps
        trainer.record.stage(
            self.stage.name,
            kind=self.stage.kind,
            steps=steps,
            targets=self.total_targets,
            done=progress.step,
        )
        trainer.choose_forward(self.stage.forward_tokens)
        started = time.monotonic() - progress.seconds
        if resumed is None and self.stage.evals:
            self._evaluate()  # what the stage must improve on to be kept
        if trainer.cache is not None:
            trainer.cache.read_stamps()
        while progress.step < steps and not self._patience_is_over():
            asked = self._step()
            progress.seconds = time.monotonic() - started
            better = progress.step in self.eval_steps and self._evaluate()
            # A best model is followed by a checkpoint: a resume must not find one of its future.
            if better or progress.step % trainer.plan.engine.checkpoint_every == 0 or asked:
                self._checkpoint()
            if asked:
                raise Asked
        self._finish()
        progress.seconds = time.monotonic() - started
        trainer.record.event("stage_end", seconds=progress.seconds, peak_bytes=trainer.peak_bytes())
        return progress

    def _patience_is_over(self) -> bool:
        return 0 < self.stage.patience <= self.progress.stale

    def _step(self) -> bool:
        """One optimiser step; returns whether any trainer was asked to leave."""
        trainer, step, clock = self.trainer, self.progress.step, _Clock()
        batches = self._batches(step, clock)
        count = torch.tensor([sum(b.terms for _, b in batches), float(trainer.stop())])
        terms, asked = self.engine.total(count)
        total_loss = torch.zeros((), dtype=torch.float64)
        before = self._lm_work()
        for position, (part, batch) in enumerate(batches):
            torch.manual_seed(key_of(batch.key, "dropout", part))
            loss, _ = self.engine.forward(batch.to(trainer.device), self.stage)
            self.engine.backward(loss, terms=terms, last=position == len(batches) - 1)
            if trainer.cache is not None:
                trainer.cache.keep(batch, trainer.model.computed, trainer.model.forward_only)
            total_loss += loss.detach().to("cpu", torch.float64)
        clock.lap("compute_s")
        factor = rate_factor(step, self.schedule.steps, self.stage.warmup)
        norm = self.engine.step(factor)
        clock.lap("step_s")
        self.ahead.settle()
        clock.lap("sample_s")
        if trainer.sparse is not None:
            trainer.sparse.step(self.stage.embedding_rate * factor, weight=self.engine.embedding_weight)
        cached: dict[str, float] = {}
        if trainer.cache is not None:
            cached = trainer.cache.commit()
            trainer.inference.forget_texts()
        clock.lap("step_s")
        self.progress.step = step + 1
        if self.rule.trains_lm:
            trainer.lm_changed()
        trainer.record.step(
            step + 1,
            loss=float(total_loss) / max(sum(b.terms for _, b in batches), 1),
            rate=self.stage.rate * factor,
            lm_rate=self.stage.lm_rate * factor if self.rule.trains_lm else 0.0,
            grad_norm=norm,
            **(self._lm_work() - before).scalars(),
            **_costs([b for _, b in batches]),
            **cached,
            **{"remote_rows": 0.0, **trainer.graph.take_costs()},
            **clock.laps,
            cpu_s=clock.cpu_s(),
        )
        return bool(asked)

    def _batches(self, step: int, clock: _Clock) -> list[tuple[int, Batch]]:
        """This trainer's batches of one step, filled. The next step's are drawn meanwhile: until
        `ahead.settle` nothing else may ask the graph."""
        made = self.ahead.take(step)
        clock.lap("sample_s")
        filled = [(part, self.rule.inputs(batch)) for part, batch in made]
        # Not where it depends on what this step stores: a resumed stage could not repeat it.
        waits = self.trainer.cache is not None and self.trainer.cache.draws_wait
        if step + 1 < self.schedule.steps and not waits:
            self.ahead.start(step + 1)
        clock.lap("fetch_s")
        return filled

    def _draw(self, step: int) -> list[tuple[int, Batch]]:
        """`accumulate` batches of each of this trainer's parts, without inputs."""
        trainer, made = self.trainer, []
        for turn in range(trainer.plan.engine.accumulate):
            number = step * trainer.plan.engine.accumulate + turn
            key = key_of(trainer.plan.seed, self.stage.name, number)
            for part in trainer.parts:
                chosen = self.targets[part].select(self.schedule.rows(number, part))
                made.append((part, self.rule.batch(chosen, part, key)))
        return made

    def _lm_work(self) -> LMWork:
        return sum((encoder.work for encoder in self.trainer.model.text.distinct()), LMWork())

    def _evaluate(self) -> bool:
        """Look at the validation split; whether the model is the best so far, and then kept."""
        trainer, progress, started = self.trainer, self.progress, time.monotonic()
        trainer.record.heartbeat("evaluate")
        metrics = self.rule.evaluate("valid", self.stage.eval_targets)
        value = metrics[self.rule.metric]
        if math.isnan(value):
            raise DataError(
                f"stage {self.stage.name}: the validation figure is no number",
                hint="no validation targets were chosen (eval_targets), or the model diverged (rates)",
            )
        better = progress.best is None or value > progress.best
        if better:
            progress.best, progress.best_step, progress.stale = value, progress.step, 0
            self.best.save(
                f"{progress.step:06d}-best",
                lambda folder: trainer.write(folder, None),
                trainer.state(asdict(progress)),
            )
        else:
            progress.stale += 1
        seconds = time.monotonic() - started
        # The deciding metric first; figures of single classes ("f1/…") are for the test.
        names = [self.rule.metric, *(n for n in metrics if n != self.rule.metric and "/" not in n)]
        for name in names:
            trainer.record.event(
                "eval", split="valid", metric=name, value=metrics[name], seconds=seconds, best=better
            )
        return better

    def _checkpoint(self) -> None:
        trainer, progress, started = self.trainer, self.progress, time.monotonic()
        trainer.record.heartbeat("checkpoint")
        number = [s.name for s in trainer.plan.stages].index(self.stage.name) * 10**9 + progress.step
        saved = trainer.checkpoints.save(
            f"{number:012d}-{self.stage.kind.replace('_', '-')}",
            lambda folder: trainer.write(folder, self.engine),
            trainer.state(asdict(progress)),
        )
        size = sum(info.size for info in saved.files.values())
        trainer.record.event("checkpoint", name=saved.name, seconds=time.monotonic() - started, bytes=size)

    def _finish(self) -> None:
        """Keep the best model, and say in a checkpoint that the stage is over."""
        trainer, progress = self.trainer, self.progress
        if progress.best is None:
            self.best.save(
                f"{progress.step:06d}-last",
                lambda folder: trainer.write(folder, None),
                trainer.state(asdict(progress)),
            )
        elif progress.best_step != progress.step:
            best = self.best.latest()
            if best is not None:
                trainer.load(best, None)
        progress.finished, trainer.cache, progress.cache = True, None, None
        self._checkpoint()
        self.ahead.close()
        self.engine.close()


def _progress(saved: Checkpoint) -> Progress:
    stored = dict(saved.state["progress"])
    cache = stored.pop("cache")
    return Progress(**stored, cache=CacheState(**cache) if cache else None)


def rate_factor(step: int, steps: int, warmup: float) -> float:
    """Share of the learning rate at a step (from 0): a linear rise, then a linear fall to 0."""
    rising = warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    return max(0.0, (steps - step) / max(steps - rising, 1.0))


def _sizes(trainer: Trainer, targets: dict[int, Any]) -> tuple[int, ...]:
    """Training targets of every part, the same on every trainer."""
    known: dict[int, int] = {}
    for found in trainer.gather({part: len(values) for part, values in targets.items()}):
        known.update(found)
    return tuple(known[part] for part in range(trainer.graph.manifest.parts))


def _costs(batches: list[Batch]) -> dict[str, float]:
    return {
        "targets": float(sum(batch.terms for batch in batches)),
        "nodes": float(sum(len(ids) for batch in batches for ids in batch.nodes.values())),
    }


class _Clock:
    """Seconds since the last lap, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last, self._cpu = time.monotonic(), time.process_time()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now

    def cpu_s(self) -> float:
        """Of this process since the clock was made."""
        return time.process_time() - self._cpu
