"""What each stage of a plan costs: trial batches (trial.py) times measured seconds and bytes (measure.py).

Owns the arithmetic. Takes one trainer per part, each as fast as this process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from partition.manifest import PartitionManifest
from pipeline.config import StagePlan, TrainPlan
from pipeline.cost.figures import Cost, LMCosts, StageCost
from pipeline.cost.measure import measure_graph, measure_lm, measure_step, sample_texts
from pipeline.cost.passes import evaluations, judges_whole_graph, passes
from pipeline.cost.trial import Trial, Trials
from pipeline.forward_trial import forward_trial
from pipeline.kept_texts import INDEX_BYTES
from pipeline.model import LMGNN, TEXT_ONLY, text_types
from pipeline.room import copied_bytes, disk_bytes, host_bytes, text_share

_KEPT = 1.8
"""Heap that trainers hold on a CPU over what they need at a time: glibc is told to keep freed memory
(launch/plan.py), and blocks of ever other sizes do not fit into its holes. Peaks of the default job,
two trainers of one thread: 1447 and 1554 MiB in mlm, 1692 and 1681 in graph_lm, 1837 and 1844 at the
end; with 1.8 the estimate said 1498, 1789 and 1789. A run of 30 steps with all six layers of the LM
reached 1956 where it said 2441: holes take time to come about."""
_FULL_RANKING = 30e-9 / 128
"""Seconds of a score, per product (fullrank.py)."""


class StageCosts:
    """The costs that the stages share, and the rows of the table made of them."""

    def __init__(
        self, plan: TrainPlan, manifest: PartitionManifest, folder: Path, model: LMGNN, *, base_bytes: int
    ) -> None:
        """`base_bytes`: of a trainer before it has a model."""
        self.plan, self.manifest, self.model = plan, manifest, model
        on_cpu = next(model.parameters()).device.type == "cpu"
        self.base_bytes, self.kept = (base_bytes, _KEPT) if on_cpu else (0, 1.0)
        self._falls = not on_cpu
        self.lm = self._measure_lm(folder)
        self._trials = Trials(plan, manifest, folder, model)
        self.most_trained = 0
        """Parameters of the stage that trains most of them."""
        self.kept_bytes = 0
        """Of text embeddings that stay in the run folder."""

    def rows(self) -> tuple[StageCost, ...]:
        """A row per stage, and one for the tests."""
        drawn = [self._trials.of(stage) for stage in self.plan.stages]
        pairs = list(zip(self.plan.stages, drawn, strict=True))
        counts = {stage.name: evaluations(stage, trial.schedule) for stage, trial in pairs}
        widths = {name: self.model.text.of(name).width for name in text_types(self.manifest)}
        on_disk = disk_bytes(self.plan, self.manifest, widths)
        whole = passes(self.plan, counts, keeps=on_disk.keys() == widths.keys())
        texts = sum(self.manifest.node_type(name).count for name in on_disk)
        self.kept_bytes = whole.kept * (sum(on_disk.values()) + INDEX_BYTES * texts)
        stages = [
            self._stage(stage, trial, counts[stage.name], whole.stages[stage.name]) for stage, trial in pairs
        ]
        rows = [*stages, self._tests(sum(whole.tests.values()))]
        if self._falls:
            return tuple(rows)
        # On a CPU a stage has at least the memory of those before it.
        peaks = accumulate((row.memory_bytes for row in rows), max)
        return tuple(replace(row, memory_bytes=peak) for row, peak in zip(rows, peaks, strict=True))

    def _measure_lm(self, folder: Path) -> LMCosts:
        texts = sample_texts(self.manifest, folder, 128)
        encoder = next(self.model.text.distinct(), None)
        if encoder is None or not texts.values.numel():
            return LMCosts()
        masked = self.model.masked[0] if len(self.model.masked) else None
        share = next((s.mask for s in self.plan.stages if s.kind == "mlm"), 0.15)
        budget = self.plan.stages[-1].forward_tokens
        if self.plan.engine.forward_precision == "auto":
            encoder.forward_bf16 = forward_trial(encoder, texts, budget).bf16
        return measure_lm(encoder, masked, texts, budget=budget, share=share, engine=self.plan.engine)

    def _stage(self, stage: StagePlan, trial: Trial, evaluated: int, whole: int) -> StageCost:
        parts = self.manifest.parts
        trained = [p for group in self.model.trained_parameters(stage).values() for p in group]
        parameters = sum(p.numel() for p in trained)
        self.most_trained = max(self.most_trained, parameters)
        graph = Cost()
        if stage.kind != "mlm" and stage.kind not in TEXT_ONLY:
            graph = measure_graph(self.model, self.manifest, stage, trial.batch, self.plan.engine)
        in_evaluations = whole * self._trials.whole_graph(stage.forward_tokens)
        if evaluated and not judges_whole_graph(stage, self.plan):
            in_evaluations += (evaluated + 1) * self._trials.targets_alone(stage)
        train = self.lm.masked if stage.kind == "mlm" else self.lm.train
        batch_seconds = (
            trial.tokens_trained * train.seconds
            + trial.tokens_forward * self.lm.forward.seconds
            + graph.seconds
            + trial.sample_seconds
        )
        return StageCost(
            name=stage.name,
            kind=stage.kind,
            targets=sum(trial.schedule.sizes),
            steps=trial.schedule.steps,
            nodes_per_batch=round(trial.nodes),
            lm_tokens_trained=round(trial.batches * trial.tokens_trained * parts),
            lm_tokens_forward=round(trial.batches * trial.tokens_forward * parts),
            lm_tokens_evaluation=round(in_evaluations),
            sample_seconds=trial.batches * trial.sample_seconds,
            seconds=trial.batches * batch_seconds
            + in_evaluations / parts * self.lm.forward.seconds
            + trial.schedule.steps * measure_step(trained),
            memory_bytes=self._process_bytes(
                graph.saved_bytes
                + trial.most_tokens_trained * train.saved_bytes
                + self._fixed_bytes(stage.forward_tokens, parameters)
            ),
        )

    def _tests(self, whole: int) -> StageCost:
        """Texts of each task's test that are not stored by then, and ranking among all nodes."""
        tokens = whole * self._trials.whole_graph(self.plan.stages[-1].forward_tokens)
        seconds = tokens * self.lm.forward.seconds + self._full_ranking_seconds()
        return StageCost(
            name="test",
            kind="evaluate",
            lm_tokens_evaluation=round(tokens),
            seconds=seconds / self.manifest.parts,
            memory_bytes=self._process_bytes(8 * sum(p.numel() for p in self.model.parameters())),
        )

    def _full_ranking_seconds(self) -> float:
        """Of one core: both ends of every test edge against all nodes of their types."""
        scores = 0
        for task in self.plan.tasks.values():
            for info in map(self.manifest.relation, task.relations if task.full_ranking else ()):
                nodes = sum(self.manifest.node_type(t).count for t in (info.source, info.destination))
                scores += info.targets.get("test", 0) * nodes
        return scores * self.plan.model.hidden * _FULL_RANKING

    def _process_bytes(self, needed: float) -> int:
        """Of a process whose model and work need so many bytes at a time."""
        return round(self.base_bytes + self.kept * needed)

    def _fixed_bytes(self, forward_tokens: int, trained: int) -> int:
        """Weights, gradients, Adam, and one forward-only sub-batch of the LM."""
        adam = 8 * trained / (self.manifest.parts if self.plan.engine.zero else 1)
        weights = 8 * sum(p.numel() for p in self.model.parameters())
        encoder = next(self.model.text.distinct(), None)
        wide = 0
        if encoder is not None:
            config = encoder.base.config
            widest = 4 * config.hidden_size + 2 * getattr(config, "intermediate_size", 4 * config.hidden_size)
            wide = 4 * max(forward_tokens, self.plan.model.max_length) * widest
        return round(weights + 8 * trained + adam + wide)

    def host_bytes(self) -> int:
        """Of the largest host: its part's files, and the tables of text and hidden embeddings."""
        files = [0] * self.manifest.hosts
        for name, info in self.manifest.files.items():
            host = name.partition("/")[0].removeprefix("part")
            if host.isdecimal() and "/" in name:
                files[int(host)] += info.size
        everyone = sum(t.count for t in self.manifest.node_types)
        hidden = 4 * self.plan.model.hidden * (1 + self.plan.model.gnn_layers) * everyone
        return round(max(files) + self.text_bytes() + hidden / self.manifest.hosts)

    def text_bytes(self) -> int:
        """Of the stored text embeddings of the host with most texts, and of copies of other hosts'."""
        widths = {name: self.model.text.of(name).width for name in text_types(self.manifest)}
        own = text_share(self.plan, self.manifest, widths) * host_bytes(self.manifest, widths)
        return round(own + copied_bytes(self.plan, self.manifest, widths))


def total(rows: Sequence[StageCost]) -> StageCost:
    """The last line of the table."""
    added = ("lm_tokens_trained", "lm_tokens_forward", "lm_tokens_evaluation", "sample_seconds", "seconds")
    sums = {name: sum(getattr(row, name) for row in rows) for name in added}
    return StageCost("total", "", memory_bytes=max(row.memory_bytes for row in rows), **sums)
