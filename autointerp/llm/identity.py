"""What makes two requests the same request, and so lets the journal answer the second one.

Identity is provider, model, the whole payload and the sample number. The base URL is not part of it: the same model
behind another address gives the same answers. Neither are purpose and template hash, which say why it was asked.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autointerp.hashing import hex_hash


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, and ASCII only, so that lone surrogates can be hashed too.

    Raises ValueError for NaN and infinities, which JSON does not have.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def payload_hash(payload: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical payload, 64 hexadecimal digits: comparable with other tools."""
    return hashlib.sha256(canonical_json(payload).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Identity:
    """`key`: the journal's. `payload_hash`: see `payload_hash`. `size`: characters of the canonical payload."""

    key: str
    payload_hash: str
    size: int


def identify(provider: str, model: str, payload: Mapping[str, Any], sample: int) -> Identity:
    """Both hashes of a request. The key is 32 hexadecimal digits of BLAKE2b over provider, model, payload and sample number."""
    text = canonical_json(payload)
    key = hex_hash(provider, model, text, sample, length=32)
    return Identity(key, hashlib.sha256(text.encode()).hexdigest(), len(text))


def request_key(provider: str, model: str, payload: Mapping[str, Any], sample: int) -> str:
    """The journal's key of a request."""
    return identify(provider, model, payload, sample).key
