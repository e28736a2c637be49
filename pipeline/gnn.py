"""Graph encoders in plain torch over the sampled edges of a `Batch`: RGCN, GraphSAGE, MLP.

Owns message passing and its weights. Never samples, never fetches and knows no DGL; inputs are
already `plan.hidden` wide. Shape letters: N source nodes of a type, M of them that are destination
nodes (the first M), E sampled edges of a relation, D width, R relations, B bases.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from partition.errors import UsageError
from pipeline.batch import Edges, Layer
from pipeline.config import ModelPlan
from pipeline.naming import module_key
from pipeline.registry import Registry

Relation = tuple[str, str, str]
"""(name, source type, destination type)"""


class GNN(nn.Module):
    """`plan.gnn_layers` layers with ReLU and dropout between them. Subclasses fill `layers`.

    A layer is called as `layer(Layer, {type: N x D}) -> {type: M x D}`, for every type in
    `Layer.destinations`.
    """

    uses_edges = True
    """False: the encoder needs no sampled layers; `forward((), h)` maps all rows."""

    def __init__(
        self, layers: Sequence[nn.Module], *, dropout: float, degrees: Sequence[nn.Module] = ()
    ) -> None:
        """`degrees`: what is added behind each layer, called as `degree(Layer, {type: M x D})`."""
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.degrees = nn.ModuleList(degrees)
        self.dropout = nn.Dropout(dropout)

    def step(self, index: int, layer: Layer, h: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Layer `index` and what follows it: one step of layer-wise inference."""
        out = self.layers[index](layer, h)
        if len(self.degrees):
            out = self.degrees[index](layer, out)
        if index == len(self.layers) - 1:
            return out
        return {name: self.dropout(rows.relu()) for name, rows in out.items()}

    def forward(self, layers: Sequence[Layer], h: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{type: M x D} of the last layer's destinations; ValueError on a wrong number of layers."""
        if len(layers) != len(self.layers):
            raise ValueError(f"the batch has {len(layers)} layers, the encoder {len(self.layers)}")
        out = dict(h)
        for index, layer in enumerate(layers):
            out = self.step(index, layer, out)
        return out


GNNFactory = Callable[[ModelPlan, Sequence[str], Sequence[Relation]], GNN]
GNN_ENCODERS: Registry[GNNFactory] = Registry("graph encoder")


def build_gnn(plan: ModelPlan, node_types: Sequence[str], relations: Sequence[Relation]) -> GNN:
    """The encoder that `plan.gnn` names: a registered one, or module:Class called the same way."""
    factory = _imported(plan.gnn) if ":" in plan.gnn else GNN_ENCODERS[plan.gnn]
    return factory(plan, node_types, relations)


def aggregate(edges: Edges, h: Tensor, rows: int, *, mean: bool) -> Tensor:
    """Sum over each destination's sampled sources, rows x D: scaled by `Edges.scale`, or their mean.

    Added up in float32 at least, whatever the precision of `h`. Rows are looked up by `embedding`,
    whose backward is deterministic on every device, and which is faster than indexing.
    """
    messages = embedding(edges.source, h).to(torch.promote_types(h.dtype, torch.float32))
    if not mean:
        messages = messages * edges.scale[:, None]
    total = messages.new_zeros(rows, h.shape[1]).index_add(0, edges.destination, messages)
    if mean:
        ones = messages.new_ones(len(messages))
        total = total / ones.new_zeros(rows).index_add(0, edges.destination, ones).clamp(min=1)[:, None]
    return total.to(h.dtype)


class Degrees(nn.Module):
    """Adds log(1 + in-degree of the node under r) times a learnt vector b_r, for every relation r.

    A mean over neighbours hides how many there are, and how often a node is linked to is half the
    answer to who is linked next. The degree is that without the batch's excluded edges: it is
    summed from the scales of the sampled ones.
    """

    def __init__(self, relations: Sequence[Relation], width: int) -> None:
        super().__init__()
        self.relations = tuple(relations)
        self.weights = nn.ParameterDict(
            {module_key(name): nn.Parameter(torch.zeros(width)) for name, _, _ in relations}
        )

    def forward(self, layer: Layer, out: Mapping[str, Tensor]) -> dict[str, Tensor]:
        out = dict(out)
        for name, _, destination in self.relations:
            edges = layer.edges.get(name)
            if edges is not None and edges.source.numel() > 0:
                weight = self.weights[module_key(name)]
                rows = weight.new_zeros(layer.destinations[destination])
                degree = rows.index_add(0, edges.destination, edges.scale.to(weight.dtype))
                out[destination] = out[destination] + degree.log1p()[:, None] * weight
        return out


class RGCNLayer(nn.Module):
    """Eq. (1) before its non-linearity: W_self h_n + sum over relations r of W_r times the sum (or
    mean) of the neighbours under r. With bases, W_r = sum_b a_rb V_b."""

    def __init__(self, relations: Sequence[Relation], width: int, *, bases: int, mean: bool) -> None:
        super().__init__()
        self.relations = tuple(relations)
        self.mean = mean
        self.own = nn.Parameter(_matrix(width))
        self.bases = nn.Parameter(torch.stack([_matrix(width) for _ in range(bases)])) if bases else None
        self.weights = nn.ParameterDict()
        for name, _, _ in relations:
            initial = torch.randn(bases) / math.sqrt(bases) if bases else _matrix(width)
            self.weights[module_key(name)] = nn.Parameter(initial)
        """Relation -> W_r (D x D), or a_r (B) with bases."""

    def weight(self, relation: str) -> Tensor:
        """W_r, D x D; a message is W_r h."""
        stored = self.weights[module_key(relation)]
        return stored if self.bases is None else torch.einsum("b,bij->ij", stored, self.bases)

    def forward(self, layer: Layer, h: Mapping[str, Tensor]) -> dict[str, Tensor]:
        own = self.own
        out = {name: _first(h, name, rows, own) @ own.T for name, rows in layer.destinations.items()}
        for name, source, destination in self.relations:
            edges = layer.edges.get(name)
            if edges is not None and edges.source.numel() > 0:
                rows = layer.destinations[destination]
                message = aggregate(edges, h[source], rows, mean=self.mean)
                out[destination] = out[destination] + message @ self.weight(name).T
        return out


class SAGELayer(nn.Module):
    """GraphSAGE with the mean, relation by relation, summed: W_t h_n + b_t + sum over relations r
    of W_r times the mean of the neighbours under r.

    [W_t W_r] is GraphSAGE's one matrix over the concatenation. The self matrices of the relations
    that end at type t only ever occur as their sum, so there is one of them per type; a type where
    no relation ends thus keeps its own vector.
    """

    def __init__(self, node_types: Sequence[str], relations: Sequence[Relation], width: int) -> None:
        super().__init__()
        self.relations = tuple(relations)
        self.own = nn.ModuleDict({module_key(name): nn.Linear(width, width) for name in node_types})
        self.weights = nn.ParameterDict(
            {module_key(name): nn.Parameter(_matrix(width)) for name, _, _ in relations}
        )

    def forward(self, layer: Layer, h: Mapping[str, Tensor]) -> dict[str, Tensor]:
        out = _own_linear(self.own, layer.destinations, h)
        for name, source, destination in self.relations:
            edges = layer.edges.get(name)
            if edges is not None and edges.source.numel() > 0:
                rows = layer.destinations[destination]
                mean = aggregate(edges, h[source], rows, mean=True)
                out[destination] = out[destination] + mean @ self.weights[module_key(name)].T
        return out


class MLPLayer(nn.Module):
    """One linear map per node type; edges are not looked at."""

    def __init__(self, node_types: Sequence[str], width: int) -> None:
        super().__init__()
        self.own = nn.ModuleDict({module_key(name): nn.Linear(width, width) for name in node_types})

    def forward(self, layer: Layer, h: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return _own_linear(self.own, layer.destinations, h)


@GNN_ENCODERS.add("rgcn")
class RGCN(GNN):
    """The paper's self-loop RGCN."""

    def __init__(self, plan: ModelPlan, node_types: Sequence[str], relations: Sequence[Relation]) -> None:
        mean = plan.aggregate == "mean"
        super().__init__(
            [RGCNLayer(relations, plan.hidden, bases=plan.bases, mean=mean) for _ in range(plan.gnn_layers)],
            dropout=plan.dropout,
            degrees=_degrees(plan, relations),
        )


@GNN_ENCODERS.add("sage")
class SAGE(GNN):
    """GraphSAGE. UsageError for RGCN's settings, which it would otherwise ignore."""

    def __init__(self, plan: ModelPlan, node_types: Sequence[str], relations: Sequence[Relation]) -> None:
        if plan.aggregate != "mean" or plan.bases:
            raise UsageError(
                "model.gnn = 'sage' takes the mean and one matrix per relation",
                hint="remove model.aggregate and model.bases, or use rgcn",
            )
        super().__init__(
            [SAGELayer(node_types, relations, plan.hidden) for _ in range(plan.gnn_layers)],
            dropout=plan.dropout,
            degrees=_degrees(plan, relations),
        )


@GNN_ENCODERS.add("mlp")
class MLP(GNN):
    """One layer whatever `gnn_layers` says: the paper's LM without a graph."""

    uses_edges = False

    def __init__(self, plan: ModelPlan, node_types: Sequence[str], relations: Sequence[Relation]) -> None:
        super().__init__([MLPLayer(node_types, plan.hidden)], dropout=plan.dropout)

    def forward(self, layers: Sequence[Layer], h: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All rows of `h` without layers, else those of the last layer's destinations."""
        rows = layers[-1].destinations if layers else {name: len(values) for name, values in h.items()}
        return self.step(0, Layer(sources=rows, destinations=rows, edges={}), h)


def _degrees(plan: ModelPlan, relations: Sequence[Relation]) -> list[nn.Module]:
    return [Degrees(relations, plan.hidden) for _ in range(plan.gnn_layers)] if plan.degrees else []


def _own_linear(own: nn.ModuleDict, rows: Mapping[str, int], h: Mapping[str, Tensor]) -> dict[str, Tensor]:
    out = {}
    for name, count in rows.items():
        linear = own[module_key(name)]
        out[name] = linear(_first(h, name, count, next(linear.parameters())))
    return out


def _first(h: Mapping[str, Tensor], name: str, rows: int, like: Tensor) -> Tensor:
    """The destination rows of a type, rows x D; a type without nodes need not be in `h`."""
    return h[name][:rows] if rows else like.new_zeros(0, like.shape[1])


def _matrix(width: int) -> Tensor:
    return nn.init.xavier_uniform_(torch.empty(width, width), gain=nn.init.calculate_gain("relu"))


def _imported(name: str) -> GNNFactory:
    module, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"model.gnn = {name!r}: {error}", hint="expected MODULE:CLASS of an installed module"
        ) from error
    if not (isinstance(factory, type) and issubclass(factory, GNN)):
        raise UsageError(f"model.gnn = {name!r} is no subclass of pipeline.gnn.GNN")
    return factory
