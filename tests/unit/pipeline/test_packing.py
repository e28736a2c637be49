"""Packed texts against the same texts run alone, through small random models of transformers'."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from pipeline.batch import Ragged
from pipeline.lm import TextEncoder
from pipeline.lm_work import LMWork
from pipeline.text_layout import Layout

SMALL = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 80,
}
CONFIGS = {
    "bert": transformers.BertConfig(**SMALL),
    "roberta": transformers.RobertaConfig(**SMALL),  # positions from 2 on
    "distilbert": transformers.DistilBertConfig(
        vocab_size=100, dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=80
    ),
    "electra": transformers.ElectraConfig(**SMALL, embedding_size=16),
    "mpnet": transformers.MPNetConfig(**SMALL),  # adds its mask to the scores; relative positions
    "modernbert": transformers.ModernBertConfig(
        **{**SMALL, "max_position_embeddings": 400},
        **{"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
    ),
}
UNFIT = {
    "deberta": transformers.DebertaV2Config(**SMALL, relative_attention=True, pos_att_type=["c2p", "p2c"]),
    "convbert": transformers.ConvBertConfig(**SMALL),  # convolutions reach over to the next text
    "causal": transformers.LlamaConfig(**SMALL, pad_token_id=0),
}
LENGTHS = (23, 4, 60, 17, 9, 1, 38, 12)
BUDGET = 600


def make(config: transformers.PretrainedConfig, pooling: str = "mean") -> TextEncoder:
    torch.manual_seed(0)
    base: Any = transformers.AutoModel.from_config(config)
    base.pooler = None
    return TextEncoder(base, None, pooling=pooling, source="").eval()


def texts(*lengths: int) -> Ragged:
    generator = torch.Generator().manual_seed(1)
    values = torch.randint(5, 100, (sum(lengths),), generator=generator, dtype=torch.int16)
    return Ragged(values, torch.tensor([0, *lengths]).cumsum(0))


def alone(encoder: TextEncoder, tokens: Ragged) -> Tensor:
    """Each text run by itself: nothing padded, nothing masked."""
    lists = tokens.values.long().split(tokens.lengths().tolist())
    states = [encoder.base(one[None]).last_hidden_state[0] for one in lists]
    return torch.stack([one[0] if encoder.pooling == "cls" else one.mean(0) for one in states])


def gradients(encoder: TextEncoder, vectors: Tensor) -> dict[str, Tensor]:
    encoder.zero_grad()
    (vectors * torch.linspace(-1, 1, vectors.numel()).reshape(vectors.shape)).sum().backward()
    return {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


def given(encoder: TextEncoder, longest: int = max(LENGTHS)) -> list[Tensor]:
    """A list that fills with what the model gets from now on."""
    seen: list[Tensor] = []
    encoder.packing.suits(longest)  # its trial is over by then
    encoder.base.register_forward_pre_hook(
        lambda _, __, inputs: seen.append(inputs["input_ids"]), with_kwargs=True
    )
    return seen


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("family", CONFIGS)
def test_vectors_and_gradients_of_packed_texts_are_those_of_each_alone(family: str, pooling: str) -> None:
    encoder, tokens = make(CONFIGS[family], pooling), texts(*LENGTHS)
    expected = alone(encoder, tokens)
    wanted, seen = gradients(encoder, expected), given(encoder)
    vectors = encoder(tokens, BUDGET)
    assert [len(ids) for ids in seen] == [2]  # rows for eight texts
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=1e-5)
    found = gradients(encoder, vectors)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("family", UNFIT)
def test_texts_of_other_models_are_padded_and_keep_their_vectors(family: str) -> None:
    encoder, tokens = make(UNFIT[family]), texts(*LENGTHS)
    expected, seen = alone(encoder, tokens), given(encoder)
    vectors = encoder(tokens, BUDGET)
    assert [tuple(ids.shape) for ids in seen] == [(8, 60)]
    if family != "convbert":  # it lets a text see its padding
        torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=1e-5)


def test_texts_longer_than_a_window_of_attention_are_not_packed() -> None:
    encoder = make(CONFIGS["modernbert"])  # 64 tokens to each side
    assert [encoder.packing.suits(longest) for longest in (1, 64, 65, 200)] == [True, True, False, False]


def test_texts_as_long_as_the_positions_are_packed() -> None:
    encoder, tokens = make(CONFIGS["roberta"]), texts(78, 30, 50, 5)
    expected, seen = alone(encoder, tokens), given(encoder, 78)
    torch.testing.assert_close(encoder(tokens, BUDGET), expected, atol=1e-5, rtol=1e-5)
    assert [len(ids) for ids in seen] == [2]


def test_a_padding_token_within_a_text_keeps_the_position_that_its_model_gives_it() -> None:
    encoder, tokens = make(CONFIGS["roberta"]), texts(*LENGTHS)
    tokens.values[[2, 7, 40, 41]] = encoder.base.config.pad_token_id
    expected, seen = alone(encoder, tokens), given(encoder)
    torch.testing.assert_close(encoder(tokens, BUDGET), expected, atol=1e-5, rtol=1e-5)
    assert [len(ids) for ids in seen] == [2]


@pytest.mark.parametrize("family", [*CONFIGS, *UNFIT])
def test_tokens_are_counted_as_the_model_gets_them(family: str) -> None:
    encoder, tokens = make({**CONFIGS, **UNFIT}[family]), texts(*LENGTHS, *LENGTHS, 0)
    seen = given(encoder)
    encoder(tokens, 300)
    encoder.encode(tokens, 300)
    assert encoder.work.tokens_run == sum(ids.numel() for ids in seen)
    padding = encoder.work.padding_trained + encoder.work.padding_forward
    assert encoder.work.tokens_run - padding == 2 * int(tokens.lengths().sum())


@pytest.mark.parametrize("training", [True, False])
def test_the_trial_draws_no_random_number_counts_nothing_and_keeps_the_mode(training: bool) -> None:
    encoder = make(CONFIGS["bert"]).train(training)
    before = torch.get_rng_state()
    assert encoder.packing.suits(10)
    assert torch.equal(torch.get_rng_state(), before)
    assert encoder.work == LMWork()
    assert all(module.training is training for module in encoder.modules())


def test_computing_activations_again_keeps_the_gradients_of_packed_texts() -> None:
    encoder, tokens = make(CONFIGS["bert"]).train(), texts(*LENGTHS)
    torch.manual_seed(5)
    wanted = gradients(encoder, encoder(tokens, BUDGET))
    encoder.checkpoint_activations()
    torch.manual_seed(5)
    found = gradients(encoder, encoder(tokens, BUDGET))
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_packed_texts_run_in_bf16(family: str) -> None:
    encoder, tokens = make(CONFIGS[family]), texts(*LENGTHS)
    with torch.autocast("cpu", torch.bfloat16):
        vectors = encoder(tokens, BUDGET)
    vectors.float().sum().backward()
    similar = torch.cosine_similarity(vectors.float(), alone(encoder, tokens)).detach()
    assert float(similar.min()) > 0.99


def test_padding_behind_packed_texts_makes_no_nan() -> None:
    encoder, tokens = make(CONFIGS["bert"]), texts(5, 3)
    states, mask = encoder.hidden(tokens, Layout(2, 20, 5, 8, (2, 22)))
    assert bool(states.isfinite().all())
    assert mask.tolist() == [[True] * 5, [True, True, True, False, False]]
