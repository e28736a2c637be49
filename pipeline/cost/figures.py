"""What an estimate consists of. Plain values; never computes one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Of one LM token, padding included, or of one batch."""

    seconds: float = 0.0
    saved_bytes: float = 0.0
    """What autograd keeps for the backward pass, parameters excepted."""


@dataclass(frozen=True)
class LMCosts:
    """Per token: forward only, forward and backward, the same with the masked-LM head."""

    forward: Cost = Cost()
    train: Cost = Cost()
    masked: Cost = Cost()


@dataclass(frozen=True)
class StageCost:
    """One row of the table. Numbers are of the whole stage over all trainers unless named otherwise;
    LM tokens include padding, as `lm_tokens_trained` and `lm_tokens_forward` of events.jsonl do."""

    name: str
    kind: str
    targets: int = 0
    """Target edges or nodes, or texts of an mlm stage, of one epoch."""
    steps: int = 0
    nodes_per_batch: int = 0
    """Distinct nodes in the batch of one part."""
    lm_tokens_trained: int = 0
    """Tokens of training steps that run forward and backward."""
    lm_tokens_forward: int = 0
    """Tokens of training steps that run forward only."""
    lm_tokens_evaluation: int = 0
    """Tokens of evaluations, and of text embeddings that are computed once for a frozen LM."""
    sample_seconds: float = 0.0
    """Part of `seconds`."""
    seconds: float = 0.0
    memory_bytes: int = 0
    """Peak of one trainer."""


@dataclass(frozen=True)
class DiskUse:
    """Most that a run folder holds at a time."""

    models_bytes: int
    """The best model of each stage."""
    checkpoints_bytes: int
    export_bytes: int
    texts_bytes: int
    """Text embeddings kept for later stages and runs."""
    records_bytes: int
    """Events, TensorBoard, report."""

    @property
    def total_bytes(self) -> int:
        largest = self.models_bytes + self.checkpoints_bytes + self.export_bytes
        return largest + self.texts_bytes + self.records_bytes


@dataclass(frozen=True)
class Estimate:
    """The answer to "what will it cost"."""

    plan: str
    partition: str
    hosts: int
    trainers: int
    device: str
    threads: int
    """Of one trainer."""
    parameters: int
    stages: tuple[StageCost, ...]
    total: StageCost
    host_bytes: int
    """Graph and tables of the largest host."""
    text_bytes: int
    """Part of `host_bytes`: stored text embeddings, copies of other hosts' among them."""
    disk: DiskUse
    run_folder: str
    free_bytes: int
    """Of the disk that the run folder lies on."""
    lm_per_token: LMCosts
    measured: tuple[str, ...]
    computed: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return self.disk.total_bytes <= self.free_bytes
