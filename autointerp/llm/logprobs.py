"""Log-probabilities in chat completions: of an answer's tokens, and (vLLM's extension) of given ones.

vLLM takes `prompt_logprobs` beside the messages; with `continue_final_message` the last message is the assistant's and
stays open, so that the end of the prompt is the text whose probability is asked for. Its reply has one entry a position
of the prompt, null for the first: a map from token ids to log-probability, rank and text, of the likeliest tokens and
of the one that is there. (vLLM, `vllm/entrypoints/openai/chat_completion/protocol.py`.)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from autointerp.llm.provider import CallFailed
from autointerp.llm.types import FailureKind, TokenLogprobs

MOST_ALTERNATIVES = 20  # of chat completions
_ROUNDING = 0.1  # nats above certainty that a server's number format may bring; more is no probability


def answer_logprobs(choice: Mapping[str, Any]) -> tuple[TokenLogprobs, ...]:
    """Those of the tokens of an answer that was asked for with `logprobs`.

    Raises CallFailed (REJECTED) if the server left them out, (MALFORMED) if they can't be read.
    """
    found = choice.get("logprobs")
    content = found.get("content") if isinstance(found, dict) else None
    if content is None:
        raise CallFailed(
            FailureKind.REJECTED,
            "the server gives no log-probabilities: its answer came without them",
            lacks="logprobs",
        )
    try:
        return tuple(
            TokenLogprobs(
                str(token["token"]),
                _finite(token["logprob"]),
                _likeliest((str(other["token"]), _finite(other["logprob"])) for other in token["top_logprobs"] or ()),
            )
            for token in content
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise _unreadable(error) from None


def continuation_logprobs(body: Mapping[str, Any], continuation: str, alternatives: int) -> tuple[TokenLogprobs, ...]:
    """Those of the tokens of `continuation`, with which the prompt ended.

    Raises CallFailed: REJECTED if the server gives none; MALFORMED if the last tokens are not exactly the continuation,
    because the chat template changed it or a token reaches over its beginning.
    """
    positions = body.get("prompt_logprobs")
    if positions is None:
        raise CallFailed(
            FailureKind.REJECTED, "the server gives no log-probabilities of the prompt (vLLM does, most others do not)",
            lacks="prompt_logprobs",
        )  # fmt: skip
    try:
        return _last_tokens(positions, body.get("prompt_token_ids"), continuation, alternatives)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, StopIteration) as error:
        raise _unreadable(error) from None


def at_slots(tokens: Sequence[TokenLogprobs], slots: Sequence[int] | None) -> tuple[TokenLogprobs, ...]:
    """The tokens of a continuation, with alternatives only where one begins at a slot; see `Request`."""
    if slots is None:
        return tuple(tokens)
    wanted, at, found = set(slots), 0, []
    for token in tokens:
        found.append(token if at in wanted and token.token else replace(token, top={}))
        at += len(token.token)
    return tuple(found)


def _last_tokens(
    positions: Sequence[Mapping[str, Any] | None], ids: Sequence[int] | None, continuation: str, alternatives: int
) -> tuple[TokenLogprobs, ...]:
    if ids is not None and len(ids) != len(positions):
        raise ValueError(f"{len(positions)} positions for {len(ids)} tokens")
    text = ""
    tokens: list[TokenLogprobs] = []
    for index in range(len(positions) - 1, 0, -1):
        place = positions[index] or {}
        token = _token(place, place[str(ids[index])] if ids is not None else next(iter(place.values())), alternatives)
        # A token without text is the beginning of a character that needs several: it belongs with what follows it.
        if len(text) >= len(continuation) and token.token:
            break
        text = token.token + text
        tokens.append(token)
    if text != continuation:
        reason = (
            "the server's prompt does not end with the tokens of the continuation: its chat template changed the text"
        )
        if text.endswith(continuation):
            reason = "the continuation does not begin where a token of the server's prompt begins"
        raise CallFailed(FailureKind.MALFORMED, f"{reason} ({text[-40:]!r}, expected {continuation[-40:]!r})")
    return tuple(reversed(tokens))


def _token(place: Mapping[str, Any], there: Mapping[str, Any], alternatives: int) -> TokenLogprobs:
    top = _likeliest(
        (str(other["decoded_token"]), _finite(other["logprob"]))
        for other in place.values()
        if other["rank"] <= alternatives  # the token that is there is listed even if it is none of the likeliest
    )
    return TokenLogprobs(str(there["decoded_token"]), _finite(there["logprob"]), top)


def _likeliest(pairs: Any) -> dict[str, float]:
    """Likeliest first. Two tokens may have the same text; the likelier stands for it."""
    top: dict[str, float] = {}
    for text, logprob in sorted(pairs, key=lambda pair: -pair[1]):
        top.setdefault(text, logprob)
    return top


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number) or number > _ROUNDING:
        raise ValueError(f"a log-probability of {number}")
    return number


def _unreadable(error: Exception) -> CallFailed:
    return CallFailed(
        FailureKind.MALFORMED, f"the server's log-probabilities can't be read ({error!r})", retryable=True
    )
