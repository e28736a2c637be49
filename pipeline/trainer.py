"""One trainer process's view of a run: graph, model, tables, record, and how they are saved.

Owns what a checkpoint holds: every weight once (rank 0), this rank's optimiser state, and the rows
of learnable embeddings with their Adam state, a file per part, so that another trainer can take a
part over. Never decides when to save.
"""

from __future__ import annotations

import hashlib
import resource
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from partition.errors import StoreError
from pipeline.batch import Ragged
from pipeline.cache import EmbeddingCache
from pipeline.checkpoint import Checkpoint, CheckpointStore
from pipeline.config import TrainPlan
from pipeline.engine import Engine
from pipeline.events import RunRecord
from pipeline.forward_trial import TEXTS, Trial, forward_trial
from pipeline.graph import Graph
from pipeline.hashing import hash_ids, key_of
from pipeline.infer import Inference
from pipeline.inputs import Inputs
from pipeline.kept_texts import runs_to_search
from pipeline.known_labels import KnownLabels
from pipeline.lm import TextEncoder
from pipeline.model import LMGNN, learnable_types, text_types
from pipeline.room import copied_share, text_share
from pipeline.rowids import save_row_ids
from pipeline.sharded import Embedding, SparseOptimizer, Table
from pipeline.statefiles import load_optimizer, load_tensors, save_optimizer, save_tensors
from pipeline.texttable import TextTable

_WEIGHTS = "model.safetensors"
_OPTIMIZER = "optimizer.pt"


