"""A language model on this machine, by transformers: `--provider transformers --label-model PATH_OR_HUB_ID`.

Requests that wait at the same time are answered in one batch, prompts that begin alike share the keys and values of their
beginning, and log-probabilities are exact. A request's identity holds the weights' fingerprint (`local/fingerprint.py`) and the
type of the numbers, and not the device: the same model gives the same answers elsewhere, up to rounding.
"""

import asyncio
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autointerp.errors import UserError
from autointerp.hashing import stable_hash
from autointerp.llm.identity import payload_hash
from autointerp.llm.local.fingerprint import Weights, identify
from autointerp.llm.local.jobs import Job
from autointerp.llm.provider import Capabilities, Provider, ProviderOptions, Reply, providers
from autointerp.llm.types import Request

if TYPE_CHECKING:
    from autointerp.llm.local.worker import Worker

_DTYPES = ("float32", "bfloat16", "float16")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
_BATCH = re.compile(r"batch=([1-9]\d{0,4})")
_REMEDY = "pip install 'autointerp[local]', which brings llguidance, or choose another provider"


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how a model runs. `batch`: the most requests at once, None for as many as are sent at a time."""

    device: str = "auto"
    dtype: str = "auto"
    batch: int | None = None


def read_place(argument: str | None, option: str = "--provider transformers") -> Place:
    """`cuda,bfloat16,batch=8`, each part optional. Raises UserError."""
    device, dtype, batch = "auto", "auto", None
    for part in (argument or "").split(","):
        found = _BATCH.fullmatch(part)
        if part in _DTYPES:
            dtype = part
        elif found is not None:
            batch = int(found[1])
        elif _DEVICE.fullmatch(part):
            device = part
        elif part or argument == ",":
            raise UserError(
                f"{option}:{argument}: {part!r} is not known; expected a device (cpu, cuda, cuda:1, mps), a "
                f"type ({', '.join(_DTYPES)}) or batch=N, with commas between them"
            )
    return Place(device, dtype, batch)


class TransformersProvider:
    """Opens the model named in the options, or in the first payload. Needs no key and no address."""

    name = "transformers"

    def __init__(self, options: ProviderOptions) -> None:
        if options.base_urls:
            raise UserError(
                "--provider transformers runs a model on this machine; expected no --base-url: leave it out"
            )
        self.remedies = {"json_schema": _REMEDY}
        self.capabilities = Capabilities(
            temperature=True, seed=True, logprobs=True, prompt_logprobs=True, exact_logprobs=True, prompt_caching=True,
            local=True, json_schema=importlib.util.find_spec("llguidance") is not None,
        )  # fmt: skip
        self._place = read_place(options.argument)
        self._most = self._place.batch or options.concurrency
        self._model = options.model
        self._state: Path | None = options.folder
        self._weights: dict[str, Weights] = {}
        self._worker: Worker | None = None

    def payload(self, model: str, request: Request) -> dict[str, Any]:
        self._model = self._model or model
        asked: dict[str, Any] = {
            "model": model,
            "weights": self._identified(model).fingerprint,
            "dtype": self._place.dtype,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            "logprobs": request.logprobs,
        }
        if request.among:
            asked["among"] = list(request.among)
        if request.continuation is not None:
            slots = {} if request.slots is None else {"slots": list(request.slots)}
            return asked | {"continuation": request.continuation} | slots
        return asked | {
            "max_tokens": request.max_tokens,
            "temperature": request.temperature or 0.0,
            "json_schema": request.json_schema,
        }

    def connect(self) -> None:
        """Load the model, which may take minutes. Raises UserError if it cannot be loaded."""
        self._connected()

    async def send(self, request: Request, payload: Mapping[str, Any]) -> Reply:
        """Wait for a place in a batch and for the answer. May be cancelled at any time."""
        worker = self._connected()
        if payload["model"] != self._model:
            raise UserError(
                f"the model {self._model} is loaded, and {payload['model']} is asked for; open another provider"
            )
        loop = asyncio.get_running_loop()
        job = Job(request, stable_hash(payload_hash(payload), request.sample), loop, loop.create_future())
        worker.submit(job)
        try:
            return await job.future
        except asyncio.CancelledError:
            worker.cancel(job)
            raise

    async def close(self) -> None:
        """End the thread and let the model go. What still waits is dropped."""
        if self._worker is not None:
            worker, self._worker = self._worker, None
            await asyncio.to_thread(worker.close)

    def _identified(self, model: str) -> Weights:
        if model not in self._weights:
            self._weights[model] = identify(model, self._state)
        return self._weights[model]

    def _connected(self) -> "Worker":
        if self._worker is not None:
            return self._worker
        if self._model is None:
            raise UserError("--provider transformers needs a model; name its folder or hub id with --label-model")
        from autointerp.llm.local.engine import Engine
        from autointerp.llm.local.loaded import load
        from autointerp.llm.local.worker import Worker

        weights = self._identified(self._model)
        loaded = load(weights.source, weights.revision, self._place.device, self._place.dtype)
        self._worker = Worker(Engine(loaded, f"{self._model}@{weights.fingerprint}", self._most))
        return self._worker


@providers.register("transformers")
def transformers(options: ProviderOptions) -> Provider:
    """A model on this machine, opened with transformers."""
    return TransformersProvider(options)
