"""Answers that fit a JSON schema, token by token, by the library llguidance (the extra `local`)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autointerp.errors import UserError
from autointerp.llm.local.jobs import Unanswerable
from autointerp.llm.provider import CallFailed
from autointerp.llm.types import FailureKind


class Schemas:
    """Makes a `Matcher` of a schema. `vocabulary`: columns of the logits. Raises UserError for a tokenizer in Python."""

    def __init__(self, tokenizer: Any, vocabulary: int, stops: Sequence[int]) -> None:
        from llguidance.hf import from_tokenizer

        try:
            self._tokenizer = from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=list(stops))
        except ValueError as error:
            raise UserError(
                f"answers cannot be held to a JSON schema with this model's tokenizer ({_first_line(str(error))}); expected a "
                "tokenizer.json that llguidance can read; choose another model"
            ) from error
        self._vocabulary = vocabulary

    def matcher(self, schema: Mapping[str, Any]) -> "Matcher":
        """Raises Unanswerable for a schema that the library does not know how to follow."""
        from llguidance import LLMatcher

        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults={"whitespace_flexible": False})
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            reason = f"the JSON schema cannot be followed: {_first_line(matcher.get_error())}"
            raise Unanswerable(CallFailed(FailureKind.REJECTED, reason))
        return Matcher(matcher, self._vocabulary)


class Matcher:
    """Where one answer stands in its schema."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher = matcher
        self._bits = np.zeros((1, (vocabulary + 31) // 32), dtype=np.int32)
        self._vocabulary = vocabulary

    @property
    def complete(self) -> bool:
        """Nothing can follow."""
        return bool(self._matcher.is_stopped())

    def forbidden(self) -> Tensor:
        """True for every token that cannot come next, [vocabulary]."""
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, self._bits)
        bits = np.unpackbits(self._bits.view(np.uint8), bitorder="little")[: self._vocabulary]
        return torch.from_numpy(bits == 0)

    def take(self, token: int) -> None:
        """Go on by a token. Raises Unanswerable if the schema grew too complex to follow."""
        if not self._matcher.consume_token(token) or self._matcher.is_error():
            reason = f"the JSON schema cannot be followed further: {_first_line(self._matcher.get_error())}"
            raise Unanswerable(CallFailed(FailureKind.SERVER_ERROR, reason))


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[0][:200]
