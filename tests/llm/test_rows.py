"""Reading lines in bulk: the fast path sees what the standard library sees, or leaves it to that."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.errors import DataError
from autointerp.llm import Entry, TokenLogprobs, Usage, segments
from autointerp.llm import rows as module
from autointerp.llm.entry import from_record, to_record
from autointerp.llm.rows import Row, read_rows
from autointerp.llm.segments import Block, encode
from tests.llm.entries import entry

PATH = Path("000001.jsonl")
ODD = st.text(st.characters(codec=None, categories=None), max_size=12) | st.sampled_from(
    ["\ud800", '"\\\n\u2028\r', ""]
)
LOGPROBS = st.none() | st.lists(
    st.builds(TokenLogprobs, ODD, st.floats(max_value=0, allow_nan=False), st.dictionaries(ODD, st.just(-1.5), max_size=2)),
    min_size=1, max_size=2,
)  # fmt: skip
ENTRIES = st.builds(
    lambda key, text, served, logprobs, money, usage: entry(
        key, text=text, served_model=served, logprobs=logprobs, money=money, usage=Usage(*usage)
    ),
    ODD, ODD, ODD, LOGPROBS, st.none() | st.floats(0, 1e6), st.tuples(*[st.integers(0, 2**63 - 1)] * 4),
)  # fmt: skip


def plain(row: Row) -> tuple[Any, ...]:
    usage = row.usage
    counts = (usage.input, usage.output, usage.cached, usage.written)
    return row.key, row.served_model, row.finish, row.time, row.money, row.prompt_chars, counts


@given(st.lists(ENTRIES, max_size=5), st.booleans())
def test_rows_are_what_was_written(entries: list[Entry], newline: bool) -> None:
    lines = [encode(to_record(one)).encode() + b"\n" for one in entries]
    if lines and not newline:
        lines[-1] = lines[-1][:-1]
    found = read_rows(PATH, Block(1, 100, b"".join(lines)))
    assert not found.torn
    assert found.lengths.tolist() == [len(line) for line in lines]
    assert found.offsets.tolist() == [100 + sum(map(len, lines[:at])) for at in range(len(lines))]
    for row, one in zip(found.rows, entries, strict=True):
        usage = (one.usage.input, one.usage.output, one.usage.cached, one.usage.written)
        assert plain(row) == (one.key, one.served_model, one.finish, one.time, one.money, one.prompt_chars, usage)


@given(ENTRIES)
def test_an_entry_is_read_back_as_it_was(one: Entry) -> None:
    assert from_record(json.loads(encode(to_record(one)))) == one


def test_only_odd_lines_leave_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = []

    def read_lines(path: Path, block: Block) -> Any:
        slow.append(block.number)
        return segments.read_lines(path, block)

    monkeypatch.setattr(module, "read_lines", read_lines)
    texts = ["plain", "\ud800 lone", 'quote " and \\ and \n', "é ⟨⟩ 漢 \U0001f600", "\udfff\ud800"]
    data = "".join(encode(to_record(entry("a", text=text))) + "\n" for text in texts).encode()
    assert len(read_rows(PATH, Block(1, 0, data)).rows) == len(texts)
    assert slow == [2, 5]


GOOD = encode(to_record(entry("a"))).encode() + b"\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"\n", "no JSON object"),
        (b"  \n", "no JSON object"),
        (GOOD[:-1] + GOOD, "no JSON object"),  # two objects
        (GOOD[:200] + b"\n" + GOOD[200:], "no JSON object"),
        (GOOD.replace(b'"sample":0', b'"sample":"0"'), r"Expected `int`, got `str` - at `\$.sample`"),
        (GOOD.replace(b'"usage":{"input":100,', b'"usage":{'), "missing required field `input`"),
        (GOOD.replace(b'"money":null', b'"money":"1"'), r"at `\$.money`"),
        (b"\0" * 50 + b"\n", "no JSON object"),
        (b"[" * 100_000 + b"\n", "no JSON object"),
    ],
)
def test_damage_is_named_by_its_line(line: bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"000001\.jsonl, line 12: .*{message}"):
        read_rows(PATH, Block(10, 0, GOOD * 2 + line + GOOD))


def test_lines_of_another_hand_are_read_too() -> None:
    """Spaces, carriage returns, other orders and unknown keys."""
    record = json.loads(GOOD)
    lines = [
        json.dumps({"new": [1], **record}) + " \r\n",
        json.dumps(dict(reversed(record.items())), indent=None) + "\n",
    ]
    found = read_rows(PATH, Block(1, 0, "".join(lines).encode()))
    assert [row.key for row in found.rows] == ["a", "a"]
    assert found.lengths.tolist() == [len(line) for line in lines]
