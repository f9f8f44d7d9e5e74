"""Vectors of texts: how they are asked for, how an answer carries one, and OpenAI's embeddings endpoint.

A request holds one text, so that a text's vector is known by the text and its model, whatever it is compared with: it is
journalled once and paid for once. Providers put texts that are asked for at the same time into one message; see `bundles`.

An answer's text is the vector: little-endian float32 in base64, the form in which OpenAI sends it.
"""

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autointerp.llm.bundles import MOST_TEXTS, Bundles
from autointerp.llm.chat import own_host
from autointerp.llm.identity import canonical_json
from autointerp.llm.provider import CallFailed, Reply
from autointerp.llm.types import FailureKind, Message, Request, Usage, prompt_text
from autointerp.llm.wire import count

Vector = NDArray[np.float32]
PATH = "/embeddings"


def vector_request(text: str, *, purpose: str, dimensions: int | None = None, sample: int = 0) -> Request:
    """Asks for the vector of `text`, cut to its first `dimensions` where the model was made for that."""
    return Request(
        [Message("user", text)], max_tokens=0, embed=True, dimensions=dimensions, sample=sample, purpose=purpose,
        check=_is_vector,
    )  # fmt: skip


def packed(vector: Sequence[float] | NDArray[Any]) -> str:
    """A vector as an answer's text. What float32 cannot hold becomes infinite; `flaw` finds it."""
    with np.errstate(over="ignore"):
        return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()


def unpacked(text: str) -> Vector:
    """The vector [d] in an answer's text. Raises ValueError with the reason if it holds none that can be used."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("the answer is no vector: not base64") from None
    if not raw or len(raw) % 4:
        raise ValueError(f"the answer is no vector: {len(raw)} bytes are no float32 numbers")
    vector = np.frombuffer(raw, dtype="<f4")
    if not np.isfinite(vector).all():
        wrong = int((~np.isfinite(vector)).sum())
        raise ValueError(f"{wrong} of the vector's {len(vector)} numbers are not finite")
    return vector.astype(np.float32)


def _is_vector(text: str) -> bool:
    try:
        unpacked(text)
    except ValueError:
        return False
    return True


def vector_reply(text: str, model: str, usage: Usage, pause: float | None = None) -> Reply | CallFailed:
    """A reply that carries the packed vector `text`, or why it cannot be used. Asking again would bring the same."""
    try:
        unpacked(text)
    except ValueError as error:
        return CallFailed(FailureKind.MALFORMED, str(error))
    return Reply(text, "stop", model, usage, pause=pause)


def embedding_payload(model: str, request: Request) -> dict[str, Any]:
    """The request as the journal identifies it; a server takes it as it is, too."""
    payload: dict[str, Any] = {"model": model, "input": prompt_text(request)}
    return payload | ({} if request.dimensions is None else {"dimensions": request.dimensions})


def wire_body(payload: Mapping[str, Any], texts: Sequence[str], address: str) -> dict[str, Any]:
    """What is sent for several texts whose payloads differ in nothing else. OpenAI packs vectors; few other servers do."""
    return {**payload, "input": list(texts), "encoding_format": "base64" if own_host(address) else "float"}


def read_embeddings(
    body: Mapping[str, Any], texts: Sequence[str], pause: float | None = None
) -> list[Reply | CallFailed]:
    """What came for each of `texts`. Raises CallFailed (retryable) if the body is no list of embeddings.

    The server counts tokens of all together; each text gets its share by length.
    """
    found = body.get("data")
    if not isinstance(found, list):
        raise CallFailed(FailureKind.MALFORMED, "the server's reply holds no list of embeddings", retryable=True)
    vectors: list[Any] = [None] * len(texts)
    for place, item in enumerate(found):
        at = item.get("index", place) if isinstance(item, dict) else None
        if type(at) is not int or not 0 <= at < len(texts) or vectors[at] is not None:
            raise CallFailed(FailureKind.MALFORMED, "the server's embeddings cannot be told apart", retryable=True)
        vectors[at] = item.get("embedding")
    model = str(body.get("model") or "")
    usages = _shares(count(body.get("usage"), "prompt_tokens"), [len(text) for text in texts])
    return [_outcome(vector, model, usage, pause) for vector, usage in zip(vectors, usages, strict=True)]


def read_embedding(body: Mapping[str, Any]) -> Reply | CallFailed:
    """The one embedding in a body."""
    try:
        (outcome,) = read_embeddings(body, ["-"])
    except CallFailed as failure:
        return failure
    return outcome


class EmbeddingLists:
    """Payloads that differ in their `input` only go together; `send` takes what they have in common, and the texts.

    `most` and `at_once` are those of `Bundles`.
    """

    def __init__(
        self,
        send: Callable[[Mapping[str, Any], Sequence[str]], Awaitable[Sequence[Reply | CallFailed]]],
        *,
        most: int = MOST_TEXTS,
        at_once: int | None = None,
    ) -> None:
        self._send, self._most, self._at_once = send, most, at_once
        self._bundles: dict[str, Bundles] = {}

    async def ask(self, payload: Mapping[str, Any]) -> Reply:
        """The reply for one payload. Raises CallFailed or UserError."""
        common = {name: value for name, value in payload.items() if name != "input"}
        known = canonical_json(common)
        if known not in self._bundles:
            send = partial(self._send, common)
            self._bundles[known] = Bundles(send, most=self._most, at_once=self._at_once)
        return await self._bundles[known].ask(payload["input"])

    async def close(self) -> None:
        """Give up what is under way."""
        for bundles in self._bundles.values():
            await bundles.close()


def _outcome(vector: Any, model: str, usage: Usage, pause: float | None) -> Reply | CallFailed:
    if vector is None:
        return CallFailed(FailureKind.MALFORMED, "the server left out this text's embedding", retryable=True)
    try:
        text = vector if isinstance(vector, str) else packed([np.nan if x is None else float(x) for x in vector])
    except (TypeError, ValueError):
        return CallFailed(FailureKind.MALFORMED, "the embedding is no list of numbers", retryable=True)
    return vector_reply(text, model, usage, pause)


def _shares(total: int, lengths: Sequence[int]) -> list[Usage]:
    """`total` tokens shared out by length, in whole tokens that add up to it."""
    ends = np.cumsum(lengths) * total // max(1, sum(lengths))
    return [Usage(input=int(share)) for share in np.diff(ends, prepend=0)]
