"""Stable hashes: the same value on every machine, Python version and run.

Python's own `hash` is salted per process and numpy has no hash of arrays, so the two mixers used for sampling live here.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

UInt64Array = NDArray[np.uint64]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def stable_hash(*parts: object) -> int:
    """A 64-bit hash of the parts' text. Parts are length-prefixed, so ("ab", "c") and ("a", "bc") differ."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        text = str(part).encode()
        digest.update(len(text).to_bytes(8, "little"))
        digest.update(text)
    return int.from_bytes(digest.digest(), "little")


def hex_hash(*parts: object, length: int = 16) -> str:
    """A hexadecimal hash of the parts' text, for ids that people see."""
    digest = hashlib.blake2b(digest_size=32)
    for part in parts:
        text = str(part).encode()
        digest.update(len(text).to_bytes(8, "little"))
        digest.update(text)
    return digest.hexdigest()[:length]


def mix(values: UInt64Array) -> UInt64Array:
    """The splitmix64 finaliser (Steele, Lea and Flood, 2014): a bijection of 64-bit integers that scatters them."""
    with np.errstate(over="ignore"):
        mixed = values + _GAMMA
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
        return mixed ^ (mixed >> np.uint64(31))


def sample_key(seed: int, feature: UInt64Array | int, window: UInt64Array) -> UInt64Array:
    """hash(seed, feature, window): the random order by which bottom-k samples are drawn. Arrays broadcast."""
    salt = mix(np.asarray(feature, dtype=np.uint64) ^ mix(np.asarray(seed, dtype=np.uint64)))
    return mix(np.asarray(window, dtype=np.uint64) ^ salt)
