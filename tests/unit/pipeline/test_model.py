"""Each stage's loss and gradients against formulas written out with plain transformers and matrices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from replay_batches import CLASS_STAGES, CLASS_TASKS, MANIFEST, STAGES, make_batch, make_class_batch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from toy import plan_of, write_lm
from transformers import AutoModel

from pipeline.batch import Batch, LinkTargets
from pipeline.config import StagePlan, TrainPlan
from pipeline.model import LMGNN, learnable_types


@pytest.fixture
def plan(tmp_path: Path) -> TrainPlan:
    return plan_of(tmp_path, write_lm(tmp_path / "lm"), stages=STAGES)


@pytest.fixture
def model(plan: TrainPlan) -> LMGNN:
    torch.manual_seed(0)
    return LMGNN(plan, MANIFEST)


def stage_of(plan: TrainPlan, kind: str) -> StagePlan:
    return next(s for s in plan.stages if s.kind == kind)


def plain_texts(plan: TrainPlan, batch: Batch) -> Tensor:
    """Mean-pooled embeddings of the papers by plain transformers, one text at a time."""
    lm, tokens = AutoModel.from_pretrained(plan.model.lm), batch.tokens["paper"]
    lm.eval()
    bounds = zip(tokens.offsets, tokens.offsets[1:], strict=False)
    with torch.no_grad():
        rows = [lm(tokens.values[a:b].long()[None]).last_hidden_state[0].mean(0) for a, b in bounds]
    return torch.stack(rows)


def softmax_loss(scores_of: object, links: LinkTargets) -> Tensor:
    """Half the cross entropy against tails, half against heads, one edge at a time."""
    assert callable(scores_of)
    losses = []
    for b in range(links.head.numel()):
        head, tail = links.head[b], links.tail[b]
        for others, mask, turned in (
            (links.negative_tail, links.tail_mask[b], False),
            (links.negative_head, links.head_mask[b], True),
        ):
            usable = others[mask]
            pairs = [(head, tail), *((n, tail) if turned else (head, n) for n in usable)]
            scores = torch.stack([scores_of(h, t) for h, t in pairs])
            losses.append(cross_entropy(scores[None], torch.tensor([0])) / 2)
    return torch.stack(losses).sum()


def test_graph_lm_scores_texts_alone_by_their_cosine(plan: TrainPlan, model: LMGNN) -> None:
    batch = make_batch("graph_lm")
    loss, count = model(batch, stage_of(plan, "graph_lm"))
    unit = normalize(plain_texts(plan, batch), dim=1)
    expected = softmax_loss(lambda h, t: 20 * (unit[h] * unit[t]).sum(), batch.links["cites"])
    assert int(count) == 6
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("kind", ["gnn_warm", "joint"])
def test_graph_stages_equal_the_dense_formula(plan: TrainPlan, model: LMGNN, kind: str) -> None:
    batch, encoder = make_batch(kind), model.encoder("cites")
    loss, _ = model(batch, stage_of(plan, kind))
    text = batch.embedded["paper"] if kind == "gnn_warm" else plain_texts(plan, batch)
    given = {"paper": text, "venue": batch.features["venue"], "author": batch.learnable["author"]}
    with torch.no_grad():
        h = {name: encoder.project[f"of {name}"](rows) for name, rows in given.items()}
        for index, layer in enumerate(batch.layers):
            weights, rows = encoder.gnn.layers[index], layer.destinations["paper"]
            papers = h["paper"][:rows] @ weights.own.T
            for name, edges in layer.edges.items():
                source = MANIFEST.relation(name).source
                adjacency = torch.zeros(rows, layer.sources[source])
                adjacency.index_put_((edges.destination, edges.source), torch.tensor(1.0), accumulate=True)
                adjacency /= adjacency.sum(1, keepdim=True).clamp(min=1)
                papers += adjacency @ h[source] @ weights.weight(name).T
            h = {"paper": papers.relu() if index == 0 else papers}
    out = h["paper"]
    expected = softmax_loss(lambda a, b: (out[a] * out[b]).sum() / 4, batch.links["cites"])
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_mlm_is_transformers_own_loss_on_the_hidden_tokens(plan: TrainPlan, model: LMGNN) -> None:
    from transformers import AutoModelForMaskedLM

    batch = make_batch("mlm")
    loss, count = model(batch, stage_of(plan, "mlm"))
    lm, tokens = AutoModelForMaskedLM.from_pretrained(plan.model.lm), batch.tokens["paper"]
    lm.eval()
    total = 0.0
    for a, b in zip(tokens.offsets, tokens.offsets[1:], strict=False):
        logits = lm(tokens.values[a:b].long()[None]).logits[0]
        total += float(cross_entropy(logits, batch.hidden["paper"][a:b], reduction="sum", ignore_index=-100))
    assert int(count) == int((batch.hidden["paper"] >= 0).sum())
    assert float(loss) == pytest.approx(total, rel=1e-5)


def test_gradients_reach_the_train_rows_and_no_other_text(plan: TrainPlan, model: LMGNN) -> None:
    batch, stage = make_batch("joint"), stage_of(plan, "joint")
    words = model.text.of("paper").base.get_input_embeddings().weight
    model(batch, stage)[0].backward()
    tokens, rows = batch.tokens["paper"], batch.train_rows["paper"]
    trained = set(tokens.select(rows).values.tolist())
    touched = set((words.grad.abs().sum(1) > 0).nonzero().squeeze(1).tolist())
    assert touched
    assert touched <= trained
    assert trained < set(tokens.values.tolist())  # else the line above could not fail


def test_training_every_row_gives_the_loss_of_training_a_few(plan: TrainPlan, model: LMGNN) -> None:
    import dataclasses

    batch, stage = make_batch("joint"), stage_of(plan, "joint")
    everyone = dataclasses.replace(batch, train_rows={"paper": torch.arange(len(batch.nodes["paper"]))})
    assert float(model(everyone, stage)[0]) == pytest.approx(float(model(batch, stage)[0]), rel=1e-5)


def with_repeats(batch: Batch) -> Batch:
    """Papers 1, 4 and 5 get the text of paper 0, which is trained; paper 8 that of paper 7, which is not."""
    rows = torch.arange(len(batch.nodes["paper"]))
    rows[[1, 4, 5, 8]] = torch.tensor([0, 0, 0, 7])
    return replace(batch, tokens={"paper": batch.tokens["paper"].select(rows)})


def test_equal_texts_share_a_vector_and_their_gradients_add_up(plan: TrainPlan, model: LMGNN) -> None:
    batch = with_repeats(make_batch("joint"))
    tokens, rows = batch.tokens["paper"], batch.train_rows["paper"]
    weights = torch.randn(len(tokens), 32, generator=torch.Generator().manual_seed(2))
    found = model.embed_texts(batch, budget=64)["paper"]
    (found * weights).sum().backward()

    lm = AutoModel.from_pretrained(plan.model.lm)
    lists = tokens.values.long().split(tokens.lengths().tolist())
    alone = torch.stack([lm(one[None]).last_hidden_state[0].mean(0) for one in lists])
    trained = [*rows.tolist(), 1, 4, 5]
    (alone[trained] * weights[trained]).sum().backward()
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)
    theirs = dict(lm.named_parameters())
    for name, parameter in model.text.of("paper").base.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=1e-5, rtol=1e-4, msg=name)


def test_equal_texts_run_once(model: LMGNN) -> None:
    batch, encoder = with_repeats(make_batch("joint")), model.text.of("paper")
    tokens = batch.tokens["paper"]
    lists = {tuple(one.tolist()) for one in tokens.values.split(tokens.lengths().tolist())}
    ran: list[Tensor] = []
    assert encoder.packing.suits(64)  # tries it before the hook counts
    encoder.base.register_forward_pre_hook(
        lambda _, __, given: ran.append(given["input_ids"]), with_kwargs=True
    )
    model.embed_texts(batch, budget=64)
    assert len(lists) == encoder.work.rows_trained + encoder.work.rows_forward == 36
    assert sum(int((ids != 0).sum()) for ids in ran) == sum(map(len, lists))  # 0 is padding


def test_scaled_gradients_of_single_texts_are_on_average_those_of_all(plan: TrainPlan, model: LMGNN) -> None:
    batch, stage = make_batch("joint"), stage_of(plan, "joint")
    count = len(batch.nodes["paper"])

    def gradients(rows: Tensor, scale: float) -> dict[str, Tensor]:
        model.zero_grad()
        model(replace(batch, train_rows={"paper": rows}, train_scale=scale), stage)[0].backward()
        return {n: p.grad.double() for n, p in model.named_parameters() if p.grad is not None}

    whole = gradients(torch.arange(count), 1.0)
    singles = [gradients(torch.tensor([row]), float(count)) for row in range(count)]
    for name, expected in whole.items():
        mean = torch.stack([g.get(name, torch.zeros_like(expected)) for g in singles]).mean(0)
        tolerance = 1e-4 * float(expected.abs().max()) + 1e-6
        torch.testing.assert_close(mean, expected, rtol=1e-4, atol=tolerance, msg=name)
    assert max(float(g.abs().max()) for n, g in whole.items() if n.startswith("text.")) > 1e-2


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("mlm", {"text", "masked"}),
        ("graph_lm", {"text", "text_heads"}),
        ("gnn_warm", {"encoders", "heads"}),
        ("joint", {"text", "encoders", "heads"}),
    ],
)
def test_a_stage_trains_its_own_parameters_and_freezes_the_rest(
    plan: TrainPlan, model: LMGNN, kind: str, expected: set[str]
) -> None:
    groups = model.trained_parameters(stage_of(plan, kind))
    named = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in named} == expected
    assert len(groups["lm"]) + len(groups["rest"]) == len(named)
    assert bool(groups["lm"]) == (kind != "gnn_warm")


def test_the_plan_says_whether_activations_are_computed_again(plan: TrainPlan) -> None:
    for asked in (False, True):
        changed = replace(plan, engine=replace(plan.engine, checkpoint_activations=asked))
        assert LMGNN(changed, MANIFEST).text.of("paper").base.is_activation_checkpointing == asked


def test_nodes_of_a_bare_type_start_alike(plan: TrainPlan) -> None:
    bare = replace(plan, model=replace(plan.model, bare=("author",)))
    assert learnable_types(bare.model, MANIFEST) == ()
    encoder = LMGNN(bare, MANIFEST).encoder("cites")
    rows = encoder.inputs(Batch({"author": torch.arange(3)}), {})["author"]
    torch.testing.assert_close(rows, encoder.bare["of author"].expand(3, -1))


@pytest.mark.parametrize("task", CLASS_TASKS)
def test_a_saved_batch_of_classes_gives_the_cross_entropy_of_its_targets(tmp_path: Path, task: str) -> None:
    plan = plan_of(tmp_path, write_lm(tmp_path / "lm"), tasks=CLASS_TASKS, stages=CLASS_STAGES)
    torch.manual_seed(0)
    model = LMGNN(plan, MANIFEST)
    made = make_class_batch(task)
    made.save(tmp_path / "batch.safetensors")
    stage = next(s for s in plan.stages if s.task == task)
    loss, count = model(Batch.load(tmp_path / "batch.safetensors"), stage)
    h = model.encoder(task)(made, {"paper": plain_texts(plan, made)})["paper"]
    weights = dict(model.head(task).named_parameters())
    [targets] = made.classes.values()
    if task == "topic":
        logits = h[targets.head] @ weights["decode.weight"].T + weights["decode.bias"]
    else:
        u, v = h[targets.head], h[targets.tail]
        hidden = torch.cat([u, v, u * v], dim=1) @ weights["decode.0.weight"].T + weights["decode.0.bias"]
        logits = hidden.relu() @ weights["decode.2.weight"].T + weights["decode.2.bias"]
    assert int(count) == len(targets.label)
    assert float(loss) == pytest.approx(
        float(cross_entropy(logits, targets.label, reduction="sum")), rel=1e-4
    )
