"""A journal checked byte by byte: what is damaged, what was torn, what is there twice.

It does not stop at the first damage, and takes nothing from the index: each line is parsed by the standard library and
held against what the journal writes. The key of a line can't be computed again, since the payload is not in it; but one
question has one key and one key one question, which is checked over all lines. Memory: 40 bytes a line.
"""

import hashlib
import math
import os
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np

from autointerp.errors import DataError
from autointerp.llm.entry import ANSWER, DUPLICATE, Entry, from_record
from autointerp.llm.segment_folder import Listing, list_segments, need_folder
from autointerp.llm.segments import parse_line, read_blocks, split_lines

_FINISHES = (ANSWER, DUPLICATE, "length", "refusal", "empty", "other")
_KEY = re.compile(r"[0-9a-f]{32}")
_HASH = re.compile(r"[0-9a-f]{64}")
_KEPT = 1000  # problems in full; the rest is counted


@dataclass(slots=True)
class Verification:
    """What was found. `damage`, `torn` and `leftovers` are messages with file and line, the first thousand of each.

    `answers` are lines that can answer, `duplicates` those of them whose question an earlier line answers; `copies` of
    these are the same line again, byte for byte: a segment that was copied, not a question that was paid for twice.
    """

    segments: int = 0
    lines: int = 0
    bytes: int = 0
    answers: int = 0
    duplicates: int = 0
    copies: int = 0
    n_damaged: int = 0
    damage: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)

    def damaged(self, message: str) -> None:
        self.n_damaged += 1
        if len(self.damage) < _KEPT:
            self.damage.append(message)


@dataclass(slots=True)
class _Seen:
    """Of each line, in parallel: digests of key, question and bytes; whether it answers; file and line number."""

    digests: "array[int]" = field(default_factory=lambda: array("Q"))
    answers: bytearray = field(default_factory=bytearray)
    places: "array[int]" = field(default_factory=lambda: array("Q"))

    def add(self, entry: Entry, data: bytes, segment: int, number: int) -> None:
        question = (entry.provider, entry.model, entry.payload_hash, str(entry.sample))
        for of in (entry.key.encode(errors="surrogatepass"), "\0".join(question).encode(errors="surrogatepass"), data):
            self.digests.append(int.from_bytes(hashlib.blake2b(of, digest_size=8).digest(), "little"))
        self.answers.append(entry.finish == ANSWER)
        self.places.append(segment << 40 | number)


def verify(folder: Path) -> Verification:
    """Read every byte of the journal in `folder`. Takes no lock. Raises UserError if there is none."""
    need_folder(folder)
    found, seen = Verification(), _Seen()
    try:
        listing = list_segments(folder)
    except DataError as error:
        found.damaged(str(error))
        return found
    found.segments = len(listing.segments)
    found.leftovers += [f"{path}: replaced by a compaction; the next run removes it" for path in listing.leftovers]
    for segment, path in enumerate(listing.segments):
        _verify_segment(segment, path, found, seen, listing)
    _compare(listing, found, seen)
    return found


def _verify_segment(segment: int, path: Path, found: Verification, seen: _Seen, listing: Listing) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    lines = 0
    try:
        size = os.fstat(fd).st_size
        found.bytes += size
        for block in read_blocks(fd, size):
            for number, data in enumerate(split_lines(block.data), start=block.number):
                if _verify_line(f"{path}, line {number}", data, found, seen, segment << 40 | number):
                    lines += 1
    finally:
        os.close(fd)
    found.lines += lines
    if path in listing.headers and listing.headers[path].lines != lines:
        found.damaged(f"{path}: {lines:,} whole lines; a compaction wrote {listing.headers[path].lines:,}")


def _verify_line(where: str, data: bytes, found: Verification, seen: _Seen, place: int) -> bool:
    """Check one line; whether it is whole."""
    record = parse_line(data)
    if record is None:
        if data.endswith(b"\n"):
            found.damaged(f"{where}: no JSON object")
        else:
            found.torn.append(f"{where}: torn off after {len(data):,} bytes, and ignored")
        return False
    try:
        entry = from_record(record)
    except msgspec.ValidationError as error:
        found.damaged(f"{where}: {error}")
        return False
    for fault in _faults(entry):
        found.damaged(f"{where}: {fault}")
    found.answers += entry.finish == ANSWER
    seen.add(entry, data.rstrip(b"\n"), place >> 40, place & ((1 << 40) - 1))
    return True


def _faults(entry: Entry) -> Iterator[str]:
    """What no version writes."""
    if not _KEY.fullmatch(entry.key):
        yield f"the key is {entry.key[:80]!r}; expected 32 hexadecimal digits"
    if not _HASH.fullmatch(entry.payload_hash):
        yield f"the payload's hash is {entry.payload_hash[:80]!r}; expected 64 hexadecimal digits"
    if entry.finish not in _FINISHES:
        yield f"finish is {entry.finish[:80]!r}; expected one of {', '.join(_FINISHES)}"
    usage = entry.usage
    if min(usage.input, usage.output, usage.cached, usage.written, entry.prompt_chars, entry.sample) < 0:
        yield "a negative count"
    if entry.attempts < 1:
        yield f"{entry.attempts} attempts; expected one or more"
    for name, value in (("latency_s", entry.latency_s), ("money", entry.money)):
        if value is not None and not 0 <= value < math.inf:
            yield f"{name} is {value}; expected a number from 0 up"
    try:
        datetime.fromisoformat(entry.time)
    except ValueError:
        yield f"the time is {entry.time[:80]!r}; expected ISO 8601"


def _compare(listing: Listing, found: Verification, seen: _Seen) -> None:
    """Count second answers; one key must stand for one question, and one question have one key."""
    keys, questions, lines = np.array(seen.digests, dtype=np.uint64).reshape(-1, 3).T
    places = np.array(seen.places, dtype=np.uint64)
    for one, other, text in (
        (keys, questions, "this key stands for another question there"),
        (questions, keys, "this question has another key there"),
    ):
        order = np.argsort(one, kind="stable")
        same = one[order][1:] == one[order][:-1]
        for at in np.flatnonzero(same & (other[order][1:] != other[order][:-1])).tolist():
            first, second = (_where(listing, int(places[order[at + step]])) for step in (0, 1))
            found.damaged(f"{second} and {first}: {text}")
    answers = np.frombuffer(seen.answers, dtype=np.bool_)
    found.duplicates = int(answers.sum()) - len(np.unique(keys[answers]))
    found.copies = int(answers.sum()) - len(np.unique(lines[answers]))


def _where(listing: Listing, place: int) -> str:
    return f"{listing.segments[place >> 40]}, line {place & ((1 << 40) - 1)}"
