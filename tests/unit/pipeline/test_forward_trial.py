"""bf16 for texts without gradients: what decides, and what does not change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from toy import write_lm

from pipeline.batch import Ragged
from pipeline.config import ModelPlan
from pipeline.forward_trial import Trial, forward_trial
from pipeline.lm import TextEncoder

TEXTS = Ragged(torch.arange(5, 65), torch.tensor([0, 20, 35, 36, 60]))


@pytest.fixture
def encoder(tmp_path: Path) -> TextEncoder:
    return TextEncoder.from_plan(ModelPlan(lm=str(write_lm(tmp_path / "lm")), max_length=30)).train()


@pytest.mark.parametrize(
    ("before", "bf16", "cosine", "taken"),
    [(2.0, 1.0, 0.9999, True), (2.0, 1.0, 0.99, False), (1.0, 1.0, 1.0, False), (1.0, 5.0, 1.0, False)],
)
def test_bf16_is_taken_where_it_is_faster_and_close(before, bf16, cosine, taken) -> None:
    assert Trial(before, bf16, cosine).bf16 == taken


def test_in_bf16_encoding_equals_autocast_and_training_stays_as_it_was(encoder: TextEncoder) -> None:
    whole = encoder.encode(TEXTS, 100)
    trained = encoder(TEXTS, 100)
    encoder.forward_bf16 = True
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = encoder(TEXTS, 100)
    assert torch.equal(encoder.encode(TEXTS, 100), expected)
    assert not torch.equal(expected.float(), whole)
    assert torch.equal(encoder(TEXTS, 100), trained)


def test_a_trial_compares_vectors_and_leaves_the_encoder_as_it_was(encoder: TextEncoder) -> None:
    plain = encoder.encode(TEXTS, 100)
    found = forward_trial(encoder, TEXTS, 100)
    assert torch.equal(encoder.encode(TEXTS, 100), plain)
    assert encoder.training
    encoder.forward_bf16 = True
    half: Tensor = encoder.encode(TEXTS, 100).float()
    assert found.cosine == pytest.approx(float(torch.cosine_similarity(plain, half).mean()), abs=1e-6)
    assert 0 < found.seconds_bf16 < float("inf") > found.seconds_before > 0


def test_without_texts_nothing_changes(encoder: TextEncoder) -> None:
    none = Ragged(torch.zeros(0, dtype=torch.int32), torch.zeros(1, dtype=torch.int64))
    assert not forward_trial(encoder, none, 100).bf16
