"""Graph encoders against formulas with dense adjacency matrices, in float64."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import Tensor

from partition.errors import UsageError
from pipeline.batch import Edges, Layer
from pipeline.config import ModelPlan
from pipeline.gnn import GNN, build_gnn
from pipeline.naming import module_key

WIDTH = 6
TYPES = ("paper", "author", "type")  # the last one is also a method of nn.Module
RELATIONS = (
    ("cites", "paper", "paper"),
    ("writes", "author", "paper"),
    ("v1.written_by", "paper", "author"),
    ("also_writes", "author", "paper"),
)
SOURCES = {"paper": 9, "author": 7, "type": 4}
DESTINATIONS = {"paper": 5, "author": 3, "type": 2}


def plan(**values: object) -> ModelPlan:
    defaults = {"hidden": WIDTH, "gnn_layers": 1, "fanout": (5,), "dropout": 0.0}
    return ModelPlan(**{**defaults, **values})  # type: ignore[arg-type]


def random_layer(
    seed: int, sources: dict[str, int] = SOURCES, destinations: dict[str, int] = DESTINATIONS
) -> Layer:
    """Random edges with repeats, ascending destinations, and some destinations without any."""
    generator = torch.Generator().manual_seed(seed)
    edges = {}
    for name, source, destination in RELATIONS:
        count = 3 * destinations[destination]
        to = torch.randint(max(destinations[destination] - 1, 1), (count,), generator=generator)
        scale = 1 + 4 * torch.rand(destinations[destination], generator=generator)
        to = to.sort().values
        edges[name] = Edges(torch.randint(sources[source], (count,), generator=generator), to, scale[to])
    return Layer(sources, destinations, edges)


def inputs(seed: int = 0, sources: dict[str, int] = SOURCES) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64)
        for name, rows in sources.items()
    }


def dense(layer: Layer, relation: tuple[str, str, str], *, scaled: bool) -> Tensor:
    """Adjacency matrix, destinations x sources: edge counts, or the sum of the edges' scales."""
    name, source, destination = relation
    matrix = torch.zeros(layer.destinations[destination], layer.sources[source], dtype=torch.float64)
    edges = layer.edges[name]
    for s, d, scale in zip(edges.source, edges.destination, edges.scale, strict=True):
        matrix[d, s] += scale.double() if scaled else 1
    return matrix


def mean_matrix(layer: Layer, relation: tuple[str, str, str]) -> Tensor:
    counts = dense(layer, relation, scaled=False)
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


def encoder(seed: int = 0, **values: object) -> GNN:
    torch.manual_seed(seed)
    return build_gnn(plan(**values), TYPES, RELATIONS).double()


def rgcn_oracle(
    module: torch.nn.Module, layer: Layer, h: dict[str, Tensor], *, mean: bool
) -> dict[str, Tensor]:
    out = {name: h[name][:rows] @ module.own.T for name, rows in layer.destinations.items()}
    for relation in RELATIONS:
        matrix = mean_matrix(layer, relation) if mean else dense(layer, relation, scaled=True)
        weight = module.weights[module_key(relation[0])]
        if module.bases is not None:
            weight = sum(a * basis for a, basis in zip(weight, module.bases, strict=True))
        out[relation[2]] = out[relation[2]] + matrix @ h[relation[1]] @ weight.T
    return out


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name in expected:
        assert torch.allclose(got[name], expected[name], rtol=1e-10, atol=1e-10), name


@pytest.mark.parametrize("aggregate", ["sum", "mean"])
@pytest.mark.parametrize("bases", [0, 3])
def test_rgcn_equals_equation_1_with_dense_matrices(aggregate, bases):
    gnn = encoder(aggregate=aggregate, bases=bases)
    layer, h = random_layer(1), inputs()
    assert_same(gnn((layer,), h), rgcn_oracle(gnn.layers[0], layer, h, mean=aggregate == "mean"))


@pytest.mark.parametrize("kind", ["rgcn", "sage"])
def test_degrees_add_the_logarithm_of_each_relation_s_true_in_degree(kind):
    layer, h = random_layer(1), inputs()
    plain, seeing = encoder(gnn=kind, degrees=False), encoder(gnn=kind)
    seeing.load_state_dict(plain.state_dict(), strict=False)
    expected = plain((layer,), h)
    for relation in RELATIONS:
        weight = seeing.degrees[0].weights[module_key(relation[0])]
        with torch.no_grad():
            weight.copy_(torch.randn(WIDTH, dtype=torch.float64))
        degree = dense(layer, relation, scaled=True).sum(1)
        expected[relation[2]] = expected[relation[2]] + torch.outer(degree.log1p(), weight)
    assert_same(seeing((layer,), h), expected)


