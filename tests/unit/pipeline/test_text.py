"""BERT's masking rule: shares, special tokens, repeatability."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import binomtest, chisquare

from partition.errors import UsageError
from pipeline.batch import Ragged
from pipeline.text import UNMASKED, mask_tokens

SPECIAL = (0, 1, 2, 3, 4)
MASK = 4
VOCABULARY = 60


def ragged(lists: list[list[int]], dtype: torch.dtype = torch.int16) -> Ragged:
    values = torch.tensor([v for one in lists for v in one], dtype=dtype)
    return Ragged(values, torch.tensor([0, *[len(one) for one in lists]]).cumsum(0))


def masked(tokens: Ragged, texts: torch.Tensor, *, key: int = 7, share: float = 0.15):
    return mask_tokens(
        tokens, texts, key=key, share=share, special_ids=SPECIAL, mask_id=MASK, vocabulary=VOCABULARY
    )


@pytest.fixture
def many() -> tuple[Ragged, torch.Tensor]:
    """1,500 texts of 40 ordinary tokens between two special ones."""
    body = torch.randint(5, VOCABULARY, (1500, 40), generator=torch.Generator().manual_seed(0))
    lists = [[1, *row, 2] for row in body.tolist()]
    return ragged(lists), torch.arange(1500) * 17 + 3


def test_share_of_the_ordinary_tokens_is_labelled(many):
    _, labels = masked(*many)
    hit = int((labels != UNMASKED).sum())
    assert binomtest(hit, 1500 * 40, 0.15).pvalue > 0.001


def test_labels_are_the_original_tokens_and_the_rest_is_unchanged(many):
    tokens, texts = many
    out, labels = masked(tokens, texts)
    chosen = labels != UNMASKED
    assert torch.equal(labels[chosen], tokens.values[chosen].long())
    assert torch.equal(out.values[~chosen], tokens.values[~chosen])
    assert out.values.dtype == tokens.values.dtype


def test_eighty_ten_ten(many):
    tokens, texts = many
    out, labels = masked(tokens, texts)
    chosen = labels != UNMASKED
    new, old = out.values[chosen], tokens.values[chosen]
    hidden, kept = int((new == MASK).sum()), int((new == old).sum())
    count = int(chosen.sum())
    kept_expected = 0.1 + 0.1 / (VOCABULARY - len(SPECIAL))  # a random token may be the same one
    assert binomtest(hidden, count, 0.8).pvalue > 0.001
    assert binomtest(kept, count, kept_expected).pvalue > 0.001


def test_random_tokens_are_uniform_over_the_ordinary_ones(many):
    tokens, texts = many
    out, labels = masked(tokens, texts, share=0.9)
    random = out.values[(labels != UNMASKED) & (out.values != MASK) & (out.values != tokens.values)]
    counts = torch.bincount(random.long(), minlength=VOCABULARY)
    assert counts[: len(SPECIAL)].sum() == 0
    assert chisquare(counts[len(SPECIAL) :].numpy()).pvalue > 0.001


def test_special_tokens_are_never_chosen():
    tokens = ragged([[1, 10, 0, 3, 11, 2]] * 200)
    _, labels = masked(tokens, torch.arange(200), share=0.99)
    assert set(labels.unique().tolist()) <= {UNMASKED, 10, 11}


def test_every_text_with_an_ordinary_token_gets_a_label():
    lists = [[1, 20 + i % 30, 2] for i in range(300)]
    _, labels = masked(ragged(lists), torch.arange(300), share=0.01)
    assert torch.equal(labels.view(300, 3) != UNMASKED, torch.tensor([False, True, False]).expand(300, 3))


def test_texts_of_special_tokens_alone_and_empty_texts_stay_as_they_are():
    tokens = ragged([[1, 2], [], [1, 9, 2], []])
    out, labels = masked(tokens, torch.tensor([5, 6, 7, 8]))
    assert labels.tolist()[:2] == [UNMASKED, UNMASKED]
    assert labels[3] == 9
    assert out.offsets.tolist() == tokens.offsets.tolist()


def test_no_texts_give_no_labels():
    _, labels = masked(ragged([]), torch.zeros(0, dtype=torch.int64))
    assert labels.shape == (0,)


def test_a_text_gets_the_same_holes_in_any_batch(many):
    tokens, texts = many
    rows = torch.tensor([700, 3, 99])
    whole, labels = masked(tokens, texts)
    part, part_labels = masked(tokens.select(rows), texts[rows])
    assert torch.equal(part.values, whole.select(rows).values)
    assert torch.equal(part_labels, Ragged(labels, tokens.offsets).select(rows).values)


def test_another_key_gives_other_holes(many):
    _, first = masked(*many, key=1)
    _, second = masked(*many, key=2)
    assert not torch.equal(first, second)


def test_a_vocabulary_of_special_tokens_is_an_error():
    with pytest.raises(UsageError, match="nothing can be masked"):
        mask_tokens(
            ragged([[1]]), torch.zeros(1, dtype=torch.int64), key=0, share=0.1, special_ids=(0, 1, 2),
            mask_id=2, vocabulary=3,
        )  # fmt: skip
