"""Tables of a plan that have names: what the graph is asked, and the stages of training.

Standard library only, because `launch` imports it. Owns their settings, defaults and range checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from partition.errors import UsageError
from pipeline.plain import check, check_named, distinct, nearest

TASK_KINDS = ("link_prediction", "node_classification", "edge_classification")
SCORERS = ("dot", "distmult", "cosine")
NEGATIVES = ("joint", "independent", "batch")
NEGATIVE_POOLS = ("anywhere", "part", "clusters", "batch", "fresh")
DECODERS = ("linear", "mlp")
CLASS_WEIGHTS = ("none", "balanced")
METRICS = {
    "link_prediction": ("mrr",),
    "node_classification": ("accuracy", "macro_f1"),
    "edge_classification": ("macro_f1", "accuracy"),
}
"""Task kind -> figures by which models can be compared, the default first."""
STAGE_KINDS = ("mlm", "graph_lm", "task_lm", "gnn_warm", "joint")
TRAIN_CHOICES = ("degree", "uniform")


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
    they are and the fewer texts and bytes they cost. fresh: anywhere, but among nodes whose embedding is in
    the cache of a joint stage, so that they cost no LM pass; without such nodes, anywhere."""
    log_q: bool = False
    """Subtract log(q * nodes) from the score of a negative that is drawn with probability q, so that
    softmax over a mixture means softmax over all nodes. Take it where near negatives weigh much."""
    eval_negatives: int = 100
    """Uniform tails that a true tail is ranked against, known true ones left out."""
    full_ranking: bool = False
    """Rank test edges against all nodes as well, in both directions, other true edges left out
    (filtered), and give recall@k per head. Costs test edges x nodes products."""

    def __post_init__(self) -> None:
        check = check_named
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
        check(distinct(self.relations), "relations", self.relations, "each relation once")
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
            check_named(weight > 0, f"negative_mix.{name}", weight, "a weight above 0")
        check_named(len(self.negative_mix) > 0, "negative_mix", self.negative_mix, "a weight or more")
        if self.log_q and self.loss != "softmax":
            raise UsageError('task.log_q corrects a softmax: set loss = "softmax", or leave it out')
        if self.log_q and self.negatives == "batch":
            raise UsageError(
                "task.log_q corrects for how negatives are drawn, and negatives = 'batch' draws none: take "
                "negatives = 'joint' with negative_mix.batch"
            )
        if self.log_q and not {"anywhere", "fresh"} & set(self.negative_mix):
            raise UsageError(
                "task.log_q: negative_mix leaves nodes out that no correction brings back; "
                "give anywhere a weight (or fresh, for a softmax over what is fresh)"
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
    """Stage of this run, or RUN:STAGE of another, whose model this one starts from; empty = the stage before.
    RUN is a folder beside the plan or in the home folder, or a run's name there, `latest` too."""
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
        check(bool(self.name) and "/" not in self.name, "stages.name", self.name, "a plain name")
        check(self.kind in STAGE_KINDS, f"{where}.kind", self.kind, ", ".join(STAGE_KINDS))
        check(self.epochs > 0, f"{where}.epochs", self.epochs, "above 0")
        check(self.batch_size >= 1, f"{where}.batch_size", self.batch_size, "at least 1")
        check(self.clusters >= 0, f"{where}.clusters", self.clusters, "0 or more")
        check(0 <= self.elsewhere < 1, f"{where}.elsewhere", self.elsewhere, "0 <= elsewhere < 1")
        if self.elsewhere and not self.clusters:
            raise UsageError(f"{where}.elsewhere is for batches from few clusters: set {where}.clusters")
        check(0 <= self.warmup < 1, f"{where}.warmup", self.warmup, "0 <= warmup < 1")
        check(self.train_nodes >= 0, f"{where}.train_nodes", self.train_nodes, "0 or more")
        check(
            self.train_choice in TRAIN_CHOICES,
            f"{where}.train_choice",
            self.train_choice,
            " or ".join(TRAIN_CHOICES),
        )
        check(self.forward_tokens >= 1, f"{where}.forward_tokens", self.forward_tokens, "at least 1")
        good = ("", *NEGATIVES)
        check(self.negatives in good, f"{where}.negatives", self.negatives, " or ".join(NEGATIVES))
        check(0 < self.mask < 1, f"{where}.mask", self.mask, "between 0 and 1")
        check(self.evals >= 0, f"{where}.evals", self.evals, "0 or more")
        if self.kind in ("task_lm", "gnn_warm", "joint") and not self.task:
            raise UsageError(f"{where}.task is missing: a {self.kind} stage trains one task")
        if self.kind == "mlm" and self.task:
            raise UsageError(f"{where}.task = {self.task!r}: an mlm stage serves all tasks; leave it out")
        check(distinct(self.relations), f"{where}.relations", self.relations, "each relation once")
        if self.relations and (self.task or self.kind != "graph_lm"):
            raise UsageError(f"{where}.relations is for a graph_lm stage without a task")