def test_sage_equals_one_matrix_over_the_concatenation_of_self_and_neighbour_mean():
    gnn = encoder(gnn="sage")
    layer, h = random_layer(2), inputs()
    module = gnn.layers[0]
    expected = {}
    for name, rows in layer.destinations.items():
        ending = [relation for relation in RELATIONS if relation[2] == name]
        joined = [h[name][:rows], *(mean_matrix(layer, r) @ h[r[1]] for r in ending)]
        own = module.own[module_key(name)]
        matrix = torch.cat([own.weight, *(module.weights[module_key(r[0])] for r in ending)], dim=1)
        expected[name] = torch.cat(joined, dim=1) @ matrix.T + own.bias
    assert_same(gnn((layer,), h), expected)


def test_mlp_is_one_linear_map_of_each_type_whatever_the_edges():
    gnn = encoder(gnn="mlp", gnn_layers=2, fanout=(5, 5))
    h = inputs()
    inner, outer = random_layer(1), random_layer(2)
    own = gnn.layers[0].own
    expected = {
        name: h[name][:rows] @ own[module_key(name)].weight.T + own[module_key(name)].bias
        for name, rows in DESTINATIONS.items()
    }
    assert_same(gnn((inner, outer), h), expected)
    assert_same({name: rows[: DESTINATIONS[name]] for name, rows in gnn((), h).items()}, expected)
    assert len(gnn.layers) == 1


@pytest.mark.parametrize("kind", ["rgcn", "sage"])
def test_layers_are_joined_by_relu_and_the_last_has_none(kind):
    gnn = encoder(gnn=kind, gnn_layers=2, fanout=(5, 5))
    inner = random_layer(3, SOURCES, {"paper": 6, "author": 5, "type": 3})
    outer = random_layer(4, {"paper": 6, "author": 5, "type": 3}, DESTINATIONS)
    h = inputs()
    between = {name: rows.clamp(min=0) for name, rows in gnn.layers[0](inner, h).items()}
    expected = gnn.layers[1](outer, between)
    assert_same(gnn((inner, outer), h), expected)
    assert any((rows < 0).any() for rows in expected.values())


@pytest.mark.parametrize("kind", ["rgcn", "sage"])
def test_layer_by_layer_steps_equal_forward(kind):
    gnn = encoder(gnn=kind, gnn_layers=2, fanout=(5, 5), dropout=0.5).eval()
    layers = (random_layer(3, SOURCES, SOURCES), random_layer(4))
    assert_same(gnn(layers, inputs()), gnn.step(1, layers[1], gnn.step(0, layers[0], inputs())))


def test_dropout_acts_between_layers_in_training_only():
    gnn = encoder(gnn_layers=2, fanout=(5, 5), dropout=0.5)
    layers = (random_layer(3, SOURCES, SOURCES), random_layer(4))
    one, two = gnn(layers, inputs()), gnn(layers, inputs())
    assert not torch.equal(one["paper"], two["paper"])
    gnn.eval()
    assert torch.equal(gnn(layers, inputs())["paper"], gnn(layers, inputs())["paper"])


@pytest.mark.parametrize("kind", ["rgcn", "sage", "mlp"])
def test_types_and_relations_without_rows_give_empty_tensors(kind):
    gnn = encoder(gnn=kind)
    none = torch.zeros(0, dtype=torch.int64)
    layer = Layer(
        {"paper": 3, "author": 0, "type": 0},
        {"paper": 2, "author": 0, "type": 0},
        {"cites": Edges(none, none, none.float())},
    )
    h = inputs()["paper"][:3]
    out = gnn((layer,), {"paper": h})
    assert {name: tuple(rows.shape) for name, rows in out.items()} == {
        "paper": (2, WIDTH),
        "author": (0, WIDTH),
        "type": (0, WIDTH),
    }
    assert not torch.equal(out["paper"], torch.zeros_like(out["paper"]))


