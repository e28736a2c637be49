"""Language models from their files: configuration, first layers, weights, tokenizer, and whether they fit.

Owns what is asked of a Hugging Face model before it serves as a text encoder. Never runs one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers.utils import logging as transformers_logging

from partition.errors import UsageError
from partition.tokens import resolve_model
from pipeline.config import ModelPlan


def load_model(plan: ModelPlan) -> tuple[Any, Any, str]:
    """(transformer in float32, tokenizer, where they are: a folder or a hub name) of a plan; UsageError
    where they cannot serve as its text encoder."""
    source = resolve_model(plan.lm)
    with quiet():
        try:
            config = transformers.AutoConfig.from_pretrained(source)
            _check_config(config, plan)
            _keep_layers(config, plan.lm_layers)
            _set_dropout(config, plan.lm_dropout)
            base = load_base(source, config)
            tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise UsageError(
                f"model.lm = {plan.lm!r}: {source} cannot be loaded: {str(error).splitlines()[0]}",
                hint="give a Hugging Face encoder with config, weights and tokenizer",
            ) from error
    check_positions(base, plan)
    return base, tokenizer, source


def load_base(source: str | Path, config: Any) -> Any:
    """The bare transformer in float32; ValueError where weights are missing.

    Without a pooler: we pool ourselves, and a parameter without a gradient breaks ZeRO.
    """
    base, report = transformers.AutoModel.from_pretrained(
        source, config=config, dtype=torch.float32, output_loading_info=True
    )
    if getattr(base, "pooler", None) is not None:
        base.pooler = None
    lost = sorted(set(report["missing_keys"]) & set(base.state_dict()))
    if lost:
        raise ValueError(f"{len(lost)} weights are missing, such as {lost[0]}")
    return base


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' bars and its report on weights we leave out on purpose."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _check_config(config: Any, plan: ModelPlan) -> None:
    if config.is_encoder_decoder:
        raise UsageError(
            f"model.lm = {plan.lm!r} is an encoder-decoder model ({config.model_type})",
            hint="use an encoder such as BERT, RoBERTa, MiniLM or ModernBERT",
        )
    if not 0 <= plan.lm_layers <= config.num_hidden_layers:
        raise UsageError(
            f"model.lm_layers = {plan.lm_layers}: {plan.lm} has {config.num_hidden_layers} layers",
            hint="0 keeps all",
        )


def _keep_layers(config: Any, layers: int) -> None:
    if layers == 0:
        return
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):  # one entry a layer where attention kinds alternate
        config.layer_types = config.layer_types[:layers]


def _set_dropout(config: Any, share: float) -> None:
    """Every share of dropout that a configuration gives a number; -1 leaves them as they are."""
    if share < 0:
        return
    for name, value in config.to_dict().items():
        if "dropout" in name and type(value) in (int, float):
            setattr(config, name, share)


def check_positions(base: Any, plan: ModelPlan) -> None:
    """UsageError for texts longer than the model has positions."""
    positions = position_limit(base)
    if plan.max_length > positions:
        raise UsageError(
            f"model.max_length = {plan.max_length}: {plan.lm} has {positions} positions",
            hint=f"set it to {positions} or less",
        )


def position_limit(base: Any) -> int:
    """Tokens that fit: RoBERTa's kin keep the first rows of their position table for padding."""
    limit = int(getattr(base.config, "max_position_embeddings", 0) or 0) or 1 << 30
    for table in _position_tables(base):
        reserved = 0 if table.padding_idx is None else table.padding_idx + 1
        limit = min(limit, table.num_embeddings - reserved)
    return limit


def position_padding(base: Any) -> int | None:
    """Where RoBERTa's kin look up padding, in their position table as in that of tokens; their texts begin at
    the next position. None for all others, whose texts begin at 0."""
    return next((t.padding_idx for t in _position_tables(base) if t.padding_idx is not None), None)


def _position_tables(base: Any) -> Iterator[nn.Embedding]:
    for name, module in base.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings"):
            yield module
