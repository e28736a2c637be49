"""Text encoders against transformers itself and against loops written out."""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from partition.errors import StoreError, UsageError
from partition.tokens import PADDED_POSITIONS, check_model, resolve_model
from pipeline.batch import Ragged
from pipeline.config import DEFAULT_LM, ModelPlan
from pipeline.lm import TextEncoder, TextEncoders
from pipeline.lm_files import check_positions
from pipeline.lm_work import LMWork
from pipeline.text_layout import one_a_row

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(95))]
CLS, SEP, MASK = 2, 3, 4
BUDGET = 20
"""Tokens of a sub-batch: the longest text here, so that there are several."""
SMALL = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}
FAMILIES = {
    "bert": transformers.BertConfig(**SMALL),
    "roberta": transformers.RobertaConfig(**SMALL),
    "distilbert": transformers.DistilBertConfig(
        vocab_size=100, dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=40
    ),
    "electra": transformers.ElectraConfig(**SMALL, embedding_size=16),
    "mpnet": transformers.MPNetConfig(**SMALL),
    "albert": transformers.AlbertConfig(**SMALL, embedding_size=16),
    "deberta": transformers.DebertaV2Config(**SMALL, relative_attention=True, pos_att_type=["c2p", "p2c"]),
    "modernbert": transformers.ModernBertConfig(
        **SMALL, pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3
    ),
}


def write_model(folder: Path, config: transformers.PretrainedConfig, *, head: bool = True) -> Path:
    """A random model with a word-level tokenizer, as transformers saves it."""
    torch.manual_seed(0)
    family = transformers.AutoModelForMaskedLM if head else transformers.AutoModel
    family.from_config(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write_model(tmp_path_factory.mktemp(name), config) for name, config in FAMILIES.items()}


def plan(folder: Path | str, **values: object) -> ModelPlan:
    return ModelPlan(**{"lm": str(folder), "max_length": 20, **values})  # type: ignore[arg-type]


def texts(*lengths: int) -> Ragged:
    generator = torch.Generator().manual_seed(1)
    lists = [torch.randint(5, 100, (n,), generator=generator, dtype=torch.int16) for n in lengths]
    lists = [torch.cat([torch.tensor([CLS]), one, torch.tensor([SEP])]).to(torch.int16) for one in lists]
    return Ragged(torch.cat(lists), torch.tensor([0, *[len(one) for one in lists]]).cumsum(0))


def reference(model: torch.nn.Module, tokens: Ragged) -> list[Tensor]:
    """Last hidden states of each text run alone: nothing padded, nothing masked."""
    model.eval()
    lists = tokens.values.long().split(tokens.lengths().tolist())
    return [model(one[None]).last_hidden_state[0] for one in lists]