def test_scaled_sampled_sums_average_to_the_full_sum():
    """Over all ways to draw two of a node's four neighbours, the mean is the sum over all four."""
    gnn = encoder(aggregate="sum")
    h = inputs()
    rows = {"paper": 1, "author": 0, "type": 0}

    def run(sources: list[int]) -> Tensor:
        count = len(sources)
        to, scale = torch.zeros(count, dtype=torch.int64), torch.full((count,), 4 / count)
        edges = Edges(torch.tensor(sources), to, scale)
        return gnn((Layer(SOURCES, rows, {"writes": edges}),), h)["paper"]

    pairs = torch.combinations(torch.tensor([0, 2, 3, 6])).tolist()
    assert torch.allclose(torch.stack([run(p) for p in pairs]).mean(0), run([0, 2, 3, 6]), atol=1e-12)


def test_gradients_equal_finite_differences():
    gnn = encoder(bases=2, aggregate="sum")
    layer, h = random_layer(1), inputs()

    def run(papers: Tensor, authors: Tensor) -> Tensor:
        return gnn((layer,), {**h, "paper": papers, "author": authors})["paper"]

    assert torch.autograd.gradcheck(run, (h["paper"].requires_grad_(), h["author"].requires_grad_()))


def test_results_and_gradients_repeat_bit_for_bit():
    torch.set_num_threads(2)
    try:
        gnn = encoder(gnn_layers=2, fanout=(5, 5)).float()
        sources = {"paper": 900, "author": 700, "type": 1}
        layers = (random_layer(3, sources, sources), random_layer(4, sources, sources))
        h = {name: rows.float().requires_grad_() for name, rows in inputs(0, sources).items()}
        runs = []
        for _ in range(5):
            out = gnn(layers, h)
            runs.append([*torch.autograd.grad(out["paper"].square().sum(), [h["paper"], h["author"]])])
        assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))
    finally:
        torch.set_num_threads(1)


def test_half_width_inputs_are_summed_in_float32():
    """4,000 neighbours of value 1: bfloat16 stops counting at 256."""
    gnn = encoder(aggregate="sum").to(torch.bfloat16)
    with torch.no_grad():
        gnn.layers[0].own.zero_()
        gnn.layers[0].weights[module_key("writes")].copy_(torch.eye(WIDTH))
    count = 4000
    first = torch.zeros(count, dtype=torch.int64)
    edges = Edges(first, first, torch.ones(count))
    layer = Layer({"author": 1, "paper": 1}, {"paper": 1}, {"writes": edges})
    ones = torch.ones(1, WIDTH, dtype=torch.bfloat16)
    out = gnn((layer,), {"author": ones, "paper": ones})["paper"]
    assert out.dtype == torch.bfloat16
    assert torch.allclose(out.float(), torch.full((1, WIDTH), 4000.0), rtol=0.01)


def test_too_few_layers_in_the_batch_is_an_error():
    with pytest.raises(ValueError, match="1 layers, the encoder 2"):
        encoder(gnn_layers=2, fanout=(5, 5))((random_layer(1),), inputs())


def test_bases_are_fewer_weights():
    count = {bases: sum(p.numel() for p in encoder(bases=bases).layers.parameters()) for bases in (0, 2)}
    assert count[0] == (1 + len(RELATIONS)) * WIDTH**2
    assert count[2] == (1 + 2) * WIDTH**2 + 2 * len(RELATIONS)


def test_sage_refuses_settings_of_rgcn():
    for values in ({"aggregate": "sum"}, {"bases": 2}):
        with pytest.raises(UsageError, match="or use rgcn"):
            encoder(gnn="sage", **values)


def test_an_encoder_of_another_module_is_called_like_ours(monkeypatch):
    class Twice(GNN):
        def __init__(self, plan, node_types, relations):
            super().__init__([torch.nn.Identity()], dropout=plan.dropout)
            self.seen = (plan.hidden, tuple(node_types), tuple(relations))

    module = types.ModuleType("someones_encoders")
    module.Twice, module.other = Twice, 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "someones_encoders", module)
    gnn = build_gnn(plan(gnn="someones_encoders:Twice"), TYPES, RELATIONS)
    assert gnn.seen == (WIDTH, TYPES, RELATIONS)
    with pytest.raises(UsageError, match="no subclass"):
        build_gnn(plan(gnn="someones_encoders:other"), TYPES, RELATIONS)


@pytest.mark.parametrize("name", ["nowhere:Class", "json:Nothing", "rgnc"])
def test_an_unknown_encoder_is_a_usage_error(name):
    with pytest.raises(UsageError):
        build_gnn(plan(gnn=name), TYPES, RELATIONS)
