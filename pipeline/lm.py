"""Text encoders: Hugging Face models that turn token lists into one vector per text.

Owns pooling, sub-batches, forward-only encoding and the masked-LM head on shared weights. Never
tokenizes and never decides which texts get gradients; lm_files.py loads. Shape letters: N texts,
L tokens of the longest, T tokens over all texts, D width, K masked tokens, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from partition.errors import StoreError, UsageError
from pipeline.batch import Ragged
from pipeline.config import ModelPlan
from pipeline.grouping import distinct
from pipeline.lm_files import load_base, load_model, quiet
from pipeline.lm_work import LMWork, one_pass
from pipeline.naming import module_key
from pipeline.packing import Packing, unpacked
from pipeline.text import UNMASKED
from pipeline.text_layout import Layout, SubBatch, sub_batches

_NOT_IN_VECTORS = ("_name_or_path", "architectures", "dtype", "transformers_version", "use_cache")
"""Entries that save_pretrained writes into the live configuration, or that make no difference to a vector;
the weights have the dtype."""


def _nothing() -> None:
    """Nobody waits for a sign of life."""


class TextEncoder(nn.Module):
    """A transformer and a pooling: token lists -> one vector each."""

    def __init__(
        self, base: Any, tokenizer: Any, *, pooling: str, source: str, packing: Packing | None = None
    ) -> None:
        """`source` is where the masked-LM head's weights are looked for: a folder or a hub name; `packing`:
        of another base than this one, where its answers are to count."""
        super().__init__()
        self.base = base
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.source = source
        self.packing = packing or Packing(base)
        self.work = LMWork()
        """What went through the model so far."""
        self.forward_bf16 = False
        """Whether `encode` runs in bf16; else as its caller does. forward_trial.py tells when to."""

    @classmethod
    def from_plan(cls, plan: ModelPlan) -> TextEncoder:
        """Load `plan.lm` in float32; UsageError where it cannot serve as this plan's encoder."""
        base, tokenizer, source = load_model(plan)
        return cls(base, tokenizer, pooling=plan.pooling, source=source)

    @property
    def width(self) -> int:
        return int(self.base.config.hidden_size)

    @property
    def vocabulary(self) -> int:
        """Rows of the token embedding; every stored token is below it."""
        return int(self.base.get_input_embeddings().num_embeddings)

    @property
    def special_ids(self) -> tuple[int, ...]:
        return tuple(self.tokenizer.all_special_ids)

    @property
    def mask_id(self) -> int:
        """The mask token; UsageError for a tokenizer that has none."""
        if self.tokenizer.mask_token_id is None:
            raise UsageError(
                f"the tokenizer of {self.source} has no mask token",
                hint="leave out the mlm stage or use a masked LM",
            )
        return int(self.tokenizer.mask_token_id)

    def form(self) -> str:
        """What a text's vector depends on besides weights and tokens, as text."""
        config = self.base.config.to_dict()
        config = {
            name: value
            for name, value in config.items()
            if name not in _NOT_IN_VECTORS and "dropout" not in name
        }
        return json.dumps([self.pooling, self.forward_bf16, config], sort_keys=True, default=str)

    def sub_batches(self, tokens: Ragged, budget: int) -> Iterator[SubBatch]:
        """Which texts run together, `budget` tokens at a time, and how they lie in rows."""
        return sub_batches(tokens.lengths(), budget, self.packing.suits)

    def hidden(self, tokens: Ragged, layout: Layout) -> tuple[Tensor, Tensor]:
        """(last hidden states N x L x D, mask bool N x L of real tokens); N, L at least 1."""
        self.work += one_pass(len(tokens), layout.text_tokens, layout.tokens, trained=torch.is_grad_enabled())
        if layout.starts is not None:
            states = self.base(**self.packing.inputs(tokens, layout)).last_hidden_state
            return unpacked(states, tokens, layout)
        ids, mask = tokens.padded(self.base.config.pad_token_id or 0)
        attention = mask.clone()
        attention[:, 0] = True  # attention kernels differ in what they make of a text without tokens
        return self.base(input_ids=ids, attention_mask=attention).last_hidden_state, mask

    def forward(self, tokens: Ragged, budget: int) -> Tensor:
        """One vector per text, N x D, in sub-batches of `budget` tokens; zeros for a text without
        tokens. A random batch nearly always holds a long text, to which all others would be padded."""
        return self._in_batches(tokens, budget, _nothing)

    def encode(self, tokens: Ragged, budget: int, *, alive: Callable[[], None] = _nothing) -> Tensor:
        """`forward` without gradients and dropout; `alive` is called before every sub-batch."""
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                if not self.forward_bf16:
                    return self._in_batches(tokens, budget, alive)
                with torch.autocast(self.base.device.type, torch.bfloat16):
                    return self._in_batches(tokens, budget, alive)
        finally:
            self.train(was_training)

    def _in_batches(self, tokens: Ragged, budget: int, alive: Callable[[], None]) -> Tensor:
        """Equal texts once, similar lengths together; the result is in the given order."""
        if not len(tokens):
            return self.base.get_input_embeddings().weight.new_zeros(0, self.width)
        kinds = distinct(tokens)
        once = tokens.select(kinds.first)
        vectors, order = [], []
        for one in self.sub_batches(once, budget):
            alive()
            vectors.append(self._pooled(once.select(one.texts), one.layout))
            order.append(one.texts)
        row = torch.cat(order).argsort()
        return torch.cat(vectors).index_select(0, row[kinds.kind])

    def _pooled(self, tokens: Ragged, layout: Layout) -> Tensor:
        """One sub-batch: N x D."""
        if tokens.values.numel() == 0:
            return self.base.get_input_embeddings().weight.new_zeros(len(tokens), self.width)
        states, mask = self.hidden(tokens, layout)
        if self.pooling == "cls":
            return states[:, 0] * mask[:, :1]
        weights = mask.to(torch.float32)
        with torch.autocast(states.device.type, enabled=False):
            total = torch.einsum("nld,nl->nd", states.to(torch.float32), weights)
        return (total / weights.sum(1, keepdim=True).clamp(min=1)).to(states.dtype)

    def checkpoint_activations(self) -> None:
        """Trade time for memory in passes with gradients from now on; UsageError for an LM that cannot."""
        self.base.config.use_cache = False  # decoders' business; transformers would warn about it
        try:
            self.base.activation_checkpointing_enable({"use_reentrant": False})
        except ValueError as error:
            raise UsageError(
                f"engine.checkpoint_activations: {self.source} cannot compute its layers again",
                hint="set it to false and lower train_nodes (joint) or batch_size instead",
            ) from error

    def masked_lm(self) -> MaskedLM:
        """This encoder with a masked-LM head on top: the source's own, or a new one if it has none."""
        return MaskedLM(self)

    def save(self, folder: str | Path) -> None:
        """Write config, weights (safetensors) and tokenizer as transformers reads them."""
        with quiet():
            self.base.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)

    def load(self, folder: str | Path) -> None:
        """Take over the weights that `save` wrote; StoreError if they do not fit."""
        with quiet():
            try:
                stored = load_base(folder, self.base.config)
                self.base.load_state_dict(stored.state_dict())
            except (OSError, ValueError, RuntimeError, SafetensorError) as error:
                raise StoreError(
                    f"{folder} holds no weights for this LM: {str(error).splitlines()[0]}",
                    hint="use the folder and the plan of one run",
                ) from error


