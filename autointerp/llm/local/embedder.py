"""A model that makes vectors, by sentence-transformers (the extra `embed`): what it pools and how, its own files say.

Only safetensors are read, and no code from the model's folder is run.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autointerp.errors import DataError, UserError
from autointerp.llm.embeddings import packed, vector_reply
from autointerp.llm.local.fingerprint import Weights, fingerprint
from autointerp.llm.provider import CallFailed, Reply
from autointerp.llm.types import FailureKind, Usage

_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_MODULES = "modules.json"


def folder_fingerprint(folder: Path) -> str:
    """As `fingerprint.fingerprint`, with the folders of the model's modules (pooling, projections)."""
    names = dict.fromkeys(["", *(name for name in _modules(folder) if (folder / name).is_dir())])
    parts = [f"{name}:{fingerprint(folder / name)}" for name in names]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


class Embedder:
    """The loaded model; `served` is the name that replies report. Calls compute and block."""

    def __init__(self, weights: Weights, device: str, dtype: str, served: str) -> None:
        """Raises UserError if it cannot be loaded."""
        self._served = served
        self._model = _load(weights, device, dtype)
        limit = self._model.max_seq_length
        self._limit = int(limit) if limit is not None and limit < 10**9 else None

    def embed(self, texts: Sequence[str], dimensions: int | None) -> list[Reply | CallFailed]:
        """A packed vector for each text, or why there is none. Raises CallFailed if the model fails on all of them."""
        outcomes: list[Reply | CallFailed | None] = [None] * len(texts)
        lengths = self._lengths(texts)
        for index, length in enumerate(lengths):
            if self._limit is not None and length > self._limit:
                reason = f"a text of {length:,} tokens does not fit into the embedder's {self._limit:,}, and is not cut"
                outcomes[index] = CallFailed(FailureKind.REJECTED, reason)
        left = [index for index, outcome in enumerate(outcomes) if outcome is None]
        vectors = self._encode([texts[index] for index in left], dimensions) if left else []
        for index, vector in zip(left, vectors, strict=True):
            outcomes[index] = vector_reply(packed(vector), self._served, Usage(input=lengths[index]))
        return [outcome for outcome in outcomes if outcome is not None]

    def _encode(self, texts: list[str], dimensions: int | None) -> Any:
        try:  # prompt "": the model's own default is not put before what is asked for
            return self._model.encode(
                texts, prompt="", batch_size=len(texts), truncate_dim=dimensions, show_progress_bar=False
            )
        except (RuntimeError, MemoryError) as error:  # memory: fewer texts may fit
            first_line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise CallFailed(FailureKind.SERVER_ERROR, f"the embedder failed: {first_line}") from None

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, uncut; 0 where the model has no such tokens."""
        tokenizer = self._model.tokenizer
        if self._limit is None or not callable(tokenizer):
            return [0] * len(texts)
        return [len(ids) for ids in tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]]


def _load(weights: Weights, device: str, dtype: str) -> Any:
    from safetensors import SafetensorError
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()  # loading a model is not one of our stages
    folder = _folder(weights)
    _check(folder)
    options = {"use_safetensors": True, "dtype": dtype}
    place = None if device == "auto" else device
    try:
        return SentenceTransformer(
            str(folder), device=place, trust_remote_code=False, local_files_only=True, model_kwargs=options
        ).eval()
    except (OSError, ValueError, ImportError, RuntimeError, KeyError, AttributeError, SafetensorError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise UserError(f"{weights.source}: cannot be loaded by sentence-transformers: {first_line}") from error


def _folder(weights: Weights) -> Path:
    """The model's folder; of a hub id the snapshot, fetched without code and without pickled weights."""
    if weights.revision is None:
        return Path(weights.source)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(weights.source, revision=weights.revision, allow_patterns=_FILES))
    except Exception as error:  # whatever the client's transport raises
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"{weights.source}: the Hugging Face hub does not give it ({first_line}); download it where there is a network and "
            "give its folder"
        ) from error


def _check(folder: Path) -> None:
    """Raise UserError unless the folder is a sentence-transformers model whose weights are all safetensors."""
    if not (folder / _MODULES).is_file():
        raise UserError(
            f"{folder}: has no {_MODULES}, which says how its vectors are pooled; expected a model of sentence-transformers; "
            "name one that makes vectors of texts"
        )
    for name in _modules(folder):
        part = folder / name
        if (part / "pytorch_model.bin").exists() and not any(part.glob("*.safetensors")):
            raise UserError(
                f"{part}: has no safetensors weights, and other files are not read: convert it to safetensors"
            )


def _modules(folder: Path) -> list[str]:
    path = folder / _MODULES
    if not path.is_file():
        return []
    try:
        names = [module["path"] for module in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no list of modules ({error!r}); download the model again") from error
    if any(not isinstance(name, str) or name.startswith("/") or ".." in Path(name).parts for name in names):
        raise DataError(f"{path}: names a module outside the folder; download the model again")
    return names
