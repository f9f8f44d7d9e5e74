"""A model on this machine that makes vectors: `--embed-provider sentence-transformers --embedder PATH_OR_HUB_ID`.

Texts that wait at the same time make one batch. A request's identity holds the weights' fingerprint and the type of the numbers,
and not the device.
"""

import asyncio
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autointerp.errors import UserError
from autointerp.llm.bundles import MOST_TEXTS
from autointerp.llm.embeddings import EmbeddingLists, embedding_payload
from autointerp.llm.local.fingerprint import Weights, identify
from autointerp.llm.provider import CallFailed, Capabilities, Provider, ProviderOptions, Reply, providers
from autointerp.llm.providers.transformers import read_place
from autointerp.llm.types import Request

if TYPE_CHECKING:
    from autointerp.llm.local.embedder import Embedder

_NAME = "sentence-transformers"


class SentenceTransformersProvider:
    """Opens the model named in the first payload. Needs no key and no address; answers nothing but vectors."""

    name = _NAME

    def __init__(self, options: ProviderOptions) -> None:
        if options.base_urls:
            raise UserError(
                f"--embed-provider {_NAME} runs a model on this machine; expected no base URL: leave it out"
            )
        is_there = importlib.util.find_spec("sentence_transformers") is not None
        self.capabilities = Capabilities(embeddings=is_there, local=True)
        self.remedies = {} if is_there else {"embeddings": "pip install 'autointerp[embed]', which brings it"}
        self._place = read_place(options.argument, f"--embed-provider {_NAME}")
        self._most = self._place.batch or MOST_TEXTS
        self._model = options.model
        self._state: Path | None = options.folder
        self._weights: dict[str, Weights] = {}
        self._embedder: Embedder | None = None
        self._lists = EmbeddingLists(self._embed, most=self._most, at_once=1)

    def payload(self, model: str, request: Request) -> dict[str, Any]:
        if not request.embed:
            raise UserError(
                f"the provider {_NAME} makes vectors and writes no text; name it with --embed-provider, not with --provider"
            )
        self._model = self._model or model
        weights = self._identified(model).fingerprint
        return embedding_payload(model, request) | {"weights": weights, "dtype": self._place.dtype}

    def connect(self) -> None:
        """Load the model. Raises UserError if it cannot be loaded."""
        self._connected()

    async def send(self, request: Request, payload: Mapping[str, Any]) -> Reply:
        """Wait for a place in a batch and for the vector. May be cancelled at any time."""
        if payload["model"] != self._model:
            raise UserError(
                f"the model {self._model} is loaded, and {payload['model']} is asked for; open another provider"
            )
        return await self._lists.ask(payload)

    async def close(self) -> None:
        """Let the model go. What still waits is dropped."""
        await self._lists.close()
        self._embedder = None

    async def _embed(self, payload: Mapping[str, Any], texts: Sequence[str]) -> list[Reply | CallFailed]:
        return await asyncio.to_thread(self._connected().embed, texts, payload.get("dimensions"))

    def _identified(self, model: str) -> Weights:
        if model not in self._weights:
            from autointerp.llm.local.embedder import folder_fingerprint

            self._weights[model] = identify(model, self._state, folder_fingerprint)
        return self._weights[model]

    def _connected(self) -> "Embedder":
        if self._embedder is not None:
            return self._embedder
        if self._model is None:
            raise UserError(f"--embed-provider {_NAME} needs a model; name its folder or hub id with --embedder")
        from autointerp.llm.local.embedder import Embedder

        weights = self._identified(self._model)
        served = f"{self._model}@{weights.fingerprint}"
        self._embedder = Embedder(weights, self._place.device, self._place.dtype, served)
        return self._embedder


@providers.register(_NAME)
def sentence_transformers(options: ProviderOptions) -> Provider:
    """Vectors from a model on this machine, opened with sentence-transformers."""
    return SentenceTransformersProvider(options)