@dataclass
class Trainer:
    """Everything the stages work with. `parts` are the parts whose targets this trainer takes."""

    plan: TrainPlan
    run: Path
    graph: Graph
    model: LMGNN
    device: torch.device
    rank: int
    world: int
    parts: Sequence[int]
    record: RunRecord
    stop: Any
    """Callable: whether this process was asked to save and leave."""
    texts: dict[str, TextTable] = field(init=False)
    embeddings: dict[str, Embedding] = field(init=False)
    sparse: SparseOptimizer | None = field(init=False)
    inputs: Inputs = field(init=False)
    inference: Inference = field(init=False)
    cache: EmbeddingCache | None = field(init=False, default=None)
    """Of the stage that is running, if it has one."""
    _lm_version: str = field(init=False, default="")
    _known: dict[str, KnownLabels] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        manifest, hidden = self.graph.manifest, self.plan.model.hidden
        # Tables and embeddings are made by all trainers together, in the same order.
        widths = {t: self.model.text.of(t).width for t in text_types(manifest)}
        share = text_share(self.plan, manifest, widths)
        copied = copied_share(self.plan, manifest, widths)
        self.texts = {
            t: TextTable(self.graph, t, width, share=share, copied=copied) for t, width in widths.items()
        }
        self.embeddings = {
            t: self.graph.embedding("learnable", t, hidden)
            for t in learnable_types(self.plan.model, manifest)
        }
        first_local = {t: self.graph.first_local(t) for t in self.embeddings}
        self.sparse = SparseOptimizer(self.embeddings, first_local) if self.embeddings else None
        self.inputs = Inputs(self.plan.model, self.graph, self.texts, self.embeddings, self.device)
        self.inference = Inference(
            self.graph,
            self.model,
            self.inputs,
            self.texts,
            self.parts,
            self.device,
            runs=runs_to_search(self.plan, self.run),
            alive=lambda: self.record.heartbeat("evaluate"),
        )
        self.checkpoints = self._store(self.run / "checkpoints", self.plan.engine.checkpoints_kept)
        for node_type, embedding in self.embeddings.items():
            for part in self.parts:
                ids = torch.arange(*manifest.part_range(node_type, part))
                if len(ids):
                    embedding.table.write(int(ids[0]), normal_rows(self.plan.seed, node_type, ids, hidden))
        torch.distributed.barrier()

    @property
    def lm_version(self) -> str:
        """A hash of all that a text's embedding depends on but its tokens: the LM's weights, its architecture
        and how texts run. Stages, and runs, that share an LM share stored text embeddings too. That of rank 0
        holds for all, so that all take the same branch. A collective call after a change."""
        if not self._lm_version:
            self._lm_version = self.gather(self._lm_hash() if self.rank == 0 else "")[0]
        return self._lm_version

    def _lm_hash(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for weight in self.model.text.state_dict().values():
            digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        for encoder in self.model.text.distinct():
            digest.update(encoder.form().encode())
        return digest.hexdigest()

    def lm_changed(self) -> None:
        """To be called after every change of the LM's weights."""
        self._lm_version = ""

    @property
    def has_room(self) -> bool:
        """Whether the embeddings of all texts can be stored."""
        return all(table.slots.complete for table in self.texts.values())

    def known_labels(self, task: str) -> KnownLabels | None:
        """What the task's training targets tell of their neighbours, if it asks for it. A collective
        call the first time."""
        plan = self.plan.tasks[task]
        if not plan.known_labels:
            return None
        if task not in self._known:
            parts_of = self.gather(list(self.parts))
            self._known[task] = KnownLabels(self.graph, task, plan, self.parts, parts_of)
        return self._known[task]

    def choose_forward(self, budget: int) -> None:
        """Settle how texts without gradients run, `budget` tokens at a time, as the plan asks: rank 0 tries
        it with each LM, on texts of its own, and all do as it says. Called by all trainers together."""
        if self.plan.engine.forward_precision == "same":
            return
        self.record.heartbeat("trial")
        found = [self._forward_trial(e, budget) for e in self.model.text.distinct()] if self.rank == 0 else []
        for encoder, trial in zip(self.model.text.distinct(), self.gather(found)[0], strict=True):
            encoder.forward_bf16 = trial.bf16
            self.record.event("forward_trial", **asdict(trial), bf16=trial.bf16)
        self.lm_changed()

    def _forward_trial(self, encoder: TextEncoder, budget: int) -> Trial:
        name = next(t for t in self.texts if self.model.text.of(t) is encoder)
        ranges = [self.graph.manifest.part_range(name, part) for part in self.parts]
        ids = torch.cat([torch.arange(*ends) for ends in ranges])[:TEXTS]
        tokens = self.graph.tokens(name, ids)
        on_device = Ragged(tokens.values.to(self.device), tokens.offsets.to(self.device))
        return forward_trial(encoder, on_device, budget)

    def stage_store(self, stage: str) -> CheckpointStore:
        """Where the best model of a stage is kept."""
        return self._store(self.run / "stages" / stage, 1)

    def _store(self, folder: Path, keep: int) -> CheckpointStore:
        return CheckpointStore(
            folder, keep=keep, rank=self.rank, gather=self.gather, barrier=torch.distributed.barrier
        )

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, on every rank."""
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values

    def reset_sparse(self) -> None:
        """Forget Adam's state of the learnable rows, at the start of a stage."""
        for name, table in self.sparse.tables().items() if self.sparse else ():
            for first, last in self._own_ranges(name):
                width = table.read(torch.tensor([first])).shape[1:]
                table.write(first, torch.zeros(last - first, *width))
        torch.distributed.barrier()

    def write(self, folder: Path, engine: Engine | None) -> None:
        """This rank's files of a checkpoint; without an engine only what inference needs."""
        if self.rank == 0:
            save_tensors(folder / _WEIGHTS, dict(self.model.weights()))
        if engine is not None and (self.rank == 0 or engine.zero):
            save_optimizer(folder / _OPTIMIZER, engine.state())
        tables = self._tables(state=engine is not None)
        for part in self.parts if tables else ():
            rows = {
                name: table.read(torch.arange(*self._part_range(name, part)))
                for name, table in tables.items()
            }
            save_tensors(folder / f"part-{part}.safetensors", rows)
        for part in self.parts if engine is None else ():
            for name in self.embeddings:  # rows of a model outlive the partition's numbering
                save_row_ids(folder, part, name, self.graph.own_ids(name, part))

    def load(self, saved: Checkpoint, engine: Engine | None, *, anew: Sequence[str] = ()) -> None:
        """Take from a checkpoint of this partition the weights and rows whose shape fits; `anew` as in
        `load_weights`."""
        self.load_weights(saved.path, anew=anew)
        tables = self._tables(state=engine is not None)
        for part in self.parts if tables else ():
            found = sorted(saved.path.glob(f"rank-*/part-{part}.safetensors"))
            if not found:
                raise StoreError(
                    f"{saved.path} holds no rows of part {part}", hint="it belongs to another partition"
                )
            for name, rows in load_tensors(found[0]).items():
                if name in tables and len(rows) and rows.shape[1:] == tables[name].row_shape:
                    tables[name].write(self._part_range(name, part)[0], rows)
        if engine is not None:
            rank = self.rank if engine.zero else 0
            engine.load_state(load_optimizer(saved.rank_folder(rank) / _OPTIMIZER))
        torch.distributed.barrier()

    def load_weights(self, path: Path, *, anew: Sequence[str] = ()) -> None:
        """Take from a checkpoint of any run the weights whose name and shape are known here, but for those
        that the classes of the tasks `anew` shape."""
        saved = load_tensors(path / "rank-0" / _WEIGHTS)
        left = tuple(prefix for task in anew for prefix in self.model.shaped_by_classes(task))
        with torch.no_grad():
            for name, weight in self.model.weights():
                if name in saved and saved[name].shape == weight.shape and not name.startswith(left):
                    weight.copy_(saved[name])
        self.lm_changed()

    def _tables(self, *, state: bool) -> dict[str, Table]:
        tables = {name: embedding.table for name, embedding in self.embeddings.items()}
        if state and self.sparse:
            tables |= self.sparse.tables()
        if state and self.cache:
            kept = [t for t in self.texts if t not in self.left_out_of_checkpoints]
            tables |= {f"{t}|text": self.texts[t].records for t in kept}
        return tables

    @property
    def left_out_of_checkpoints(self) -> list[str]:
        """Text types whose stored embeddings are too many for a checkpoint."""
        limit = self.plan.cache.checkpoint_gib * (1 << 30)
        return [t for t, text in self.texts.items() if text.bytes > limit]

    def _part_range(self, table: str, part: int) -> tuple[int, int]:
        node_type, _, rows = table.partition("|")
        if rows == "text":
            return self.texts[node_type].slots.part_range(part)
        return self.graph.manifest.part_range(node_type, part)

    def _own_ranges(self, table: str) -> list[tuple[int, int]]:
        ranges = [self._part_range(table, part) for part in self.parts]
        return [(first, last) for first, last in ranges if first < last]

    def peak_bytes(self) -> int:
        """Most memory this process has held."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def state(self, progress: Mapping[str, Any]) -> dict[str, Any]:
        """What goes beside the tensors: enough to refuse a resume that could not continue, and to know a head
        of other classes."""
        return {
            "plan": self.plan.fingerprint(),
            "graph": self.graph.manifest.schema_name,
            "partition": self.graph.manifest.id,
            "numbering": self.graph.manifest.numbering,
            "world": self.world,
            "classes": self.model.classes,
            "progress": dict(progress),
        }


def normal_rows(seed: int, node_type: str, ids: Tensor, width: int) -> Tensor:
    """float32 N x width, standard normal, a function of the ids alone."""
    draws = hash_ids(key_of(seed, "learnable", node_type), ids[:, None], torch.arange(width)[None, :])
    uniform = ((draws >> 11) & 0x1FFFFFFFFFFFFF).to(torch.float64) / (1 << 53)
    return torch.special.ndtri(uniform.clamp(1e-12, 1 - 1e-12)).to(torch.float32)
