"""What makes two requests the same request, and so lets the journal answer the second one.

Identity is provider, model, the whole payload and the sample number. The base URL is not part of it: the same model
behind another address gives the same answers. Neither are purpose and template hash, which say why it was asked.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from autointerp.hashing import hex_hash


class Identity(NamedTuple):
    """Of a request: the journal's key and the hash of its payload."""

    key: str
    payload_hash: str


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, and ASCII only, so that lone surrogates can be hashed too.

    Raises ValueError for NaN and infinities, which JSON does not have.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def payload_hash(payload: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical payload, 64 hexadecimal digits: comparable with other tools."""
    return _sha256(canonical_json(payload))


def request_key(provider: str, model: str, payload: Mapping[str, Any], sample: int) -> str:
    """The journal's key: 32 hexadecimal digits of BLAKE2b over provider, model, canonical payload and sample number."""
    return _key(provider, model, canonical_json(payload), sample)


def identify(provider: str, model: str, payload: Mapping[str, Any], sample: int) -> Identity:
    """`request_key` and `payload_hash` at once: making the payload canonical takes longer than hashing it."""
    text = canonical_json(payload)
    return Identity(_key(provider, model, text, sample), _sha256(text))


def _key(provider: str, model: str, text: str, sample: int) -> str:
    return hex_hash(provider, model, text, sample, length=32)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