@pytest.mark.parametrize("family", FAMILIES)
def test_mean_pooling_equals_a_loop_over_texts(folders, family):
    tokens = texts(7, 1, 18, 4)
    encoder = TextEncoder.from_plan(plan(folders[family])).eval()
    model = transformers.AutoModel.from_pretrained(folders[family])
    expected = torch.stack([states.mean(0) for states in reference(model, tokens)])
    assert torch.allclose(encoder(tokens, BUDGET), expected, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_gets_a_gradient(folders, family):
    encoder = TextEncoder.from_plan(plan(folders[family]))
    encoder(texts(5, 9), BUDGET).square().sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("budget", [BUDGET, 60])  # alone, and packed where the model can be
@pytest.mark.parametrize("family", FAMILIES)
def test_masked_lm_loss_equals_transformers(folders, family, budget):
    tokens = texts(7, 1, 12)
    labels = torch.full((tokens.values.numel(),), -100)
    labels[[1, 3, 11, 15]] = torch.tensor([50, 60, 70, 80])
    ours = TextEncoder.from_plan(plan(folders[family])).masked_lm().eval()
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(folders[family]).eval()
    ids, mask = tokens.padded(theirs.config.pad_token_id)
    padded_labels = torch.full(ids.shape, -100).masked_scatter(mask, labels)
    expected = theirs(input_ids=ids, attention_mask=mask, labels=padded_labels).loss
    loss, count = ours(tokens, labels, budget)
    assert int(count) == 4
    assert torch.allclose(loss / count, expected, atol=1e-5)


def test_cls_pooling_takes_the_first_token(folders):
    tokens = texts(7, 1, 12)
    encoder = TextEncoder.from_plan(plan(folders["bert"], pooling="cls")).eval()
    expected = torch.stack([states[0] for states in reference(encoder.base, tokens)])
    assert torch.allclose(encoder(tokens, BUDGET), expected, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert"])
def test_keeping_layers_equals_running_the_first_of_them(folders, family):
    tokens = texts(6, 6)
    encoder = TextEncoder.from_plan(plan(folders[family], lm_layers=1)).eval()
    whole = transformers.AutoModel.from_pretrained(folders[family]).eval()
    stack = dict(whole.named_modules())
    name = next(n for n in ("encoder.layer", "transformer.layer", "layers") if n in stack)
    del stack[name][1:]
    ids, mask = tokens.padded(0)
    expected = whole(input_ids=ids, attention_mask=mask).last_hidden_state.mean(1)
    assert torch.allclose(encoder(tokens, BUDGET), expected, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_its_dropout_a_pass_with_gradients_equals_one_without(folders, family):
    tokens = texts(6, 9)
    encoder = TextEncoder.from_plan(plan(folders[family], lm_dropout=0.0)).train()
    assert torch.allclose(encoder(tokens, BUDGET), encoder.encode(tokens, BUDGET), atol=1e-6)
    assert not TextEncoders([encoder], ["paper"]).has_dropout


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_text_without_tokens_becomes_zeros_and_disturbs_no_other(folders, pooling):
    tokens = texts(5, 3)
    middle = int(tokens.offsets[1])
    with_empty = Ragged(tokens.values, torch.tensor([0, middle, middle, int(tokens.offsets[2])]))
    encoder = TextEncoder.from_plan(plan(folders["bert"], pooling=pooling)).eval()
    vectors = encoder(with_empty, BUDGET)
    assert torch.equal(vectors[1], torch.zeros(32))
    assert torch.allclose(vectors[[0, 2]], encoder(tokens, BUDGET), atol=1e-6)


def test_no_texts_give_no_rows(folders):
    none = Ragged(torch.zeros(0, dtype=torch.int16), torch.zeros(1, dtype=torch.int64))
    encoder = TextEncoder.from_plan(plan(folders["bert"]))
    assert encoder(none, BUDGET).shape == (0, 32)
    assert encoder.encode(none, 64).shape == (0, 32)


@pytest.mark.parametrize("budget", [1, 30, 1000])
def test_encode_equals_forward_of_each_row(folders, budget):
    tokens = texts(7, 1, 18, 4, 4, 11, 2)
    encoder = TextEncoder.from_plan(plan(folders["bert"])).eval()
    expected = torch.cat([encoder(tokens.select(torch.tensor([i])), BUDGET) for i in range(7)])
    assert torch.allclose(encoder.encode(tokens, budget), expected, atol=1e-5)


def test_encode_is_without_dropout_and_gradient_and_leaves_the_mode(folders):
    encoder = TextEncoder.from_plan(plan(folders["bert"])).train()
    tokens = texts(7, 5)
    vectors = encoder.encode(tokens, 16)
    assert encoder.training
    assert not vectors.requires_grad
    assert torch.equal(vectors, encoder.encode(tokens, 16))
    assert not torch.equal(encoder(tokens, BUDGET), encoder(tokens, BUDGET))


def test_rows_tokens_and_padding_are_counted_with_and_without_gradients(folders):
    encoder = TextEncoder.from_plan(plan(folders["bert"]))
    tokens = texts(10, 10, 9, 4)  # 12, 12, 11 and 6 tokens with the special ones
    again = tokens.select(torch.tensor([0, 1, 2, 3, 3]))
    encoder.encode(again, 36)  # three of twelve, one of six
    assert encoder.work == LMWork(rows_forward=4, tokens_forward=42, padding_forward=1)
    before = encoder.work
    encoder(again, 1000)
    assert encoder.work - before == LMWork(rows_trained=4, tokens_trained=41)  # in one row
    assert encoder.work.tokens == 42 + 3 * 41


def test_encode_gives_a_sign_of_life_for_every_sub_batch(folders):
    encoder, signs = TextEncoder.from_plan(plan(folders["bert"])), []
    encoder.encode(texts(10, 10, 10, 4), 24, alive=lambda: signs.append(1))
    assert len(signs) == 2


def gradients(encoder: TextEncoder) -> tuple[dict[str, Tensor], int]:
    """(gradients of a pass with dropout, bytes that autograd kept for it, parameters excepted)."""
    own = {p.untyped_storage().data_ptr() for p in encoder.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(3)
    encoder.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = encoder(texts(18, 12, 7, 7, 3), 40).square().sum()
    bytes_kept = sum(kept.values())
    loss.backward()
    return {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}, bytes_kept


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert"])
def test_computing_activations_again_keeps_gradients_and_saves_memory(folders, family):
    encoder = TextEncoder.from_plan(plan(folders[family]))
    plain, bytes_plain = gradients(encoder)
    plain = {name: gradient.clone() for name, gradient in plain.items()}
    encoder.zero_grad()
    encoder.checkpoint_activations()
    again, bytes_again = gradients(encoder)
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, msg=name)
    assert bytes_again < bytes_plain / 2


def test_computing_activations_again_says_nothing(folders, capfd):
    encoder = TextEncoder.from_plan(plan(folders["bert"])).train()
    encoder.checkpoint_activations()
    encoder(texts(5), BUDGET).sum().backward()
    assert capfd.readouterr() == ("", "")


def test_an_lm_that_cannot_compute_its_layers_again_is_named(folders):
    with pytest.raises(UsageError, match=r"engine\.checkpoint_activations: .*mpnet"):
        TextEncoder.from_plan(plan(folders["mpnet"])).checkpoint_activations()


@pytest.mark.parametrize(("family", "kernel"), [("bert", "sdpa"), ("modernbert", "sdpa"), ("mpnet", "eager")])
def test_attention_is_torchs_own_where_the_model_knows_it(folders, family, kernel):
    base = TextEncoder.from_plan(plan(folders[family])).base
    assert base.config._attn_implementation == kernel


def test_the_masked_lm_shares_and_ties_the_weights(folders):
    encoder = TextEncoder.from_plan(plan(folders["bert"], lm_layers=1))
    masked = encoder.masked_lm()
    table = encoder.base.get_input_embeddings().weight
    assert masked.head.get_output_embeddings().weight is table
    before = copy.deepcopy(encoder.base.state_dict())
    loss, count = masked(texts(5), torch.tensor([-100, 7, -100, 8, -100, -100, -100]), BUDGET)
    (loss / count).backward()
    assert [name for name, p in masked.named_parameters() if p.grad is None] == []
    torch.optim.SGD(masked.parameters(), lr=0.1).step()
    assert all(not torch.equal(before[n], p) for n, p in encoder.base.named_parameters() if p.grad.any())
    assert not torch.equal(before["embeddings.word_embeddings.weight"], table)


def test_a_masked_lm_batch_without_labels_costs_nothing_and_has_a_gradient(folders):
    masked = TextEncoder.from_plan(plan(folders["bert"])).masked_lm()
    loss, count = masked(texts(3), torch.full((5,), -100), BUDGET)
    loss.backward()
    assert (float(loss.detach()), int(count)) == (0.0, 0)


def test_a_source_without_a_head_gets_a_new_one_on_the_same_encoder(tmp_path):
    folder = write_model(tmp_path, FAMILIES["bert"], head=False)
    encoder = TextEncoder.from_plan(plan(folder))
    chosen = torch.tensor([True, False, True, False, False])
    logits = encoder.masked_lm().logits(texts(3), chosen, one_a_row([5]))
    assert logits.shape == (2, 100)


def test_a_saved_encoder_is_read_by_transformers_and_by_us(folders, tmp_path):
    encoder = TextEncoder.from_plan(plan(folders["bert"], lm_layers=1)).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1.5)
    encoder.save(tmp_path)
    tokens = texts(6, 2)
    theirs = transformers.AutoModel.from_pretrained(tmp_path)
    expected = torch.stack([states.mean(0) for states in reference(theirs, tokens)])
    assert torch.allclose(encoder(tokens, BUDGET), expected, atol=1e-5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("word3 word90")["input_ids"] == [CLS, 8, 95, SEP]
    assert (tmp_path / "model.safetensors").exists()
    other = TextEncoder.from_plan(plan(folders["bert"], lm_layers=1)).eval()
    other.load(tmp_path)
    assert torch.equal(other(tokens, BUDGET), encoder(tokens, BUDGET))


def test_loading_another_models_weights_is_an_error(folders, tmp_path):
    TextEncoder.from_plan(plan(folders["bert"], lm_layers=1)).save(tmp_path)
    with pytest.raises(StoreError, match="holds no weights for this LM"):
        TextEncoder.from_plan(plan(folders["bert"])).load(tmp_path)


def test_the_tokenizer_tells_what_masking_needs(folders):
    encoder = TextEncoder.from_plan(plan(folders["bert"]))
    assert sorted(encoder.special_ids) == [0, 1, 2, 3, 4]
    assert (encoder.mask_id, encoder.vocabulary) == (MASK, 100)


@pytest.mark.parametrize(("family", "positions"), [("bert", 40), ("roberta", 38), ("modernbert", 40)])
def test_texts_longer_than_the_positions_are_an_error(folders, family, positions):
    TextEncoder.from_plan(plan(folders[family], max_length=positions))
    with pytest.raises(UsageError, match=f"has {positions} positions"):
        TextEncoder.from_plan(plan(folders[family], max_length=positions + 1))


@pytest.mark.parametrize("kind", ["bert", "electra", "mpnet", "xlm-roberta", "camembert", "roberta"])
def test_the_partitioner_knows_the_positions_that_a_model_keeps(tmp_path, kind):
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.AutoConfig.for_model(
        kind, **small, max_position_embeddings=40, vocab_size=50, pad_token_id=1
    )
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
    base = transformers.AutoModel.from_pretrained(tmp_path)
    for length, fits in ((38, True), (40, kind not in PADDED_POSITIONS), (41, False)):
        for check in (
            lambda n: check_model(tmp_path, name=str(tmp_path), max_length=n),
            lambda n: check_positions(base, plan(tmp_path, max_length=n)),
        ):
            with contextlib.nullcontext() if fits else pytest.raises(UsageError, match="positions"):
                check(length)


def test_a_text_of_all_positions_runs(folders):
    encoder = TextEncoder.from_plan(plan(folders["roberta"], max_length=38))
    assert encoder(texts(36), BUDGET).shape == (1, 32)


def test_a_folder_without_weights_is_named(folders, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folders["bert"] / name).read_bytes())
    with pytest.raises(UsageError, match=str(tmp_path)):
        TextEncoder.from_plan(plan(tmp_path))


def test_weights_that_do_not_fit_the_config_are_an_error(folders, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folders["bert"] / name).read_bytes())
    save_file({"something.else": torch.zeros(3)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match="weights are missing"):
        TextEncoder.from_plan(plan(tmp_path))


def test_more_layers_than_there_are_is_an_error(folders):
    with pytest.raises(UsageError, match="has 2 layers"):
        TextEncoder.from_plan(plan(folders["bert"], lm_layers=3))


def test_an_encoder_decoder_is_refused(tmp_path):
    config = transformers.T5Config(vocab_size=50, d_model=16, num_layers=1, d_ff=16, num_heads=2, d_kv=8)
    transformers.T5Model(config).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="encoder-decoder"):
        TextEncoder.from_plan(plan(tmp_path))


def test_loading_says_nothing(folders, capfd):
    TextEncoder.from_plan(plan(folders["bert"], lm_layers=1)).masked_lm()
    assert capfd.readouterr() == ("", "")


def test_a_shared_lm_is_one_module_for_all_types(folders):
    encoders = TextEncoders.from_plan(plan(folders["bert"]), ["paper", "author.v2"])
    assert encoders.of("paper") is encoders.of("author.v2")
    assert len(list(encoders.distinct())) == 1


def test_an_lm_for_each_type_has_its_own_weights(folders):
    encoders = TextEncoders.from_plan(plan(folders["bert"], lm_shared=False), ["paper", "author.v2"])
    one, two = encoders.of("paper"), encoders.of("author.v2")
    assert {id(p) for p in one.parameters()}.isdisjoint(id(p) for p in two.parameters())
    assert torch.equal(one.eval()(texts(4), BUDGET), two.eval()(texts(4), BUDGET))


def test_a_graph_without_texts_has_no_lm(folders):
    encoders = TextEncoders.from_plan(plan(folders["bert"]), [])
    assert list(encoders.parameters()) == []


def test_asking_for_a_type_without_text_is_an_error(folders):
    with pytest.raises(UsageError, match="'tag' has no text"):
        TextEncoders.from_plan(plan(folders["bert"]), ["paper"]).of("tag")


def test_the_default_lm_knows_similar_sentences_and_equals_plain_transformers():
    encoder = TextEncoder.from_plan(ModelPlan(lm=DEFAULT_LM)).eval()
    lines = ["Read a file from disk.", "Load data stored on the hard drive.", "A recipe for apple pie."]
    lists = encoder.tokenizer(lines)["input_ids"]
    tokens = Ragged(
        torch.tensor([v for one in lists for v in one], dtype=torch.int16),
        torch.tensor([0, *[len(one) for one in lists]]).cumsum(0),
    )
    vectors = encoder.encode(tokens, 16)
    similar = torch.nn.functional.normalize(vectors) @ torch.nn.functional.normalize(vectors).T
    assert similar[0, 1] > 0.5 > 0.2 > similar[0, 2]
    model = transformers.AutoModel.from_pretrained(resolve_model(DEFAULT_LM))
    expected = torch.stack([states.mean(0) for states in reference(model, tokens)])
    assert torch.allclose(vectors, expected, atol=1e-5)