class MaskedLM(nn.Module):
    """An encoder and the head that guesses hidden tokens. Shares the encoder's weights.

    The head runs on the masked positions alone: with a vocabulary of 30,000 it would otherwise cost
    as much as several layers.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        config = encoder.base.config
        with quiet():
            try:
                head = transformers.AutoModelForMaskedLM.from_pretrained(
                    encoder.source, config=config, dtype=torch.float32
                )
            except (OSError, ValueError) as error:
                raise UsageError(
                    f"{encoder.source} has no masked-LM form: {str(error).splitlines()[0]}",
                    hint="leave out the mlm stage or use a masked LM",
                ) from error
        setattr(head, head.base_model_prefix, encoder.base)
        head.tie_weights()
        setattr(head, head.base_model_prefix, _Given())
        self.encoder = encoder
        self.head = head.to(encoder.base.device).train(encoder.training)

    def logits(self, tokens: Ragged, chosen: Tensor, layout: Layout) -> Tensor:
        """K x V for the tokens of a sub-batch where `chosen` (bool T) is true, in their order."""
        states, mask = self.encoder.hidden(tokens, layout)
        rows = states[mask][chosen]
        return self.head(inputs_embeds=rows[None]).logits[0]

    def forward(self, tokens: Ragged, labels: Tensor, budget: int) -> tuple[Tensor, Tensor]:
        """(sum of the cross entropies, number of labels): float and int64 scalars.

        `tokens` have their holes already; labels int64 T, UNMASKED where there is no loss. Runs in
        sub-batches of `budget` tokens.
        """
        losses, wanted = [], Ragged(labels, tokens.offsets)
        for one in self.encoder.sub_batches(tokens, budget):
            some, given = tokens.select(one.texts), wanted.select(one.texts).values
            chosen = given != UNMASKED
            if given.numel():
                logits = self.logits(some, chosen, one.layout).float()
                losses.append(nn.functional.cross_entropy(logits, given[chosen], reduction="sum"))
        if not losses:
            losses = [self.encoder.base.get_input_embeddings().weight.sum() * 0.0]
        return torch.stack(losses).sum(), (labels != UNMASKED).sum()


class TextEncoders(nn.Module):
    """The text encoders of all node types with text: one shared, or one each."""

    def __init__(self, encoders: Sequence[TextEncoder], node_types: Sequence[str]) -> None:
        """One encoder for all types, or as many as there are types, in their order."""
        super().__init__()
        self.node_types = tuple(node_types)
        self.shared = len(encoders) == 1  # one type alone counts as sharing with itself
        names = ["shared"] if self.shared else [module_key(name) for name in node_types]
        self.encoders = nn.ModuleDict(dict(zip(names, encoders, strict=True)))

    @classmethod
    def from_plan(cls, plan: ModelPlan, node_types: Sequence[str]) -> TextEncoders:
        """`node_types`: those with text. A graph without any loads no LM."""
        count = min(1, len(node_types)) if plan.lm_shared else len(node_types)
        return cls([TextEncoder.from_plan(plan) for _ in range(count)], node_types)

    def of(self, node_type: str) -> TextEncoder:
        if node_type not in self.node_types:
            raise UsageError(f"node type {node_type!r} has no text; those with text: {self.node_types}")
        encoder = self.encoders["shared" if self.shared else module_key(node_type)]
        assert isinstance(encoder, TextEncoder)
        return encoder

    @property
    def has_dropout(self) -> bool:
        """Whether a pass with gradients differs from one without."""
        configs = [encoder.base.config for encoder in self.distinct()]
        return any("dropout" in name and value for c in configs for name, value in c.to_dict().items())

    def distinct(self) -> Iterator[TextEncoder]:
        """Every encoder once."""
        for encoder in self.encoders.values():
            assert isinstance(encoder, TextEncoder)
            yield encoder


class _Given(nn.Module):
    """Stands where a masked LM keeps its base model and hands on states computed before."""

    def forward(self, *_: object, inputs_embeds: Tensor, **__: object) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=inputs_embeds)
